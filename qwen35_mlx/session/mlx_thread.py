"""Threads for MLX: its arrays, random state and compiled functions belong to one."""

import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line

# How long an engine that is closed waits for its thread.
CLOSE_SECONDS = 5.0


def mlx_thread(
    work: Callable[[], None], end: Callable[[], None], failed: Callable[[str], None]
) -> threading.Thread:
    """A thread that has not started.

    Args:
        work: what it does.
        end: called in the thread at its end, whatever happened. Its errors are ignored.
        failed: called before that with a line for the user, if `work` raises an error.
    """

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed(user_message(error))
        finally:
            with suppress(BaseException):
                end()
            if "mlx.core" in sys.modules:
                sys.modules["mlx.core"].clear_streams()

    return threading.Thread(target=run, name="mlx", daemon=True)


def user_message(error: BaseException) -> str:
    """The line for the user. An internal error names its type, for a bug report."""
    if isinstance(error, Qwen35Error):
        return str(error)
    if isinstance(error, MemoryError):
        return "the memory is used up: close other programs or start a new conversation"
    return f"internal error, please report it: {type(error).__name__}: {one_line(error)}"
