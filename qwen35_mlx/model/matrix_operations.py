"""Products with matrices, for `kernels.autotune` to try: each format by itself."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels import matvec, quantized
from qwen35_mlx.kernels.autotune import Operation, Outputs
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import QuantizedWeight
from qwen35_mlx.kernels.row_format import RowFormat, matrix_shape
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, REFERENCE
from qwen35_mlx.model import trials
from qwen35_mlx.model.delta_net import GatedDeltaNet
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.linear import FusedLinear, Linear
from qwen35_mlx.model.moe import SparseMoE
from qwen35_mlx.model.network import Network

# Matrices of a size have a choice of their own if they have this share of their format's bytes.
MIN_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Use:
    """A matrix, and what is computed with its product.

    Attributes:
        norm, residual, glu: as for `matvec.reference`; residual says whether there is one.
    """

    linear: Linear
    norm: RMSNorm | None
    residual: bool
    glu: bool

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """Whether the kernel has a norm, a residual, a gate; before a rotation it has no norm."""
        return self.norm is not None and self.linear.rotation is None, self.residual, self.glu

    @property
    def size(self) -> tuple[int, int]:
        """Outputs and inputs of the matrix."""
        return matrix_shape(self.linear.weight)[0], self.linear.width

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.linear.arrays)

    def call(self, network: Network, tokens: int) -> Callable[[], Outputs]:
        out, width = self.size
        x = trials.noise(network, 1, tokens, width)
        residual = trials.noise(network, 1, tokens, out) if self.residual else None
        return lambda: [self.linear(x, self.norm, residual, glu=self.glu)]


def matrix_operations(network: Network) -> list[Operation]:
    """`matmul_decode` of each format that its kernel reads, and `matmul_prefill` if matrices are
    packed.
    """
    by_format = _uses_by_format(network).values()
    found = [operation for uses in by_format for operation in _decode(network, uses)]
    packed = [
        use
        for layer in network.layers
        for use in _uses_of_layer(network, layer)
        if isinstance(use.linear.weight, QuantizedWeight)
    ]
    if packed:
        found.append(_prefill(network, max(packed, key=lambda use: use.nbytes)))
    return found


def _uses_by_format(network: Network) -> dict[str, list[Use]]:
    uses = [use for layer in network.layers for use in _uses_of_layer(network, layer)]
    uses += _uses([network.lm_head])
    if network.mtp is not None:
        uses += [*_uses([network.mtp.fc]), *_uses_of_layer(network, network.mtp.layer)]
    found: dict[str, list[Use]] = defaultdict(list)
    for use in uses:
        x = mx.zeros((1, use.linear.width), network.dtype)
        if matvec.supports(x, use.linear.weight):
            found[use.linear.packing].append(use)
    return found


def _uses_of_layer(network: Network, layer: Layer) -> list[Use]:
    """Every matrix of a layer but the routed experts', as a pass over few tokens uses it."""
    mixer, mlp = layer.mixer, layer.mlp
    adds = network.parallel.of_layer.adds_residual
    if isinstance(mixer, GatedDeltaNet):
        first, last = mixer.in_proj, mixer.out_proj
    else:
        first, last = mixer.qkv_proj, mixer.o_proj
    found = _uses_of_joined(first, layer.mixer_norm) + _uses([last], residual=adds)
    if isinstance(mlp, SparseMoE):
        shared = mlp.shared_expert
        found += _uses_of_joined(mlp.router, layer.mlp_norm) + _uses(mlp.router.joined_matrices)
        return found + _uses_of_glu(shared.gate_up, None) + _uses([shared.down_proj])
    return found + _uses_of_glu(mlp.gate_up, layer.mlp_norm) + _uses([mlp.down_proj], residual=adds)


def _uses_of_joined(fused: FusedLinear, norm: RMSNorm) -> list[Use]:
    """With the norm; also without it where one norm may serve several matrices."""
    found = _uses(fused.joined_matrices, norm)
    return found if fused.single is not None else found + _uses(fused.joined_matrices)


def _uses_of_glu(gate_up: FusedLinear, norm: RMSNorm | None) -> list[Use]:
    if gate_up.single is None:
        return _uses(gate_up.joined_matrices, norm) + _uses(gate_up.joined_matrices)
    return _uses(gate_up.joined_matrices, norm, glu=True)


