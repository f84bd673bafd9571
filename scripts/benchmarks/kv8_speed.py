"""Time on the GPU of attention of a few tokens to plain keys and values, and to those in 8 bits."""

from typing import Any

import mlx.core as mx

from qwen35_mlx.kernels import decode_attention
from qwen35_mlx.kernels.selection import KernelSelection
from qwen35_mlx.model.attention import quantized_attention
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.kv_cache import KVArrays, KVCache
from scripts.support import device_time
from scripts.support.random_weights import SHAPES

# Several caches take turns, so that keys are read from memory, not from the GPU's cache.
SET_BYTES = 200e6
TAIL_ROWS = 100
CHUNK = 8192

# The arrays of a buffer, those of its tail, and all rows in one.
Stored = tuple[KVArrays, KVArrays, KVArrays]


def random_rows(config: ModelConfig, count: int) -> list[mx.array]:
    """Keys and values."""
    size = (1, config.num_key_value_heads, count, config.head_dim)
    return [mx.random.normal(size).astype(mx.bfloat16) for _ in "kv"]


def filled(config: ModelConfig, rows: int, bits: int | None) -> KVCache:
    cache = KVCache(bits)
    for start in range(0, rows, CHUNK):
        cache.update(*random_rows(config, min(CHUNK, rows - start)))
        mx.eval(cache.arrays)
    return cache


def stored(config: ModelConfig, context: int, bits: int | None, count: int) -> list[Stored]:
    """Caches of random keys and values, as a layer has them while it decodes."""
    found = []
    for _ in range(count):
        cache = filled(config, context - TAIL_ROWS, bits)
        split = cache.append_to_tail(mx.stack(random_rows(config, TAIL_ROWS)))
        joined = filled(config, context, bits).snapshot().rows(0)
        mx.eval(split, joined)
        found.append((*split, joined))
    return found


def measure(shape: str, context: int, tokens: int) -> dict[str, Any]:
    """Microseconds of one layer's attention; bytes a second of the fused kernel in 8 bits."""
    config = ModelConfig.from_dict(SHAPES[shape])
    heads, dim = config.num_attention_heads, config.head_dim
    values = 2 * config.num_key_value_heads * dim * context
    count = min(int(-(-SET_BYTES // values)), device_time.CALLS)
    scale = dim**-0.5
    q = mx.random.normal((1, heads, tokens, dim)).astype(mx.bfloat16)
    gate = mx.random.normal((1, tokens, heads, dim)).astype(mx.bfloat16)
    mx.eval(q, gate)
    empty = device_time.queue_seconds(q, None)

    def fused(caches: list[Stored]) -> float:
        def call(q: mx.array, i: int) -> mx.array:
            prefix, tail, _ = caches[i % count]
            return decode_attention.kernel(q, prefix, tail, gate, scale)

        return device_time.microseconds(q, call, empty)

    def fallback(caches: list[Stored]) -> float:
        bits = decode_attention.PACKED_BITS
        gated = mx.compile(decode_attention.apply_gate)

        def call(q: mx.array, i: int) -> mx.array:
            rows = caches[i % count][2]
            return gated(quantized_attention(q, rows, bits, scale, KernelSelection()), gate)

        return device_time.microseconds(q, call, empty)

    plain = fused(stored(config, context, None, count))
    packed = stored(config, context, decode_attention.PACKED_BITS, count)
    split, joined = fused(packed), fallback(packed)
    nbytes = values + values // 32 * 4  # a scale and a bias in half precision for 32 values
    return {
        "shape": shape,
        "context": context,
        "tokens": tokens,
        "bf16, us": plain,
        "8 bits, fallback, us": joined,
        "8 bits, fused, us": split,
        "of bf16": split / plain,
        "of fallback": split / joined,
        "fused, GB/s": nbytes / split / 1e3,
    }
