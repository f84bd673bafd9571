"""The operations of a network that have several variants, for `kernels.autotune` to try."""

from collections.abc import Callable
from functools import partial

import mlx.core as mx

from qwen35_mlx.kernels import (
    decode_attention,
    delta_net,
    experts,
    gpu_kernel,
    matvec,
    qk_norm_rope,
    quantized,
)
from qwen35_mlx.kernels.autotune import Operation, Outputs, tune
from qwen35_mlx.kernels.gpu_kernel import SIMD_WIDTH
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, REFERENCE
from qwen35_mlx.model import attention
from qwen35_mlx.model.attention import Attention
from qwen35_mlx.model.cache import TAIL_ROWS
from qwen35_mlx.model.delta_net import GatedDeltaNet
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.linear import FusedLinear, Linear
from qwen35_mlx.model.memory import unpacked_expert_bytes
from qwen35_mlx.model.moe import BLOCKS, BLOCKS_FROM, SparseMoE
from qwen35_mlx.model.network import Network

# Tokens of a timed prefill.
PROMPT_TOKENS = 2048
# Keys of a timed attention: few enough for a small machine's memory.
CONTEXT_TOKENS = 8192
# Calls of a decode operation that are timed together.
TIMED_CALLS = 16


def select_kernels(network: Network, notice: Callable[[str], None]) -> None:
    """Select the variants of a network's operations for this machine, and full float32 matmuls.

    Args:
        notice: called with a line for each kernel that cannot be used here.
    """
    gpu_kernel.disable_tf32()
    if gpu_kernel.backend():
        tune(operations(network), network.selection, notice)
    elif not gpu_kernel.kernels_disabled() and network.dtype == mx.float32:
        # On a CPU MLX multiplies by packed matrices one element at a time, and by plain ones
        # through a BLAS, which is never slower and may be much faster.
        network.selection.matmul_prefill = quantized.UNPACKED
        if unpacked_expert_bytes(network.config, network.dtype.size):
            network.selection.experts_prefill = quantized.UNPACKED


def operations(network: Network) -> list[Operation]:
    """The operations of the first layer of each kind, with its own weights."""
    found = _decode_matmul(network)
    delta_nets = [layer.mixer for layer in network.layers if isinstance(layer.mixer, GatedDeltaNet)]
    if delta_nets:
        found += _delta_net(network, delta_nets[0])
    attention_mixers = [
        layer.mixer for layer in network.layers if isinstance(layer.mixer, Attention)
    ]
    if attention_mixers:
        found += [
            _qk_norm_rope(network, attention_mixers[0]),
            *_decode_attention(network, attention_mixers[0]),
            _prefill_attention(network, attention_mixers[0]),
        ]
    layer = network.layers[0]
    if isinstance(layer.mlp, SparseMoE):
        found += _experts(network, layer.mlp, layer.mlp_norm)
    return found


def _noise(network: Network, *shape: int) -> mx.array:
    x = mx.random.normal(shape, key=mx.random.key(7)).astype(network.dtype)
    mx.eval(x)
    return x


def _tolerance(network: Network) -> float:
    return 1e-4 if network.dtype == mx.float32 else 2e-2


def _decode_matmul(network: Network) -> list[Operation]:
    """Checked on the first layer, the output head and a matrix of two rounds, from one token to
    `MAX_DECODE_TOKENS`; timed on the first matrix of every layer.
    """
    layer = network.layers[0]
    single, x = _projections(layer)[0].single, _noise(network, 1, 1, network.config.hidden_size)
    if single is None or not isinstance(single.weight, QuantizedWeight):
        return []
    if not matvec.supports(x, single.weight):
        return []
    long = _two_rounds(network, single.weight.quantization)
    few = [_matmul_check(network, layer, single, long, n) for n in (1, 2, 4, MAX_DECODE_TOKENS)]

    def input_projection(layer: Layer) -> Callable[[], Outputs]:
        return lambda: [_projections(layer)[0].joined(x, layer.mixer_norm)]

    return [
        Operation(
            "matmul_decode",
            _matrix_shape(network, single, single.weight.quantization),
            [matvec.KERNEL],
            [call for calls in few for call in calls],
            # A single matrix would stay in the GPU's cache, unlike those of a whole network.
            [input_projection(layer) for layer in network.layers[:TIMED_CALLS]],
            True,
            _tolerance(network),
        )
    ]