def _uses(
    matrices: Iterable[Linear],
    norm: RMSNorm | None = None,
    *,
    residual: bool = False,
    glu: bool = False,
) -> list[Use]:
    return [Use(linear, norm, residual, glu) for linear in matrices]


def checked_passes(uses: Sequence[Use], dtype: mx.Dtype) -> list[tuple[Use, int]]:
    """Matrices and numbers of tokens that together take every branch of the decode kernels.

    Only branches that a pass over up to `MAX_DECODE_TOKENS` tokens takes with one of these
    matrices. What is compiled differs by its sizes too, but not in what is computed.

    Args:
        uses: of one format.
        dtype: of the activations.
    """
    few = range(1, MAX_DECODE_TOKENS + 1)
    # Small matrices are quick to check, so the first of several that take a branch is taken.
    distinct = {(use.size, use.kind): use for use in uses}.values()
    ascending = sorted(distinct, key=lambda use: use.nbytes)
    passes = {(i, n): _branches(use, n, dtype) for i, use in enumerate(ascending) for n in few}
    left = set[object]().union(*passes.values())
    found: list[tuple[Use, int]] = []
    while left:
        index, tokens = max(passes, key=lambda one: len(passes[one] & left))
        left -= passes[index, tokens]
        found.append((ascending[index], tokens))
    return found


def _branches(use: Use, tokens: int, dtype: mx.Dtype) -> set[object]:
    """The branches that the decode kernels take, each by all that decides on it."""
    row_format = RowFormat.of(use.linear.weight)
    assert row_format is not None
    bits = row_format.bits
    tiling = matvec.tiling_for(tokens, use.linear.width, bits, dtype.size)
    single, several = tokens == 1, quantized.rounds_for(use.linear.width, bits) > 1
    normed, residual, glu = use.kind
    even, in_slabs = tokens % tiling.sets == 0, 4 * tiling.slab < quantized.chunk_values(bits)
    return {
        ("products", single, tiling, several),
        ("norm", normed, single, tiling.sets, even, in_slabs, several),
        ("outputs", glu, single, tiling.rows, tiling.sets),
        ("sum", residual, single),
        ("nothing staged", normed, glu, single),
    }


def _decode(network: Network, uses: list[Use]) -> list[Operation]:
    """That of a format, checked on `checked_passes` and timed on the matrices of the size of most
    bytes; then those of its other sizes, which are timed by themselves.
    """
    by_size: dict[tuple[int, int], list[Use]] = defaultdict(list)
    for use in uses:
        by_size[use.size].append(use)
    nbytes = {size: sum(use.nbytes for use in same) for size, same in by_size.items()}
    heaviest = by_size.pop(max(nbytes, key=nbytes.__getitem__))
    # Branches depend on the widths of all matrices.
    widths = " ".join(str(width) for width in sorted({use.linear.width for use in uses}))
    of_format = Operation(
        "matmul_decode",
        f"{_shape(network, heaviest[0])}, rows of {widths}",
        matvec.VARIANTS,
        [use.call(network, n) for use, n in checked_passes(uses, network.dtype)],
        _timed(network, heaviest),
        True,
        trials.tolerance(network),
        heaviest[0].linear.packing,
    )
    few = MIN_SHARE * sum(nbytes.values())
    return [
        of_format,
        *(
            Operation(
                "matmul_decode",
                _shape(network, same[0]),
                matvec.VARIANTS,
                [],
                _timed(network, same),
                True,
                trials.tolerance(network),
                same[0].linear.place,
                of_format.key,
            )
            for size, same in by_size.items()
            if nbytes[size] >= few
        ),
    ]


def _timed(network: Network, uses: list[Use]) -> list[Callable[[], Outputs]]:
    """Calls for one token. A single matrix might stay in the GPU's cache, unlike a network's."""
    return trials.timed_together([use.call(network, 1) for use in uses[: trials.TIMED_CALLS]])


def _prefill(network: Network, use: Use) -> Operation:
    x = trials.noise(network, 1, trials.PROMPT_TOKENS, use.linear.width)
    return Operation(
        "matmul_prefill",
        _shape(network, use),
        [name for name in quantized.PREFILL_VARIANTS if name != REFERENCE],
        [lambda: [use.linear(x[:, : quantized.MIN_UNPACKED_ROWS])]],
        [lambda: [use.linear(x)]],
        False,
        trials.tolerance(network),
    )


def _shape(network: Network, use: Use) -> str:
    return f"{use.linear.place}, {network.dtype}"
