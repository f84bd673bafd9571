"""Sizes and inputs of the calls by which `model.operations` checks and times variants."""

from collections.abc import Callable, Sequence
from itertools import cycle, islice

import mlx.core as mx

from qwen35_mlx.kernels.autotune import Outputs
from qwen35_mlx.model.network import Network

# Tokens of a timed prefill.
PROMPT_TOKENS = 2048
# Tokens of a timed prompt that is read in chunks.
CHUNKED_TOKENS = 4096
# Keys of a timed attention: few enough for a small machine's memory.
CONTEXT_TOKENS = 8192
# Calls of a decode operation that are timed together.
TIMED_CALLS = 16


def noise(network: Network, *shape: int) -> mx.array:
    """Normal values in the network's dtype, the same in every call."""
    x = mx.random.normal(shape, key=mx.random.key(7)).astype(network.dtype)
    mx.eval(x)
    return x


def tolerance(network: Network) -> float:
    """For `Operation.tolerance`."""
    return 1e-4 if network.dtype == mx.float32 else 2e-2


def timed_together(calls: Sequence[Callable[[], Outputs]]) -> list[Callable[[], Outputs]]:
    """`TIMED_CALLS` calls, those given repeated."""
    return list(islice(cycle(calls), TIMED_CALLS))
