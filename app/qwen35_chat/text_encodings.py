"""The encoding of a text file: UTF-8, UTF-16, UTF-32, GBK or Big5.

GBK and Big5 use the same pairs of bytes. Which one a text is in shows in what it says: of Chinese
prose, about half are the characters of `_FREQUENT`; read in the wrong encoding, few are.
"""

import codecs
import re
from dataclasses import dataclass, replace

from qwen35_chat.patterns import pattern

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
# A pair of bytes in Big5: punctuation and symbols, common characters, and what no EUC has.
_BIG5_PAIR = re.compile(rb"[\x81-\xfe][\x40-\x7e\xa1-\xfe]")
_BIG5_SYMBOL = re.compile(rb"[\xa1-\xa3].", re.DOTALL)
_BIG5_COMMON = re.compile(rb"[\xa4-\xc6].", re.DOTALL)
_BIG5_LOW = re.compile(rb".[\x40-\x7e]", re.DOTALL)
# Of simplified and of traditional Chinese, without what looks the same.
_FREQUENT = frozenset(
    "的一是不了在人有我他中大上和到以要就出也你可生能而子那得下自之年作里用道行所然家事成方多去法好"
    "小心如前本起看天分面都只其想文日主手力高老把定公同使工已三二十长回最新名但此回次由性问什情没"
    "很信太口做名先更女因位特表理相手已加提将月外间海地水今市民政数全体部"
    "这个们来为国说时会对着过发后于还样经学现进种实动见开两点从当业无与话样头义些么吗给让"
    "關這個們來為國說時會對著過發後於還樣經學現進種實動見開兩點從當業無與話頭義些麼嗎給讓"
    "請请讀读寫写書书電电車车門门問间間長东東西買买賣卖錢钱萬万幾几邊边氣气愛爱聽听認认識识"
    "張张員员機机關关報报號号總总務务單单價价變变結结線线網网應应該该產产際际題题處处條条"
)
SHARE = 0.9  # of the characters, which have to be common ones
LEAST_ZEROS = 0.03  # of the characters of UTF-16 are spaces, line ends, digits or Latin letters
LEAST_PAIRS = 8  # fewer may be as those of another language by chance
LEAST_LEAD = 2  # more frequent characters than in the other reading, of a text of few pairs
LEAST_LOW = 0.1  # of its pairs end in a byte of ASCII
SAMPLED = 2_000  # characters of a text
_CONTROLS = pattern(r"[^\t\n\v\f\r\x1b -\U0010ffff]")


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
        return found or _chinese(data)
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
    controls = _CONTROLS().search(text) if name else "\0" in text
    return None if controls else Decoded(text, name)


def _chinese(data: bytes) -> Decoded | None:
    """The text of bytes in GBK or Big5; None if they look like neither."""
    gbk, big5 = _text(data, "gb18030", "GBK"), _text(data, "cp950", "Big5")
    looks = ((gbk, _is_gbk), (big5, _is_big5))
    likely = [found for found, is_like in looks if found and is_like(data)]
    if not likely:
        return None
    best = max(likely, key=_frequent)
    other = big5 if best is gbk else gbk
    if other is None:
        return best
    lead = _frequent(best) - _frequent(other)
    if len(_PAIR.findall(data)) >= LEAST_PAIRS:
        return best if lead > 0 or (lead == 0 and other not in likely) else None
    if lead >= LEAST_LEAD:
        return best
    return replace(best, encoding=f"{best.encoding} (too short to tell from {other.encoding})")


def _frequent(found: Decoded) -> int:
    """How many frequent characters there are at the beginning of a text."""
    return sum(character in _FREQUENT for character in found.text[:SAMPLED])


def _is_big5(data: bytes) -> bool:
    """Whether bytes that are no UTF-8 look like Big5, and not like another encoding of pairs."""
    letters = [pair for pair in _BIG5_PAIR.findall(data) if not _BIG5_SYMBOL.fullmatch(pair)]
    common = sum(_BIG5_COMMON.fullmatch(pair) is not None for pair in letters)
    if not letters or common < SHARE * len(letters):
        return False
    low = sum(_BIG5_LOW.fullmatch(pair) is not None for pair in letters)
    return len(letters) < LEAST_PAIRS or low >= LEAST_LOW * len(letters)


def _is_gbk(data: bytes) -> bool:
    """Whether bytes that are no UTF-8 look like GBK, and not like another encoding of pairs."""
    pairs = _PAIR.findall(data)
    letters = [pair for pair in pairs if not _SYMBOL.fullmatch(pair)]
    common = sum(_COMMON.fullmatch(pair) is not None for pair in letters)
    if not letters or common < SHARE * len(letters):
        return False
    korean = sum(_KOREAN.fullmatch(pair) is not None for pair in letters)
    upper = sum(min(pair) >= 0xC0 for pair in letters)  # all of KOI8 and Windows-1251
    return len(letters) < LEAST_PAIRS or max(korean, upper) < SHARE * len(letters)
