"""What a terminal sends, cut into text, escape sequences and pastes.

Any bytes are taken: what is no UTF-8 is replaced, and a sequence that breaks off is dropped.
Within a bracketed paste nothing has a meaning but its end. Imports no Textual.
"""

import re
from codecs import getincrementaldecoder
from dataclasses import dataclass

ESCAPE = "\x1b"
ESCAPE_SECONDS = 0.1  # after which an escape character was the key, and no sequence begins with it
SEQUENCE_SECONDS = 1.0  # after which a sequence that has begun does not go on
PASTE_SECONDS = 2.0  # after which the end of a paste is not awaited any more
LONGEST_SEQUENCE = 1 << 16  # bytes
# More bytes in one read, with the end of a line in them, were not typed.
LONGEST_TYPED = 32
_PASTE_BEGIN, _PASTE_END = b"\x1b[200~", b"\x1b[201~"
# The body of a string, such as an answer of the terminal. Any control character breaks it off, so
# that one without an end makes no key deaf.
_STRING = rb"(?:\][0-9]|P[0-9>!$+]|_G)[^\x00-\x1f]*"
_WHOLE = re.compile(
    rb"\x1b(?:"
    rb"\[\[[A-E]"  # F1 to F5 of the Linux console
    rb"|\[M[\x20-\xff]{3}"  # the mouse, as in X10: no text
    rb"|\[(?![\[M])[0-?]*[ -/]*[@-~]"  # CSI
    rb"|O[0-9;]*[@-~]"  # SS3
    rb"|" + _STRING + rb"(?:\x07|\x1b\\)"  # OSC, DCS, APC
    # Alt and a key, also one that could begin a sequence.
    rb"|[\t\r\n\x08 -NQ-Z\\^`-\x7f]|\](?=[^0-9])|P(?=[^0-9>!$+])|_(?=[^G])|O(?=[^0-9;@-~])"
    rb")"
)
_BEGUN = re.compile(
    rb"\x1b(?:\[(?:\[?|M[\x20-\xff]{0,2}|(?![\[M])[0-?]*[ -/]*)|O[0-9;]*|" + _STRING + rb"\x1b?"
    rb"|[\]P_])?"
)
_BROKEN = re.compile(rb"\x1b(?:\[(?:M[\x20-\xff]{0,2}|\[?[0-?]*[ -/]*)|O[0-9;]*|" + _STRING + rb")")
_TYPED_BEGINNING = 2  # bytes of a beginning that a user can type: Alt+[


@dataclass(frozen=True, slots=True)
class Typed:
    """Characters as they come from keys, an input method or a paste without marks."""

    text: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """An escape sequence: a key, the mouse, or an answer of the terminal; also the escape alone.

    Each character of the text is a byte.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Pasted:
    """The text between the marks of a paste."""

    text: str


Token = Typed | Sequence | Pasted


class TerminalInput:
    """Cuts the bytes of a terminal, in whatever pieces they arrive, into tokens."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._held = b""  # the beginning of a sequence
        self._paste: bytearray | None = None  # the paste that is arriving
        self._unended = False  # the last paste had no end so far

    @property
    def holds(self) -> bool:
        """Whether something waits for what follows it."""
        return bool(self._held or self._paste is not None or self._decoder.getstate()[0])

    def feed(self, data: bytes) -> list[Token]:
        """The tokens that are complete now."""
        if self._unended:
            data = self._continued(data)
        tokens: list[Token] = []
        data, self._held = self._held + data, b""
        at = 0
        while at < len(data):
            if self._paste is not None:
                at = self._take_paste(data, at, tokens)
                continue
            escape = data.find(b"\x1b", at)
            end = len(data) if escape < 0 else escape
            if text := self._decoder.decode(data[at:end], final=escape >= 0):
                tokens.append(Typed(text))
            at = end
            if escape < 0:
                break
            if whole := _WHOLE.match(data, at):
                at = whole.end()
                self._take_sequence(whole.group(), tokens)
            elif _BEGUN.fullmatch(data, at):
                if len(data) - at <= LONGEST_SEQUENCE:
                    self._held = data[at:]
                break
            elif broken := _BROKEN.match(data, at):
                at = broken.end()
            else:
                tokens.append(Sequence(ESCAPE))
                at += 1
        return tokens

    def pause(self, seconds: float) -> list[Token]:
        """The tokens that are complete since nothing has arrived for this time."""
        tokens: list[Token] = []
        if self._paste is not None:
            if seconds >= PASTE_SECONDS:
                self._end_paste(bytes(self._paste), tokens)
                self._unended = True
            return tokens
        if seconds >= ESCAPE_SECONDS and (text := self._decoder.decode(b"", final=True)):
            tokens.append(Typed(text))
        if self._held and len(self._held) <= _TYPED_BEGINNING:
            if seconds >= ESCAPE_SECONDS:
                tokens.append(Sequence(self._held.decode("latin-1")))
                self._held = b""
        elif seconds >= SEQUENCE_SECONDS:
            self._held = b""
        return tokens

    def _take_sequence(self, sequence: bytes, tokens: list[Token]) -> None:
        if sequence == _PASTE_BEGIN:
            self._paste = bytearray()
        elif sequence != _PASTE_END:
            tokens.append(Sequence(sequence.decode("latin-1")))

    def _take_paste(self, data: bytes, at: int, tokens: list[Token]) -> int:
        """Take what belongs to the paste that is arriving; where the rest of the data begins."""
        paste = self._paste
        assert paste is not None
        before = len(paste)
        paste += data[at:]
        end = paste.find(_PASTE_END, max(0, before - len(_PASTE_END) + 1))
        if end < 0:
            return len(data)
        self._end_paste(bytes(paste[:end]), tokens)
        return at + end + len(_PASTE_END) - before

    def _end_paste(self, text: bytes, tokens: list[Token]) -> None:
        self._paste = None
        tokens.append(Pasted(text.decode(errors="replace")))

    def _continued(self, data: bytes) -> bytes:
        """The data, as a paste if it belongs to the one before, whose end was not there in time."""
        begin, end = data.find(_PASTE_BEGIN), data.find(_PASTE_END)
        lines = len(data) > LONGEST_TYPED and (b"\r" in data or b"\n" in data)
        typed = data.startswith(b"\x1b") or (end < 0 and not lines)
        self._unended = begin < 0 and end < 0 and typed
        return data if typed or 0 <= begin < end else _PASTE_BEGIN + data
