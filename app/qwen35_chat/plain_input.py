"""What is typed or pasted at a terminal in plain mode."""

import select
import sys
from contextlib import suppress

PASTE_GAP = 0.05  # seconds: the next line of a paste comes sooner, the next line of a user later


def read_block(prompt: str) -> str:
    """The next line that is typed, or all lines of a paste, up to the Enter that follows it.

    Readline knows the end of a paste where it and the terminal mark pastes. Elsewhere the lines
    that follow at once belong together.

    Raises:
        EOFError: the input has ended.
    """
    lines = [input(prompt)]
    while _more_is_there():
        try:
            lines.append(input())
        except EOFError:
            break
    return "\n".join(lines)


def _more_is_there() -> bool:
    """Whether something follows at once, be it a whole line or not."""
    with suppress(ImportError, OSError, ValueError, AttributeError):
        import termios

        descriptor = sys.stdin.fileno()
        attributes = termios.tcgetattr(descriptor)
        by_character = [*attributes]
        by_character[3] &= ~termios.ICANON
        try:
            termios.tcsetattr(descriptor, termios.TCSANOW, by_character)
            return bool(select.select([descriptor], [], [], PASTE_GAP)[0])
        finally:
            termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
    return False


def drop_typed_input() -> None:
    """Forget what was typed at a terminal before a question: it was meant for something else."""
    with suppress(ImportError, OSError, ValueError, AttributeError):
        import termios

        if sys.stdin.isatty():
            termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
