"""The terminal of a process that `mlx.launch` has started with pipes in its place."""

import os

from qwen35_mlx.errors import Qwen35Error


def use_terminal() -> None:
    """Read from and write to the terminal instead of the pipes.

    Raises:
        Qwen35Error: there is none.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError:
        raise Qwen35Error(
            "mlx.launch runs without a terminal: use -p for one answer, or start it in a terminal"
        ) from None
    for number in range(3):
        os.dup2(terminal, number)
    os.close(terminal)


def ignore_input() -> None:
    """Read nothing: the pipe stays open for as long as `mlx.launch` runs."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
