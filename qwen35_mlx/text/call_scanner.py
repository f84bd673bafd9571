"""Where the body of a tool call may end, found while it streams in.

A value may hold the tag that closes a call, as often as it likes. Parsing the whole body at each of
these tags takes a time that grows with the square of its length; this reads each part once.
"""

import re

_FUNCTION = re.compile(r"\s*<function=[^<>\n]+>")
_FUNCTION_CLOSE = "</function>"
_PARAMETER = re.compile(r"\s*<parameter=[^<>\n]+>")
_PARAMETER_CLOSE = re.compile(r"</parameter>(?=\s*+(?:<parameter=|</function>|\Z))")
_STRING_REST = re.compile(r'(?:[^"\\]|\\.)*+', re.DOTALL)


class CallScanner:
    """Reads the body of one call. The formats are those of `parse_call`."""

    def __init__(self) -> None:
        self._json: bool | None = None  # None before anything but whitespace has come
        self._in_value = False  # or in a string, if it is JSON
        self._escaped = False  # the string so far ends in a backslash

    def ends_in_value(self, text: str) -> bool:
        """Add the text up to the next closing tag; whether that tag belongs to a value.

        If it does, the tag is the beginning of the next text.
        """
        at = 0
        if self._json is None:
            at = len(text) - len(text.lstrip())
            self._json = text.startswith("{", at)
            if not self._json:
                head = _FUNCTION.match(text, at)
                key = head and _PARAMETER.match(text, head.end())
                if key is None:
                    return False
                self._in_value, at = True, key.end()
        return self._ends_in_string(text, at) if self._json else self._ends_in_parameter(text, at)

    def _ends_in_parameter(self, text: str, at: int) -> bool:
        end = len(text.rstrip())
        while self._in_value:
            close = _PARAMETER_CLOSE.search(text, at, end)
            if close is None:
                return not text.endswith(_FUNCTION_CLOSE, at, end)
            key = _PARAMETER.match(text, close.end(), end)
            self._in_value, at = key is not None, key.end() if key else end
        return False

    def _ends_in_string(self, text: str, at: int) -> bool:
        while at < len(text):
            if not self._in_value:
                quote = text.find('"', at)
                if quote < 0:
                    break
                self._in_value, at = True, quote + 1
                continue
            if self._escaped:
                self._escaped, at = False, at + 1
            at = _STRING_REST.match(text, at).end()  # pyright: ignore[reportOptionalMemberAccess]
            if text.startswith('"', at):
                self._in_value = False
            elif at < len(text):  # a backslash that ends the text
                self._escaped = True
            at += 1
        return self._in_value
