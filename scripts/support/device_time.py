"""Time on a GPU of calls that take the host longer to launch than the GPU to compute."""

from collections.abc import Callable

import mlx.core as mx

from qwen35_mlx.kernels.autotune import median_seconds

CALLS = 48
# Of the long product, n x n.
QUEUE_SIZE, QUEUE_PRODUCTS = 8192, 40

# Of an input and the number of the call.
Call = Callable[[mx.array, int], mx.array]


def queue_seconds(x: mx.array, call: Call | None) -> float:
    """Time of `CALLS` calls on x, one after the other, behind a long product.

    The calls queue up behind the product, each waiting for the one before. Without a call it is the
    time of the same queue.
    """
    long = mx.zeros((QUEUE_SIZE, QUEUE_SIZE), mx.bfloat16)
    mx.eval(long)
    link = mx.compile(lambda x, y: x + 0 * y[..., :1])

    def run() -> mx.array:
        y = long
        for _ in range(QUEUE_PRODUCTS):
            y = y @ long
        z = link(x, y[0, :1])
        for i in range(CALLS):
            z = link(x, z if call is None else call(z, i))
        return z

    return median_seconds(run)


def microseconds(x: mx.array, call: Call, empty: float) -> float:
    """Of one call.

    Args:
        empty: `queue_seconds(x, None)`.
    """
    return 1e6 * (queue_seconds(x, call) - empty) / CALLS
