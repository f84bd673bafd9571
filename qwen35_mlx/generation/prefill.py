"""Reading a prompt: chunks of tokens into a cache."""

from collections.abc import Generator, Sequence

import mlx.core as mx

from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network


def prefill(network: Network, cache: Cache, ids: Sequence[int], chunk: int) -> Generator[int]:
    """Run `ids` through the network, `chunk` tokens at a time, for what they leave in the cache.

    Yields after each chunk how many of `ids` the cache now holds. Whoever stops iterating
    cancels, and may go on from `cache.offset` later.
    """
    for start in range(0, len(ids), chunk):
        piece = ids[start : start + chunk]
        network(mx.array([piece], dtype=mx.int32), cache)
        mx.eval(cache.arrays)
        yield start + len(piece)
