"""The one error for bad input and for an environment that does not fit."""

import reprlib


class Qwen35Error(Exception):
    """Bad input or a bad environment; one line that names the cause and the next step.

    Commands print the message and exit with code 2. A traceback is a bug in this project. Line
    breaks in the message, such as those in the name of a tensor, become spaces.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class TooLongError(Qwen35Error):
    """A prompt that fills the model's context or this machine's memory."""


class BusyError(Qwen35Error):
    """A conversation that is open elsewhere."""


class _ShortRepr(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # beyond sys.get_int_max_str_digits()
            return f"a number of {x.bit_length():,} bits"


_REPR = _ShortRepr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def shown(value: object) -> str:
    """A value of any type for an error line: its repr, cut where it is long, on one line."""
    try:
        return " ".join(_REPR.repr(value).split())
    except Exception:  # of a foreign __repr__
        return f"of type {type(value).__name__}"
