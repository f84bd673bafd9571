"""Passes whose graph is built in a thread, while this one launches the pass before.

Python builds the graph of a pass, and MLX launches it without holding Python's lock. Where the
device computes faster than both, the two take turns otherwise: on an H200, of 3.6 ms that a token
of the 35B-A3B size took, Python had 1.1. Streams belong to the thread that evaluates, so it is the
building that moves to another one.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import mlx.core as mx

from qwen35_mlx.kernels import gpu_kernel

Built = TypeVar("Built")


def applies() -> bool:
    """Whether passes are built ahead: on a GPU. A CPU has no time that would be left."""
    return gpu_kernel.on_gpu() and _works()


def submit(build: Callable[[], Built]) -> Future[Built]:
    """Build graphs in the thread, for the calling one, which evaluates them.

    Args:
        build: evaluates nothing, and waits for nothing.
    """
    return _thread().submit(_build, build, mx.default_stream(mx.default_device()))


def _build(build: Callable[[], Built], stream: mx.Stream) -> Built:
    # Set, not used in a context, which would make a stream of this thread, too.
    mx.set_default_stream(stream)
    with gpu_kernel.unevaluated():
        return build()


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="building")


@cache
def _works() -> bool:
    """Whether this build of MLX evaluates what another thread has built."""
    try:
        return submit(lambda: mx.ones(1) + mx.ones(1)).result().item() == 2
    except RuntimeError:
        return False
