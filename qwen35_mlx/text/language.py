"""The language of a conversation, as a request to the model names it."""

import unicodedata
from collections import Counter
from collections.abc import Iterable

# Names of Unicode characters begin with their script; these scripts belong to one language.
_LANGUAGES = {
    "CJK": "Chinese",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
}
# Japanese has many characters in common with Chinese, and these among them in every sentence.
_HIRAGANA_SHARE = 0.05
# Characters that are looked at.
SAMPLE = 20_000


def written_in(texts: Iterable[str]) -> str:
    """The language that most of the texts are in, for a request to write in it too.

    A script that several languages share is named, and the language is left to the model.

    Args:
        texts: those that count most first; only `SAMPLE` characters are looked at.
    """
    sizes = _script_sizes(texts)
    if sizes["HIRAGANA"] > _HIRAGANA_SHARE * (sizes["HIRAGANA"] + sizes["CJK"]):
        sizes["HIRAGANA"] += sizes.pop("CJK") + sizes.pop("KATAKANA", 0)
    script = max(sizes, key=lambda name: sizes[name], default="LATIN")
    if script in _LANGUAGES:
        return _LANGUAGES[script]
    if script == "LATIN":
        return "the language that the user writes"
    return f"the language that the user writes, in {script.capitalize()} script"


def _script_sizes(texts: Iterable[str]) -> Counter[str]:
    """The bytes of the letters of each script: a character of Chinese says more than a letter."""
    sizes: Counter[str] = Counter()
    left = SAMPLE
    for text in texts:
        for char in unicodedata.normalize("NFKC", text[:left]):  # of full and half width alike
            if char.isalpha():
                sizes[unicodedata.name(char, "").partition(" ")[0]] += len(char.encode())
        left -= len(text)
        if left <= 0:
            break
    return sizes
