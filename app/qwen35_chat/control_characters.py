"""Text made safe for a terminal: control characters are shown, never obeyed."""

# C0 without newline and tab, and DEL, have pictures in Unicode; C1 has not.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_PICTURES[0x7F] = 0x2421
_C1 = {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
# Half a pair of surrogates cannot be encoded, so writing it would fail.
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
_ONE_CELL: dict[int, int | str] = {**_PICTURES, **dict.fromkeys(_C1, "\ufffd"), **_SURROGATES}
_TABLE: dict[int, int | str] = {**_PICTURES, **_C1, **_SURROGATES}


def visible(text: str) -> str:
    """`text` with control characters shown instead of obeyed; newlines and tabs stay.

    Works a character at a time, so the pieces of a stream may be passed one by one.
    """
    return text.translate(_TABLE)


def one_cell(text: str) -> str:
    """As `visible`, one character for each, for text that a cursor moves in."""
    return text.translate(_ONE_CELL)
