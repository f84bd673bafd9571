"""Words in scripts that are written without spaces, as BudouX finds them.

Its models decide by three characters before a place and three after it whether a word ends there,
so a place in a long text costs no more than one in a short text.
"""

import json
from functools import cache
from pkgutil import get_data
from typing import TYPE_CHECKING

from qwen35_chat.patterns import pattern

if TYPE_CHECKING:
    from budoux import Parser

AROUND = 3  # characters on each side that decide
CONTEXT = 24  # characters on each side that show the language
_HAN = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_KANA = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_THAI = "\u0e00-\u0e3a\u0e40-\u0e4e"
# Lao, Burmese, Khmer and Tai scripts, for which there is no model: each character is a word.
_OTHER = (
    "\u0e80-\u0edf\u1000-\u109f\u1780-\u17d3\u17dd\u19e0-\u19ff\u1a20-\u1aad\ua9e0-\ua9fe"
    "\uaa60-\uaadf"
)
UNSPACED = f"{_HAN}{_KANA}{_THAI}{_OTHER}"  # inside the brackets of a regular expression
_SCRIPT = pattern(f"([{_HAN}])|([{_KANA}])|([{_THAI}])|([{_OTHER}])")
HAN, KANA, THAI, OTHER = range(1, 5)
_IS_KANA = pattern(f"[{_KANA}]")
_IS_HAN = pattern(f"[{_HAN}]")


def word_ends(before: str, after: str) -> bool:
    """Whether a word ends between two texts, both of which have a letter there.

    Args:
        before, after: the text on either side, of which `CONTEXT` characters are looked at.
    """
    before, after = before[-CONTEXT:], after[:CONTEXT]
    # Without the marks on it: those of Thai are no letters.
    left = _script(next(filter(str.isalnum, reversed(before)), ""))
    right = _script(after)
    if not left and not right:
        return False
    if OTHER in (left, right) or not _together(left, right):
        return True
    if left == THAI:
        model = "th"
    elif _IS_KANA().search(before + after):
        model = "ja_word"
    else:
        model = _chinese(before + after)
    context = before[-AROUND:]
    parts = _parser(model).parse(context + after[:AROUND])
    end = 0
    for part in parts:
        end += len(part)
        if end >= len(context):
            break
    return end == len(context)


def _script(text: str) -> int:
    """The script of the first character: HAN, KANA, THAI or OTHER; 0 for one with spaces."""
    found = _SCRIPT().match(text)
    return found.lastindex or 0 if found else 0


def _together(left: int, right: int) -> bool:
    """Whether one word may have characters of both scripts."""
    return left == right or {left, right} == {HAN, KANA}


def _chinese(text: str) -> str:
    """The model for a text in Chinese: characters that GB 2312 lacks are traditional."""
    try:
        "".join(_IS_HAN().findall(text)).encode("gb2312")
    except UnicodeEncodeError:
        return "zh-hant"
    return "zh-hans"


@cache
def _parser(model: str) -> "Parser":
    # Imported when first needed, with the model: together 20 ms.
    from budoux import Parser

    return Parser(json.loads(get_data("budoux", f"models/{model}.json") or b"{}"))
