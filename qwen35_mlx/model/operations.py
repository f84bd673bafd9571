"""The operations of a network that have several variants, for `kernels.autotune` to try."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import mlx.core as mx

from qwen35_mlx.kernels import (
    decode_attention,
    delta_net,
    experts,
    gpu_kernel,
    qk_norm_rope,
    quantized,
)
from qwen35_mlx.kernels.autotune import Operation, Outputs, tune
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, REFERENCE, KernelSelection
from qwen35_mlx.model import attention, trials
from qwen35_mlx.model.attention import Attention
from qwen35_mlx.model.delta_net import GatedDeltaNet
from qwen35_mlx.model.kv_cache import TAIL_ROWS, KVCache
from qwen35_mlx.model.matrix_operations import matrix_operations
from qwen35_mlx.model.memory import KV_GROUP, unpacked_expert_bytes
from qwen35_mlx.model.moe import BLOCKS, BLOCKS_FROM, LARGE_BLOCKS, SparseMoE
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.parallel import Parallel
from qwen35_mlx.model.prefill_chunk import prefill_chunk


def select_kernels(
    network: Network, notice: Callable[[str], None], kv_bits: int | None = None
) -> None:
    """Select the variants of a network's operations for this machine, and full float32 matmuls.

    Args:
        notice: called with a line for each kernel that cannot be used here.
        kv_bits: as for `operations`.
    """
    gpu_kernel.disable_tf32()
    if gpu_kernel.backend():
        tune(operations(network, kv_bits), network.selection, notice)
        agree(network.selection, network.parallel.of_layer)
    elif not gpu_kernel.kernels_disabled() and network.dtype == mx.float32:
        # On a CPU MLX multiplies by packed matrices one element at a time, and by plain ones
        # through a BLAS, which is never slower and may be much faster.
        network.selection.matmul_prefill = quantized.UNPACKED
        if unpacked_expert_bytes(network.config, network.dtype.size):
            network.selection.experts_prefill = quantized.UNPACKED


def agree(selection: KernelSelection, parallel: Parallel) -> None:
    """Select the same variants in all processes: those of the first, and references where another
    process uses them.

    Variants round differently. What all processes compute for themselves, such as which experts a
    token goes to, must be the same to the bit.
    """
    own = [[*key, variant] for key, variant in selection.variants.items()]
    each = [
        {(operation, packing): variant for operation, packing, variant in json.loads(text)}
        for text in parallel.exchange(json.dumps(own))
    ]
    for operation, packing in selection.variants:
        variants = [one.get((operation, packing), REFERENCE) for one in each]
        variant = REFERENCE if REFERENCE in variants else variants[0]
        selection.select(operation, variant, packing)


def operations(network: Network, kv_bits: int | None = None) -> list[Operation]:
    """The operations of the first layer of each kind, with its own weights; those on matrices for
    every format in the network; and the number of tokens of a prompt at once.

    Args:
        kv_bits: of caches that the network is used with, beside plain ones; see `KVCache.bits`.
    """
    found = matrix_operations(network)
    delta_nets = [layer.mixer for layer in network.layers if isinstance(layer.mixer, GatedDeltaNet)]
    if delta_nets:
        found += _delta_net(network, delta_nets[0])
    attention_mixers = [
        layer.mixer for layer in network.layers if isinstance(layer.mixer, Attention)
    ]
    if attention_mixers:
        found += [
            _qk_norm_rope(network, attention_mixers[0]),
            *_decode_attention(network, attention_mixers[0], kv_bits),
            _prefill_attention(network, attention_mixers[0]),
        ]
    layers = network.layers if network.mtp is None else [*network.layers, network.mtp.layer]
    sparse = [(x.mlp, x.mlp_norm) for x in layers if isinstance(x.mlp, SparseMoE)]
    if sparse:
        found += _experts(network, sparse)
    # Whole layers exchange sums, and processes would time them differently often.
    return found if network.config.shard else [*found, prefill_chunk(network)]


def _delta_net(network: Network, mixer: GatedDeltaNet) -> list[Operation]:
    layer, dtype = mixer.parameters, network.dtype
    width = layer.channels + layer.value_dim + 2 * layer.value_heads

    def call(batch: int, tokens: int) -> Callable[[], Outputs]:
        projected = trials.noise(network, batch, tokens, width)
        conv, state = layer.empty(batch, dtype)
        conv = trials.noise(network, *conv.shape)
        state = trials.noise(network, *state.shape).astype(mx.float32)
        return partial(delta_net.mix, projected, conv, state, layer, network.selection)

    sizes = f"{layer.key_heads}/{layer.value_heads} heads of {layer.key_head_dim}"
    shape = f"{sizes}/{layer.value_head_dim}, {dtype}"
    prompts = [
        name for name, tiling in delta_net.PREFILL_VARIANTS.items() if tiling.supports(layer)
    ]
    if prompts and gpu_kernel.backend() == "metal" and hasattr(mx.fast, "gated_delta_update"):
        prompts.append(delta_net.MLX_RULE)
    few = MAX_DECODE_TOKENS
    return [
        Operation(
            "delta_decode",
            shape,
            [name for name, tiling in delta_net.DECODE_VARIANTS.items() if tiling.supports(layer)],
            [call(1, 1), call(2, 3), call(2, few)],
            trials.timed_together([call(1, 1)]),
            True,
            trials.tolerance(network),
        ),
        Operation(
            "delta_prefill",
            shape,
            prompts,
            [call(1, few + 1), call(2, 5 * few + 3), call(2, 2 * few)],
            [call(1, trials.PROMPT_TOKENS)],
            False,
            trials.tolerance(network),
        ),
    ]


def _qk_norm_rope(network: Network, mixer: Attention) -> Operation:
    layer, few = mixer.parameters, MAX_DECODE_TOKENS
    width = 2 * (layer.heads + layer.kv_heads) * layer.head_dim

    def call(batch: int, tokens: int, position: int) -> Callable[[], Outputs]:
        projected = trials.noise(network, batch, tokens, width)
        offset = mx.array(position, mx.int32)
        return lambda: qk_norm_rope.qk_norm_rope(projected, offset, layer, network.selection)

    return Operation(
        "qk_norm_rope",
        f"{layer.heads}/{layer.kv_heads} heads of {layer.head_dim}, {layer.rope.dims} rotated, "
        f"{network.dtype}",
        [qk_norm_rope.KERNEL],
        [call(1, 1, 0), call(2, 3, 5), call(1, 1, 300), call(1, few, 1000)],
        trials.timed_together([call(1, 1, 1000)]),
        True,
        # On Metal MLX uses the fast sines, good to 2 ** -13, which lose more at far positions.
        max(trials.tolerance(network), 1e-3),
    )


def _decode_attention(network: Network, mixer: Attention, kv_bits: int | None) -> list[Operation]:
    """`decode_attention`, and `decode_attention_8bit` if `kv_bits` is 8."""
    q = trials.noise(network, 1, mixer.heads, 1, mixer.head_dim)
    if not decode_attention.supports(q, q[:, : mixer.kv_heads]):
        return []
    plain = mx.compile(decode_attention.reference)  # as layers compile its gate
    gated = mx.compile(decode_attention.apply_gate)

    def unfused(q: mx.array, *rows: mx.array, gate: mx.array, scale: float) -> mx.array:
        bits = decode_attention.PACKED_BITS
        return gated(attention.quantized_attention(q, rows, bits, scale, network.selection), gate)

    found = [_few_queries(network, mixer, None, plain, plain)]
    if kv_bits == decode_attention.PACKED_BITS and mixer.head_dim % KV_GROUP == 0:
        # What layers do without the kernel rounds too early to compare with.
        found.append(
            _few_queries(network, mixer, kv_bits, decode_attention.reference_8bit, unfused)
        )
    return found


def _few_queries(
    network: Network,
    mixer: Attention,
    kv_bits: int | None,
    checked: Callable[..., mx.array],
    timed: Callable[..., mx.array],
) -> Operation:
    """Attention of a few tokens to a cache of these bits.

    Args:
        checked, timed: what the kernel is compared with, and timed beside, of q, all arrays of the
            cache, gate and scale.
    """
    heads, kv_heads, dim = mixer.heads, mixer.kv_heads, mixer.head_dim
    name = "decode_attention" if kv_bits is None else f"decode_attention_{kv_bits}bit"
    scale = dim**-0.5

    def call(
        tokens: int, length: int, reference: Callable[..., mx.array] = checked
    ) -> Callable[[], Outputs]:
        q, gate = (
            trials.noise(network, 1, heads, tokens, dim),
            trials.noise(network, 1, tokens, heads, dim),
        )
        k = trials.noise(network, 1, kv_heads, length + 3, dim)
        k, v = k[:, :, :length], k[:, :, 3:]
        rows = KVCache(kv_bits).update(k, v)
        buffered = max(length - TAIL_ROWS, 1)
        cache = KVCache(kv_bits)
        cache.update(k[:, :, :buffered], v[:, :, :buffered])
        parts = cache.append_to_tail(mx.stack([k[:, :, buffered:], v[:, :, buffered:]]))
        mx.eval(rows, parts)

        def run() -> Outputs:
            if getattr(network.selection, name) == decode_attention.KERNEL:
                return [decode_attention.kernel(q, *parts, gate, scale)]
            return [reference(q, *rows, gate=gate, scale=scale)]

        return run

    # All splits have a round of keys; beyond that, each has several.
    one_round = decode_attention.keys_of_one_round(1, kv_heads)
    long = [call(1, 2 * one_round + 37), call(2, one_round + 1)]
    return Operation(
        name,
        f"{heads}/{kv_heads} heads of {dim}, {network.dtype}",
        [decode_attention.KERNEL],
        [call(1, 2), call(1, 37), call(1, 300), call(2, 33), call(4, 130), call(7, 70), *long],
        trials.timed_together([call(1, trials.CONTEXT_TOKENS, timed)]),
        False,
        trials.tolerance(network),
    )


def _prefill_attention(network: Network, mixer: Attention) -> Operation:
    few = attention.FEW_QUERIES

    def draw(batch: int, tokens: int, length: int) -> tuple[mx.array, mx.array, mx.array]:
        q = trials.noise(network, batch, mixer.heads, tokens, mixer.head_dim)
        k = trials.noise(network, batch, mixer.kv_heads, length, mixer.head_dim)
        return q, k, k[..., ::-1]

    def call(batch: int, tokens: int, length: int) -> Callable[[], Outputs]:
        qkv = draw(batch, tokens, length)
        scale = mixer.head_dim**-0.5
        return lambda: [attention.causal_attention(*qkv, scale, network.selection)]

    variants = [attention.FUSED]
    try:
        # Never evaluated: MLX raises while it builds the graph.
        attention.fused_attention(*draw(1, trials.PROMPT_TOKENS, trials.PROMPT_TOKENS), 1.0)
    except ValueError:
        variants = []  # MLX has no such kernel here, which needs no notice
    return Operation(
        "prefill_attention",
        f"{mixer.heads}/{mixer.kv_heads} heads of {mixer.head_dim}, {network.dtype}",
        variants,
        [call(1, few + 1, few + 1), call(1, 33, 101), call(2, 2 * few, 2 * few + 3)],
        [call(1, trials.PROMPT_TOKENS, trials.CONTEXT_TOKENS)],
        False,
        trials.tolerance(network),
    )


def _experts(network: Network, layers: Sequence[tuple[SparseMoE, RMSNorm]]) -> list[Operation]:
    """`experts_decode` of each format that its kernels read, and `experts_prefill`, on the format
    of most layers.
    """
    by_format: dict[str, list[tuple[SparseMoE, RMSNorm]]] = defaultdict(list)
    for block, norm in layers:
        by_format[block.packing].append((block, norm))
    in_kernels = {
        packing: found
        for packing, same in by_format.items()
        if (found := [(block, norm) for block, norm in same if block.packed is not None])
    }
    config, few = network.config, MAX_DECODE_TOKENS
    x = trials.noise(network, 1, trials.PROMPT_TOKENS, config.hidden_size)
    residual = x[:, ::-1]
    sizes = (
        f"{config.num_experts_per_tok} of {config.num_experts} experts, {config.hidden_size} x "
        f"{config.moe_intermediate_size}"
    )

    def call(block: SparseMoE, norm: RMSNorm, tokens: int) -> Callable[[], Outputs]:
        return lambda: [block(x[:, :tokens], norm, residual[:, :tokens])]

    found = [
        Operation(
            "experts_decode",
            f"{sizes}, {packing}, {network.dtype}",
            [experts.THREE_DISPATCHES, experts.TWO_DISPATCHES],
            [call(*same[0], tokens) for tokens in (1, few)],
            trials.timed_together([call(*layer, 1) for layer in same[: trials.TIMED_CALLS]]),
            True,
            trials.tolerance(network),
            packing,
        )
        for packing, same in in_kernels.items()
    ]
    packing, same = max(by_format.items(), key=lambda item: len(item[1]))
    enough = -(-BLOCKS_FROM * config.num_experts // config.num_experts_per_tok)
    prompt = Operation(
        "experts_prefill",
        f"{sizes}, {packing}, {network.dtype}",
        [BLOCKS, LARGE_BLOCKS],
        [call(*same[0], min(trials.PROMPT_TOKENS, enough))],
        [call(*same[0], trials.PROMPT_TOKENS)],
        False,
        trials.tolerance(network),
    )
    return [*found, prompt]
