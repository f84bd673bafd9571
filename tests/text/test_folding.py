"""Folded text is one spelling of what people take for the same, and no more than that."""

import random
import re
from unicodedata import normalize

import pytest

from qwen35_mlx.text.folding import folded, folded_spans, unfolded_index

# What people type for each other, in the order stored and typed.
ALIKE = {
    "case": ("GRÖSSE ЖУК ΣΟΦΟΣ", "größe жук σοφος"),
    "accents": ("naïve café, Łódź, smørrebrød", "naive cafe, lodz, smorrebrod"),
    "Vietnamese": ("Tiếng Việt đường phố", "tieng viet duong pho"),
    "Cyrillic": ("ёлка", "елка"),
    "Greek": ("Ἀθῆναι ά", "αθηναι α"),
    "full width": ("ＡＢＣ１２３（ｘ）", "abc123(x)"),
    "full-width punctuation": ("你好，世界！", "你好,世界!"),
    "half-width kana": ("ｶﾞｷﾞｸﾞ ﾊﾟﾝ", "ガギグ パン"),
    "ideographic space": ("東京　大阪", "東京 大阪"),
    "ligature": ("ﬁle ㎏ №", "file kg no"),
    "Arabic vowels": ("مُحَمَّد كــتاب أحمد", "محمد كتاب احمد"),
    "Hebrew points": ("שָׁלוֹם", "שלום"),
    "compatibility ideograph": ("\uf900\ufa0e", "\u8c48\ufa0e"),
    "emoji": ("❤️ 👨‍👩‍👧", "❤ 👨👩👧"),
    "soft hyphen": ("Donau\u00addampf\u200bschiff\ufeff", "donaudampfschiff"),
    "control characters": ("a\x00b\nc\td\x85e", "a b c d e"),
    "dotless": ("ISPARTA İzmir ısı", "isparta izmir isi"),
}
DIFFERENT = {
    "kana with voicing": ("はハ", "ばバ"),
    "Thai vowels": ("ที่", "ทู่"),
    "Thai tones": ("มา", "ม้า"),
    "Hindi vowels": ("कि", "की"),
    "Tamil vowels": ("கி", "கீ"),
    "Hangul": ("가", "각"),
    "not equal": ("=", "≠"),
    "Han": ("天", "夫"),
    "emoji of two colours": ("👍🏽", "👍🏿"),
    "length of kana": ("ビル", "ビール"),
}
TEXTS = [text for pair in (*ALIKE.values(), *DIFFERENT.values()) for text in pair]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize(("stored", "typed"), ALIKE.values(), ids=ALIKE)
def test_spellings_of_the_same_fold_to_the_same(stored: str, typed: str, form) -> None:
    assert folded(normalize(form, stored)) == folded(stored) == folded(typed)


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_other_letters_stay_others(one: str, other: str) -> None:
    assert folded(one) != folded(other)
    assert folded(one)


RANGES = ((0x20, 0x600), (0x300, 0x370), (0x600, 0x700), (0x900, 0x1200), (0x1AB0, 0x3100))
RANGES = (*RANGES, (0xA000, 0xD800), (0xF900, 0x10000), (0x10000, 0x13000), (0x1F000, 0x1FB00))


def random_text(rng: random.Random, most: int) -> str:
    return "".join(
        chr(rng.randrange(*rng.choice(RANGES))) for _ in range(rng.randrange(1, most + 1))
    )


def test_folding_again_or_after_normalization_changes_nothing() -> None:
    rng = random.Random(1)
    for _ in range(5_000):
        text = random_text(rng, 6)
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            assert folded(normalize(form, text)) == folded(text), ascii(text)
        assert folded(folded(text)) == folded(text), ascii(text)


def test_folding_takes_time_by_length_whatever_the_text() -> None:
    """All of the characters that are dropped or replaced, in one text."""
    everything = "".join(chr(c) for c in range(0x3000) if not 0xD800 <= c < 0xE000)
    assert len(folded(everything * 10)) < len(everything) * 20


def test_matches_are_placed_in_the_text_itself() -> None:
    text = "e\u0301 ﬁx \u1100\u1161\u11a8 ❤\ufe0f ｶﾞ"
    pattern = re.compile("e|i|각|❤|ガ")
    found = [text[start:end] for start, end in folded_spans(text, pattern)]
    assert found == ["e\u0301", "ﬁ", "\u1100\u1161\u11a8", "❤\ufe0f", "ｶﾞ"]


def test_a_match_folds_to_what_was_looked_for() -> None:
    rng = random.Random(2)
    for _ in range(2_000):
        before, word, after = (random_text(rng, 5) for _ in range(3))
        text = f"{before} {word} {after}"
        if not folded(word).strip():
            continue
        pattern = re.compile(re.escape(f" {folded(word)} "))
        for start, end in folded_spans(text, pattern):
            assert folded(word) in folded(text[start:end]), ascii(text)
            assert len(text[start:end]) <= len(word) + 12


@pytest.mark.parametrize("text", ["x" * 50, *TEXTS, "e\u0301" * 50, "ﷺ" * 20, "ﬁ\u0301" * 30])
def test_a_place_in_folded_text_is_one_in_the_text(text: str) -> None:
    for at in range(len(folded(text))):
        found = unfolded_index(text, at)
        assert len(folded(text[:found])) <= at < len(folded(text[: found + 1])) or (
            len(folded(text[:found])) == at
        )
