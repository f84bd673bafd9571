"""Writing a reply: one token after the other."""

import math
from collections.abc import Callable, Generator

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network

# Bytes of keys and values up to which the next step is asked for while this one runs, where new
# rows do not lie apart (`KVCache.append`). MLX appends to an array in place only if no running step
# still reads it, and copies all of it otherwise. So much is copied at 400 GB/s in 1.3 ms; asking
# for a step of the 4B size took 2 ms beside an H200.
OVERLAPPED = 256 << 20


def decode(
    network: Network,
    cache: Cache,
    last: int,
    choose: Callable[[mx.array, mx.array], mx.array],
) -> Generator[int]:
    """Tokens that follow `last`, the prompt's final token, which the cache has not seen yet.

    Endless: the caller knows when to stop. While the caller looks at one token the device
    already computes the next, so a token that has been yielded is in the cache.

    Args:
        choose: from `make_sampler`.

    Raises:
        Qwen35Error: the logits are not finite.
    """
    reply = mx.array([], dtype=mx.int32)

    def step(token: mx.array) -> tuple[mx.array, mx.array]:
        if cache.append_target_nbytes > OVERLAPPED:
            mx.synchronize()
        logits = network.logits(network(token.reshape(1, 1), cache))[0, -1]
        # Not finite as soon as one logit is NaN or infinite, and cheaper to look at than all.
        health = mx.sum(logits.astype(mx.float32))
        chosen = choose(logits, reply).astype(mx.int32)
        mx.async_eval(chosen, health)
        return chosen, health

    token, health = step(mx.array(last, dtype=mx.int32))
    while True:
        reply = mx.concatenate([reply, token[None]])
        following = step(token)
        if not math.isfinite(float(health)):
            raise Qwen35Error(
                f"the network computed logits that are not finite at position {cache.offset - 2}: "
                "the weights are damaged or overflow in this dtype; convert with --dtype bfloat16"
            )
        yield int(token)
        token, health = following
