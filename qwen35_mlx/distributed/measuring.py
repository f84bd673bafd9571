"""How fast the processes exchange arrays."""

import time

import mlx.core as mx

from qwen35_mlx.model.parallel import Parallel

# Elements of the sums that show latency and bandwidth, and how often each is timed.
_SMALL, _LARGE, _TIMES = 1, 1 << 20, 10


def measure(parallel: Parallel) -> str:
    """What a sum over all processes takes, for the user."""
    seconds = {}
    for size in (_SMALL, _LARGE):
        x = mx.zeros((size,), mx.float32)
        times = []
        for _ in range(_TIMES):
            started = time.perf_counter()
            mx.eval(mx.distributed.all_sum(x, group=parallel.group))
            times.append(time.perf_counter() - started)
        seconds[size] = sorted(times)[_TIMES // 2]
    assert parallel.shard is not None
    rate = 4 * _LARGE / seconds[_LARGE] / 1e9
    return (
        f"{parallel.shard.ranks} processes; a sum takes {1e3 * seconds[_SMALL]:.2f} ms, "
        f"{rate:.2f} GB/s"
    )
