"""The encoding of a text file: UTF-8, UTF-16, UTF-32 or GBK."""

import codecs
import re
from dataclasses import dataclass

_MARKS = (  # a mark of UTF-32 begins like one of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a byte order mark"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
# A pair of bytes in GBK: punctuation and symbols, kana, and the characters of GB 2312.
_PAIR = re.compile(rb"[\x81-\xfe][\x30-\xfe]")
_SYMBOL = re.compile(rb"[\xa1\xa3][\xa1-\xfe]")
_COMMON = re.compile(rb"[\xb0-\xf7][\xa1-\xfe]")
_KOREAN = re.compile(rb"[\xb0-\xc8][\xa1-\xfe]")
SHARE = 0.9  # of the characters, which have to be common ones
LEAST_ZEROS = 0.03  # of the characters of UTF-16 are spaces, line ends, digits or Latin letters
LEAST_PAIRS = 8  # fewer may be as those of another language by chance
_CONTROLS = re.compile(r"[^\t\n\v\f\r\x1b -\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text and its encoding, for people; "" for UTF-8."""

    text: str
    encoding: str = ""


def decoded(data: bytes) -> Decoded | None:
    """The text of some bytes, without a byte order mark; None if they are no text."""
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            return _text(data, codec, name)
    if (found := _text(data, "utf-8", "")) or b"\0" not in data:
        return found or (_text(data, "gb18030", "GBK") if _is_chinese(data) else None)
    # UTF-16 without a mark: its spaces and line ends have a zero in the one or the other byte.
    for codec, high in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        zeros = high.count(0)
        likely = zeros >= SHARE * data.count(0) and zeros >= LEAST_ZEROS * len(high)
        if likely and (found := _text(data, codec, "UTF-16")):
            return found
    return None


def _text(data: bytes, codec: str, name: str) -> Decoded | None:
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return None
    controls = _CONTROLS.search(text) if name else "\0" in text
    return None if controls else Decoded(text, name)


def _is_chinese(data: bytes) -> bool:
    """Whether bytes that are no UTF-8 look like GBK, and not like another encoding of pairs."""
    pairs = _PAIR.findall(data)
    letters = [pair for pair in pairs if not _SYMBOL.fullmatch(pair)]
    common = sum(_COMMON.fullmatch(pair) is not None for pair in letters)
    if not letters or common < SHARE * len(letters):
        return False
    korean = sum(_KOREAN.fullmatch(pair) is not None for pair in letters)
    upper = sum(min(pair) >= 0xC0 for pair in letters)  # all of KOI8 and Windows-1251
    return len(letters) < LEAST_PAIRS or max(korean, upper) < SHARE * len(letters)
