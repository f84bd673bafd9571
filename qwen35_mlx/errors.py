"""The one error for bad input and for an environment that does not fit."""

import reprlib


class Qwen35Error(Exception):
    """Bad input or a bad environment; one line that names the cause and the next step.

    Commands print the message and exit with code 2. A traceback is a bug in this project.
    """


def shown(value: object) -> str:
    """A value of any type for an error line: its repr, short and on one line."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = 60
    try:
        return " ".join(brief.repr(value).split())
    except Exception:  # of a foreign __repr__, or of a number with thousands of digits
        return f"of type {type(value).__name__}"
