"""A fast BLAS for MLX on a Linux CPU. This module never imports MLX.

MLX's Linux build for the CPU comes with the reference BLAS, which computes on one core, without
vector instructions. Symbols of a library that is loaded globally come before those of a library's
own dependencies, so OpenBLAS takes its place when it is loaded before MLX.
"""

import ctypes
import shutil
import sys
from contextlib import suppress

from qwen35_mlx.session.events import Done, Event, Notice

OPENBLAS = "libopenblas.so.0"
# A prompt that takes longer than this to read is worth a line about the BLAS.
SLOW_SECONDS = 3.0
_PRODUCT = "cblas_sgemm"


def load_openblas() -> None:
    """Make MLX use this machine's OpenBLAS, if there is one. Call it before MLX is imported."""
    if sys.platform != "linux" or "mlx.core" in sys.modules or has_fast_blas():
        return
    with suppress(OSError):  # not installed
        ctypes.CDLL(OPENBLAS, ctypes.RTLD_GLOBAL)


def has_fast_blas() -> bool:
    """Whether a BLAS takes the place of MLX's own: one that is loaded globally, or preloaded."""
    return hasattr(ctypes.CDLL(None), _PRODUCT)


class BlasHint:
    """Says once how prompts are read faster, after one that took long."""

    def __init__(self) -> None:
        self._said = False

    def after(self, event: Event) -> Notice | None:
        """The hint, if `event` ends a turn that a faster BLAS would have shortened."""
        if self._said or not isinstance(event, Done):
            return None
        if event.usage.prefill_seconds < SLOW_SECONDS or not _uses_reference_blas():
            return None
        self._said = True
        return Notice(f"prompts are read several times as fast with OpenBLAS: {_remedy()}")


def _uses_reference_blas() -> bool:
    if sys.platform != "linux" or has_fast_blas():
        return False
    import mlx.core as mx

    return mx.default_device() == mx.cpu


def _remedy() -> str:
    if shutil.which("apt"):
        return "sudo apt install libopenblas0, and start again"
    return f"install the package that has {OPENBLAS}, and start again"
