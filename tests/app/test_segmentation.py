"""Words in scripts that are written without spaces."""

import time

import pytest
from qwen35_chat.segmentation import word_ends
from qwen35_chat.textual_editing import word_left, word_right

# Words, parted by "|", of which a run of letters is made.
TEXTS = {
    "simplified": "请|把|这个|文件|然后|保存",
    "traditional": "昨天|晚上|我們|一起|去|看|電影",
    "Japanese": "モデル|を|使い|ます",
    "Japanese without katakana": "天気|が|とても|良い",
    "Thai": "ภาษาไทย|ไม่|มี|ช่อง",
    "Latin within": "使用|Python|编写",
    "digits": "2026|年",
    "Korean": "한국어|",
    "Korean after Latin": "Python을|",
    "Cyrillic": "привет|",
    "Arabic": "السلام|",
    "Khmer": "ក|ម|ព",
    "Burmese": "မြ|န်|မ|ာ",
    "Lao and Thai": "ລ|ว",
    "accents": "e\u0301te\u0301|",
    "variants": "葛\U000e0100|です",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_words_forth_and_back(text: str) -> None:
    words = text.removesuffix("|").split("|")
    line = "".join(words)
    at, found = 0, []
    while at < len(line):
        at, before = word_right(line, at), at
        found.append(line[before:at])
    assert found == words
    while at:
        before, at = at, word_left(line, at)
        assert line[at:before] == found.pop()


@pytest.mark.parametrize("sign", "，。！、（」…· ,")
def test_punctuation_is_no_part_of_a_word(sign: str) -> None:
    line = f"文件{sign}翻译"
    assert word_right(line, 0) == 2
    assert word_left(line, 5) == 3


def test_signs_and_spaces_go_as_in_a_shell_of_vim() -> None:
    assert word_left("one, two  ", 10) == 5
    assert word_left("one, ", 5) == 3
    assert word_right("  one two", 0) == 5
    assert word_right("one  ", 3) == 5
    assert word_left("", 0) == word_right("", 0) == 0


def test_a_place_in_a_long_text_costs_as_much_as_in_a_short_one() -> None:
    long, started = "中文" * 500_000, time.perf_counter()
    for _ in range(100):
        word_ends(long, long)
    assert time.perf_counter() - started < 0.5
