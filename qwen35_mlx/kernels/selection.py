"""Which variant of each operation a network runs.

An operation has a reference in plain MLX, and variants that may be faster. Which of them is right
and fastest depends on the machine: `autotune` finds out there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TypeVar

from qwen35_mlx.kernels.gpu_kernel import KernelError

Result = TypeVar("Result")

REFERENCE = "reference"
# Tokens of a prompt that a GPU reads at once, unless another number is faster.
PREFILL_CHUNK = 2048
# Up to this many tokens the decode variants run: one token, or a few speculated ones.
MAX_DECODE_TOKENS = 8


@dataclass(slots=True)
class KernelSelection:
    """The variant of each operation, by name; shared by all layers of a network.

    Operations on matrices in kernels of this package have one for each format, since a network may
    mix formats, of which the kernels read some. A format without an entry was not
    checked: the reference computes it.

    Attributes:
        delta_decode: a Gated DeltaNet layer between its projections, for a few tokens; see
            `delta_net.DECODE_VARIANTS`.
        delta_prefill: the same for many tokens; see `delta_net.PREFILL_VARIANTS`.
        experts_decode: a sparse MoE layer for a few tokens, by `SparseMoE.packing`; see `experts`.
        experts_prefill: the same for many tokens, grouped by their experts; see `model.moe`.
        matmul_prefill: many tokens times a quantised matrix; see `quantized.PREFILL_VARIANTS`.
        qk_norm_rope: norm and rotation of queries and keys, for a few tokens; see `qk_norm_rope`.
        decode_attention: attention of a few tokens, with its gate; see `decode_attention`.
        decode_attention_8bit: the same, where keys and values are quantised to 8 bits.
        prefill_attention: causal attention of many tokens; see `model.attention`.
        matmul_decode: a few tokens times a matrix, with the norm before it and the residual sum
            after it, by `Linear.packing`, or by `Linear.place` where matrices of one size have a
            choice of their own; see `matvec`.
        prefill_chunk: tokens of a prompt that are read at once, as digits; the reference is
            `PREFILL_CHUNK`.
        compiled: whether layers run through `mx.compile` for a few tokens, which replays a recorded
            graph instead of building it in Python.
        on_failure: called with a line for the user when a kernel fails in use and its reference
            takes over; None lets the error pass.
        fallbacks: how often that has happened.
    """

    delta_decode: str = REFERENCE
    delta_prefill: str = REFERENCE
    experts_decode: dict[str, str] = field(default_factory=dict)
    experts_prefill: str = REFERENCE
    matmul_prefill: str = REFERENCE
    qk_norm_rope: str = REFERENCE
    decode_attention: str = REFERENCE
    decode_attention_8bit: str = REFERENCE
    prefill_attention: str = REFERENCE
    matmul_decode: dict[str, str] = field(default_factory=dict)
    prefill_chunk: str = REFERENCE
    compiled: bool = False
    on_failure: Callable[[str], None] | None = None
    fallbacks: int = 0

    @property
    def chunk_tokens(self) -> int:
        """`prefill_chunk` as a number."""
        return PREFILL_CHUNK if self.prefill_chunk == REFERENCE else int(self.prefill_chunk)

    @property
    def variants(self) -> dict[tuple[str, str], str]:
        """The variant of each operation, by the operation and the packing that `select` takes."""
        found: dict[tuple[str, str], str] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, dict):
                found |= {(one.name, packing): variant for packing, variant in value.items()}
            elif isinstance(value, str):
                found[one.name, ""] = value
        return found

    def select(self, operation: str, variant: str, packing: str = "") -> None:
        """Select a variant of an operation, for some matrices if it has a variant for each kind."""
        if packing:
            getattr(self, operation)[packing] = variant
        else:
            setattr(self, operation, variant)

    def unselect(self, operation: str, packing: str = "") -> None:
        """Undo `select`: what holds for some matrices is then what holds for more of them."""
        if packing:
            getattr(self, operation).pop(packing, None)
        else:
            setattr(self, operation, REFERENCE)

    def attempt(
        self,
        operation: str,
        kernel: Callable[[], Result],
        reference: Callable[[], Result],
        packing: str = "",
    ) -> Result:
        """The result of a selected kernel; of its reference if the kernel does not run.

        A check covers every kind of variant, not every size, so a kernel may still fail at its
        first launch in a session. The reference is then selected, and computes the same from the
        same inputs.

        Args:
            operation, packing: as for `select`.

        Raises:
            KernelError: the kernel does not run, and `on_failure` is None.
        """
        try:
            return kernel()
        except KernelError as error:
            if self.on_failure is None:
                raise
            self.select(operation, REFERENCE, packing)
            self.fallbacks += 1
            self.on_failure(f"{error}; until then plain MLX takes its place, which is slower")
            return reference()