def _matmul_check(
    network: Network, layer: Layer, first: Linear, long: Linear, tokens: int
) -> list[Callable[[], Outputs]]:
    """Every use of `matvec` in a layer, the head, and `long`."""
    _, last = _projections(layer)
    block = layer.mlp.shared_expert if isinstance(layer.mlp, SparseMoE) else layer.mlp
    x = _noise(network, 1, tokens, network.config.hidden_size)
    inner, wide = (_noise(network, 1, tokens, linear.width) for linear in (last, long))
    norm = RMSNorm(wide[0, 0], layer.mixer_norm.eps)
    return [
        lambda: [first(x, layer.mixer_norm)],
        lambda: [last(inner, residual=x)],
        lambda: [block.gate_up.glu(x, layer.mlp_norm)],
        lambda: [network.logits(x)],
        lambda: [long(wide, norm)],
    ]


def _two_rounds(network: Network, quantization: Quantization) -> Linear:
    """A matrix of a few rows that are too long for `matvec` to read in one round."""
    q = quantization
    width = SIMD_WIDTH * quantized.MAX_SIMD_GROUPS * 128 // q.bits + q.group_size
    packed = mx.quantize(_noise(network, 24, width), q.group_size, q.bits)
    return Linear(QuantizedWeight(*packed, q), network.selection)


def _projections(layer: Layer) -> tuple[FusedLinear, Linear]:
    """The input and output projections of a layer's mixer."""
    mixer = layer.mixer
    if isinstance(mixer, GatedDeltaNet):
        return mixer.in_proj, mixer.out_proj
    return mixer.qkv_proj, mixer.o_proj


def _matrix_shape(network: Network, matrix: Linear, quantization: Quantization) -> str:
    out = matrix.arrays[0].shape[0]
    return f"{out} x {matrix.width}, {_packing(quantization)}, {network.dtype}"


def _packing(quantization: Quantization) -> str:
    q = quantization
    return f"{q.bits}-bit {q.mode} in groups of {q.group_size}"


def _delta_net(network: Network, mixer: GatedDeltaNet) -> list[Operation]:
    layer, dtype = mixer.parameters, network.dtype
    width = layer.channels + layer.value_dim + 2 * layer.value_heads

    def call(batch: int, tokens: int) -> Callable[[], Outputs]:
        projected = _noise(network, batch, tokens, width)
        conv, state = layer.empty(batch, dtype)
        conv = _noise(network, *conv.shape)
        state = _noise(network, *state.shape).astype(mx.float32)
        return partial(delta_net.mix, projected, conv, state, layer, network.selection)

    sizes = f"{layer.key_heads}/{layer.value_heads} heads of {layer.key_head_dim}"
    shape = f"{sizes}/{layer.value_head_dim}, {dtype}"
    prompts = [
        name for name, tiling in delta_net.PREFILL_VARIANTS.items() if tiling.supports(layer)
    ]
    if prompts and gpu_kernel.backend() == "metal" and hasattr(mx.fast, "gated_delta_update"):
        prompts.append(delta_net.MLX_RULE)
    few = MAX_DECODE_TOKENS
    found = [
        Operation(
            "delta_decode",
            shape,
            [name for name, tiling in delta_net.DECODE_VARIANTS.items() if tiling.supports(layer)],
            [call(1, 1), call(2, 3), call(1, few), call(2, few)],
            [call(1, 1)] * TIMED_CALLS,
            True,
            _tolerance(network),
        ),
        Operation(
            "delta_prefill",
            shape,
            prompts,
            [call(1, few + 1), call(2, 5 * few + 3), call(2, 2 * few)],
            [call(1, PROMPT_TOKENS)],
            False,
            _tolerance(network),
        ),
    ]
    single = mixer.in_proj.single
    if single is not None and isinstance(single.weight, QuantizedWeight):
        x = _noise(network, 1, PROMPT_TOKENS, network.config.hidden_size)
        found.append(
            Operation(
                "matmul_prefill",
                _matrix_shape(network, single, single.weight.quantization),
                [name for name in quantized.PREFILL_VARIANTS if name != REFERENCE],
                [lambda: [single(x[:, : quantized.MIN_UNPACKED_ROWS])]],
                [lambda: [single(x)]],
                False,
                _tolerance(network),
            )
        )
    return found


def _qk_norm_rope(network: Network, mixer: Attention) -> Operation:
    layer, few = mixer.parameters, MAX_DECODE_TOKENS
    width = 2 * (layer.heads + layer.kv_heads) * layer.head_dim

    def call(batch: int, tokens: int, position: int) -> Callable[[], Outputs]:
        projected = _noise(network, batch, tokens, width)
        offset = mx.array(position, mx.int32)
        return lambda: qk_norm_rope.qk_norm_rope(projected, offset, layer, network.selection)

    return Operation(
        "qk_norm_rope",
        f"{layer.heads}/{layer.kv_heads} heads of {layer.head_dim}, {layer.rope.dims} rotated, "
        f"{network.dtype}",
        [qk_norm_rope.KERNEL],
        [call(1, 1, 0), call(2, 3, 5), call(1, 1, 300), call(1, few, 1000)],
        [call(1, 1, 1000)] * TIMED_CALLS,
        True,
        # On Metal MLX uses the fast sines, good to 2 ** -13, which lose more at far positions.
        max(_tolerance(network), 1e-3),
    )


