"""All that is printed. Text for a terminal shows control characters, which it never obeys.

Names in a checkpoint, titles and messages are a stranger's words. An escape sequence among them
could change the clipboard, the title of the window, or what was printed before.
"""

import sys
from contextlib import suppress
from typing import TextIO

from qwen35_mlx.errors import Qwen35Error

# Unicode has pictures for C0 (here without newline and tab) and DEL, but not for C1.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_PICTURES[0x7F] = 0x2421
_C1 = {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
# A lone surrogate cannot be encoded, so writing it would fail.
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
# Marks that turn the direction of what follows them, which could be the program's own words: the
# embeddings, overrides and isolates of Unicode.
_TURNS = {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_ONE_CELL: dict[int, int | str] = {
    **_PICTURES,
    **dict.fromkeys((*_C1, *_TURNS), "\ufffd"),
    **_SURROGATES,
}
_TABLE: dict[int, int | str] = {**_PICTURES, **_C1, **_TURNS, **_SURROGATES}
# Within a line, a newline would begin another that looks like the program's own.
_LINE: dict[int, int | str] = {**_TABLE, 0x09: 0x2409, 0x0A: 0x240A}


def visible(text: str) -> str:
    """`text` with visible symbols in place of control characters; newlines and tabs stay.

    Each character is translated by itself, so a stream may be passed piece by piece.
    """
    return text.translate(_TABLE)


def one_cell(text: str) -> str:
    """As `visible`, but with one character for each, for text with a cursor in it."""
    return text.translate(_ONE_CELL)


def visible_line(text: str) -> str:
    """As `visible`, for one line: newlines and tabs are shown as well."""
    return text.translate(_LINE)


def print_line(text: str = "") -> None:
    """Print one line on standard output, at once; nothing if that is closed.

    Raises:
        Qwen35Error: it cannot be written.
        BrokenPipeError: its reader has closed it.
    """
    write_to(sys.stdout, f"{visible_line(text)}\n")


def print_error(text: str) -> None:
    """Print one line on standard error, at once; nothing if that cannot be written."""
    with suppress(Qwen35Error, BrokenPipeError):
        write_to(sys.stderr, f"{visible_line(text)}\n")


def write_output(text: str) -> None:
    """Write text of any length to standard output: unchanged in UTF-8 to a file or a pipe, and
    with visible control characters to a terminal.

    Raises:
        Qwen35Error: it is closed, or cannot be written.
        BrokenPipeError: its reader has closed it.
    """
    if sys.stdout is None:
        raise Qwen35Error("standard output is closed: there is nowhere to write")
    if sys.stdout.isatty():
        write_to(sys.stdout, visible(text))
        return
    try:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Qwen35Error(f"standard output cannot be written: {error.strerror}") from None


def write_to(stream: TextIO | None, text: str) -> None:
    """Write text that is clean already to a stream, with "?" for what its encoding lacks.

    Args:
        stream: None if it is closed; then nothing happens.

    Raises:
        Qwen35Error: it cannot be written.
        BrokenPipeError: its reader has closed it.
    """
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        which = "error" if stream is sys.stderr else "output"
        raise Qwen35Error(f"standard {which} cannot be written: {error.strerror}") from None
