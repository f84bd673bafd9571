"""Decode: one token after the other."""

import math
from collections.abc import Generator

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network

# Bytes of keys and values up to which the next step is launched while the current one runs, where
# the cache has no tail (`KVCache.append_to_tail`). MLX appends in place only if no running step
# still reads the array, and copies all of it otherwise. Copying this much takes 1.3 ms at 400 GB/s;
# the launch overhead of a step of the 4B size was 2 ms on an H200.
OVERLAP_LIMIT = 256 << 20


def decode(network: Network, cache: Cache, last: int, sample: Sampler) -> Generator[int]:
    """Tokens that follow `last`, the prompt's final token, which the cache must not hold yet.

    Endless: the caller stops the iteration. While the caller handles one token the device already
    computes the next, so a token that has been yielded is in the cache.

    Args:
        sample: from `make_sampler`.

    Raises:
        Qwen35Error: `last` has no embedding, or the logits are not finite.
    """
    reply = mx.array([], dtype=mx.int32)

    def step(token: mx.array) -> tuple[mx.array, mx.array]:
        if cache.append_target_nbytes > OVERLAP_LIMIT:
            mx.synchronize()
        logits = network.logits(network(token.reshape(1, 1), cache))[0, -1]
        # Not finite as soon as one logit is NaN or infinite, and cheaper to read than all of them.
        logit_sum = mx.sum(logits.astype(mx.float32))
        sampled = sample(logits, reply).astype(mx.int32)
        mx.async_eval(sampled, logit_sum)
        return sampled, logit_sum

    token, logit_sum = step(network.token_array([last]))
    while True:
        reply = mx.concatenate([reply, token[None]])
        following = step(token)
        if not math.isfinite(float(logit_sum)):
            raise Qwen35Error(
                f"the network computed logits that are not finite at position {cache.offset - 2}: "
                "the weights are damaged or overflow in this dtype; convert with --dtype bfloat16"
            )
        yield int(token)
        token, logit_sum = following
