"""Products with matrices, for `kernels.autotune` to try: each format by itself."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.kernels import matvec, quantized
from qwen35_mlx.kernels.autotune import Operation, Outputs
from qwen35_mlx.kernels.gpu_kernel import SIMD_WIDTH
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import QuantizedWeight
from qwen35_mlx.kernels.row_format import Matrix, RowFormat, matrix_shape
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, REFERENCE
from qwen35_mlx.model import trials
from qwen35_mlx.model.delta_net import GatedDeltaNet
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.linear import FusedLinear, Linear
from qwen35_mlx.model.moe import SparseMoE
from qwen35_mlx.model.network import Network


@dataclass(frozen=True, slots=True)
class _Use:
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
        return self.norm is not None, self.residual, self.glu

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
    found = [_decode(network, uses) for uses in _uses_by_format(network).values()]
    packed = [
        use
        for layer in network.layers
        for use in _uses_of_layer(layer)
        if isinstance(use.linear.weight, QuantizedWeight)
    ]
    if packed:
        found.append(_prefill(network, max(packed, key=lambda use: use.nbytes)))
    return found


def _uses_by_format(network: Network) -> dict[str, list[_Use]]:
    uses = [use for layer in network.layers for use in _uses_of_layer(layer)]
    uses += _uses([network.lm_head])
    if network.mtp is not None:
        uses += [*_uses([network.mtp.fc]), *_uses_of_layer(network.mtp.layer)]
    found: dict[str, list[_Use]] = defaultdict(list)
    for use in uses:
        x = mx.zeros((1, use.linear.width), network.dtype)
        if matvec.supports(x, use.linear.weight):
            found[use.linear.packing].append(use)
    return found


def _uses_of_layer(layer: Layer) -> list[_Use]:
    """Every matrix of a layer but the routed experts', as a pass over few tokens uses it."""
    mixer, mlp = layer.mixer, layer.mlp
    if isinstance(mixer, GatedDeltaNet):
        first, last = mixer.in_proj, mixer.out_proj
    else:
        first, last = mixer.qkv_proj, mixer.o_proj
    found = _uses(first.joined_matrices, layer.mixer_norm) + _uses([last], residual=True)
    if isinstance(mlp, SparseMoE):
        shared = mlp.shared_expert
        found += _uses(mlp.router.joined_matrices, layer.mlp_norm)
        return found + _uses_of_glu(shared.gate_up, None) + _uses([shared.down_proj])
    return found + _uses_of_glu(mlp.gate_up, layer.mlp_norm) + _uses([mlp.down_proj], residual=True)


def _uses_of_glu(gate_up: FusedLinear, norm: RMSNorm | None) -> list[_Use]:
    return _uses(gate_up.joined_matrices, norm, glu=gate_up.single is not None)


def _uses(
    matrices: Iterable[Linear],
    norm: RMSNorm | None = None,
    *,
    residual: bool = False,
    glu: bool = False,
) -> list[_Use]:
    return [_Use(linear, norm, residual, glu) for linear in matrices]


def _decode(network: Network, uses: list[_Use]) -> Operation:
    """Checked on the largest matrix of each kind of use and on one of two rounds, from one token to
    `MAX_DECODE_TOKENS`; timed on matrices of one size, that of most bytes.
    """
    largest: dict[tuple[bool, bool, bool], _Use] = {}
    same: dict[tuple[object, ...], list[_Use]] = defaultdict(list)
    for use in uses:
        same[use.size, use.kind].append(use)
        if use.kind not in largest or use.nbytes > largest[use.kind].nbytes:
            largest[use.kind] = use
    heaviest = max(same.values(), key=lambda uses: sum(use.nbytes for use in uses))
    checked = [*largest.values(), _two_rounds(network, uses[0].linear.weight)]
    return Operation(
        "matmul_decode",
        _shape(network, heaviest[0]),
        [matvec.KERNEL],
        [use.call(network, n) for n in (1, 2, 4, MAX_DECODE_TOKENS) for use in checked],
        # A single matrix would stay in the GPU's cache, unlike those of a whole network.
        trials.timed_together(
            [use.call(network, 1) for use in heaviest[: trials.TIMED_CALLS]],
        ),
        True,
        trials.tolerance(network),
        heaviest[0].linear.packing,
    )


def _two_rounds(network: Network, like: Matrix) -> _Use:
    """A matrix of a few rows that are too long for `matvec` to read in one round."""
    row_format = RowFormat.of(like)
    assert row_format is not None
    round_values = SIMD_WIDTH * quantized.MAX_SIMD_GROUPS * quantized.chunk_values(row_format.bits)
    width = round_values + max(row_format.group_size, 64)
    rows = trials.noise(network, 24, width)
    if isinstance(like, QuantizedWeight):
        q = like.quantization
        if like.biases is not None:
            rows = rows.astype(like.scales.dtype)
        weight = QuantizedWeight.quantized(rows, q)
    else:
        weight = rows.astype(like.dtype)
    norm = RMSNorm(trials.noise(network, width), 1e-6)
    return _Use(Linear(weight, network.selection), norm, False, False)


def _prefill(network: Network, use: _Use) -> Operation:
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


def _shape(network: Network, use: _Use) -> str:
    out, width = use.size
    return f"{out} x {width}, {use.linear.packing}, {network.dtype}"
