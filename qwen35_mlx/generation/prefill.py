"""Prefill: the tokens of a prompt, many at a time."""

from collections.abc import Callable, Generator, Sequence

import mlx.core as mx

from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network

# Called with the network's output for a chunk, [1, T, hidden], and the index of its first id.
Observe = Callable[[mx.array, int], None]


def prefill(
    network: Network,
    cache: Cache,
    ids: Sequence[int],
    chunk: int,
    observe: Observe = lambda hidden, start: None,
) -> Generator[int]:
    """Add `ids` to the cache, `chunk` tokens per call of the network.

    Yields the number of `ids` in the cache after each chunk. Closing the iterator cancels; a later
    call may continue from `cache.offset`.

    Raises:
        Qwen35Error: an id has no embedding.
    """
    for start in range(0, len(ids), chunk):
        piece = ids[start : start + chunk]
        hidden = network(network.token_array(piece), cache)
        mx.eval(cache.arrays)
        observe(hidden, start)
        yield start + len(piece)