def _decode_attention(network: Network, mixer: Attention) -> list[Operation]:
    heads, kv_heads, dim = mixer.heads, mixer.kv_heads, mixer.head_dim
    reference = mx.compile(decode_attention.reference)  # as layers compile its gate

    def call(tokens: int, length: int) -> Callable[[], Outputs]:
        q, gate = _noise(network, 1, heads, tokens, dim), _noise(network, 1, tokens, heads, dim)
        k = _noise(network, 1, kv_heads, length + 3, dim)
        k, v = k[:, :, :length], k[:, :, 3:]
        buffered = max(length - TAIL_ROWS, 1)
        rows, tail = zip(*(mx.split(x, [buffered], axis=2) for x in (k, v)), strict=True)
        scale = dim**-0.5

        def run() -> Outputs:
            if network.selection.decode_attention == decode_attention.KERNEL:
                return [decode_attention.kernel(q, rows, tail, gate, scale)]
            return [reference(q, k, v, gate, scale)]

        return run

    q = _noise(network, 1, heads, 1, dim)
    if not decode_attention.supports(q, q[:, :kv_heads]):
        return []
    return [
        Operation(
            "decode_attention",
            f"{heads}/{kv_heads} heads of {dim}, {network.dtype}",
            [decode_attention.KERNEL],
            [call(1, 2), call(1, 37), call(1, 300), call(2, 33), call(4, 130), call(7, 70)],
            [call(1, CONTEXT_TOKENS)] * TIMED_CALLS,
            False,
            _tolerance(network),
        )
    ]


def _prefill_attention(network: Network, mixer: Attention) -> Operation:
    few = attention.FEW_QUERIES

    def draw(batch: int, tokens: int, length: int) -> tuple[mx.array, mx.array, mx.array]:
        q = _noise(network, batch, mixer.heads, tokens, mixer.head_dim)
        k = _noise(network, batch, mixer.kv_heads, length, mixer.head_dim)
        return q, k, k[..., ::-1]

    def call(batch: int, tokens: int, length: int) -> Callable[[], Outputs]:
        qkv = draw(batch, tokens, length)
        scale = mixer.head_dim**-0.5
        return lambda: [attention.causal_attention(*qkv, scale, network.selection)]

    variants = [attention.FUSED]
    try:
        # Never evaluated: MLX raises while it builds the graph.
        attention.fused_attention(*draw(1, PROMPT_TOKENS, PROMPT_TOKENS), 1.0)
    except ValueError:
        variants = []  # MLX has no such kernel here, which needs no notice
    return Operation(
        "prefill_attention",
        f"{mixer.heads}/{mixer.kv_heads} heads of {mixer.head_dim}, {network.dtype}",
        variants,
        [call(1, few + 1, few + 1), call(1, 33, 101), call(2, 2 * few, 2 * few + 3)],
        [call(1, PROMPT_TOKENS, CONTEXT_TOKENS)],
        False,
        _tolerance(network),
    )


def _experts(network: Network, block: SparseMoE, norm: RMSNorm) -> list[Operation]:
    config, dtype = network.config, network.dtype
    x = _noise(network, 1, PROMPT_TOKENS, config.hidden_size)
    residual = x[:, ::-1]
    weight = block.down_proj.weight
    packing = "plain"
    if isinstance(weight, QuantizedWeight):
        packing = _packing(weight.quantization)
    shape = (
        f"{config.num_experts_per_tok} of {config.num_experts} experts, {config.hidden_size} x "
        f"{config.moe_intermediate_size}, {packing}, {dtype}"
    )

    def call(tokens: int) -> Callable[[], Outputs]:
        return lambda: [block(x[:, :tokens], norm, residual[:, :tokens])]

    found: list[Operation] = []
    if block.packed is not None:
        few = MAX_DECODE_TOKENS
        found.append(
            Operation(
                "experts_decode",
                shape,
                [experts.KERNEL],
                [call(1), call(3), call(few)],
                [call(1)] * TIMED_CALLS,
                True,
                _tolerance(network),
            )
        )
    enough = -(-BLOCKS_FROM * config.num_experts // config.num_experts_per_tok)
    found.append(
        Operation(
            "experts_prefill",
            shape,
            [BLOCKS],
            [call(min(PROMPT_TOKENS, enough))],
            [call(PROMPT_TOKENS)],
            False,
            _tolerance(network),
        )
    )
    return found
