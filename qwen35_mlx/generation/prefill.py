"""Prefill: the tokens of a prompt, many at a time."""

from collections.abc import Generator, Sequence

import mlx.core as mx

from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network


def prefill(network: Network, cache: Cache, ids: Sequence[int], chunk: int) -> Generator[int]:
    """Add `ids` to the cache, `chunk` tokens per call of the network.

    Yields the number of `ids` in the cache after each chunk. Closing the iterator cancels; a later
    call may continue from `cache.offset`.

    Raises:
        Qwen35Error: an id has no embedding.
    """
    for start in range(0, len(ids), chunk):
        piece = ids[start : start + chunk]
        network(network.token_array(piece), cache)
        mx.eval(cache.arrays)
        yield start + len(piece)
