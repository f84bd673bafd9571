"""Text made safe for a terminal: control characters are shown, never obeyed."""

# Unicode has pictures for C0 (here without newline and tab) and DEL, but not for C1.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_PICTURES[0x7F] = 0x2421
_C1 = {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
# A lone surrogate cannot be encoded, so writing it would fail.
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
_ONE_CELL: dict[int, int | str] = {**_PICTURES, **dict.fromkeys(_C1, "\ufffd"), **_SURROGATES}
_TABLE: dict[int, int | str] = {**_PICTURES, **_C1, **_SURROGATES}


def visible(text: str) -> str:
    """`text` with visible symbols in place of control characters; newlines and tabs stay.

    Each character is translated by itself, so a stream may be passed piece by piece.
    """
    return text.translate(_TABLE)


def one_cell(text: str) -> str:
    """As `visible`, but with one character for each, for text with a cursor in it."""
    return text.translate(_ONE_CELL)
