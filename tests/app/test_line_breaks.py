"""Lines are broken between words, and between the characters of Chinese and Japanese."""

import random
from itertools import pairwise

import pytest
from qwen35_chat.drawing.line_breaks import LONGEST_LINE, break_offsets, widest_unit
from rich.cells import cell_len

CLOSING = "，。、！？：；）」』】》”’…ー々ぁっ％"
OPENING = "（「『【《“‘￥"


def broken(text: str, width: int) -> list[str]:
    offsets = [0, *break_offsets(text, width), len(text)]
    return [text[at:end] for at, end in pairwise(offsets)]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", 8, ["one two ", "three"]),
        ("Python 这是很长的句子", 12, ["Python 这是", "很长的句子"]),
        ("使用Python编写", 8, ["使用", "Python编", "写"]),
        ("你好，世界。再见！", 6, ["你好，", "世界。", "再见！"]),
        ("他说（注）的「话」", 8, ["他说", "（注）的", "「话」"]),
        ("他说“好”了", 6, ["他说", "“好”了"]),
        ("foo(重点)bar", 6, ["foo(重", "点)bar"]),
        ("ちょっとデーター", 6, ["ちょっ", "とデー", "ター"]),
        ("한국어 문장은", 8, ["한국어 ", "문장은"]),
        ("don’t go", 6, ["don’t ", "go"]),
        ("https://a.bc/de", 8, ["https://", "a.bc/de"]),
        ("x = 1\u00a0+\u00a02", 7, ["x = ", "1\u00a0+\u00a02"]),
        ("a\u3000b\u3000c", 5, ["a\u3000b\u3000", "c"]),
        ("界界界", 1, ["界", "界", "界"]),
        ("e\u0301e\u0301e\u0301", 2, ["e\u0301e\u0301", "e\u0301"]),
        ("🇳🇴🇸🇪🇩🇰", 5, ["🇳🇴🇸🇪", "🇩🇰"]),
        ("👨‍👩‍👧👨‍👩‍👧", 3, ["👨‍👩‍👧", "👨‍👩‍👧"]),
        ("㊗️㊗️㊗️", 4, ["㊗️㊗️", "㊗️"]),
        ("", 5, [""]),
    ],
)  # fmt: skip
def test_where_a_line_is_broken(text: str, width: int, lines: list[str]) -> None:
    assert broken(text, width) == lines


@pytest.mark.parametrize("mark", CLOSING)
def test_no_line_starts_with_what_closes(mark: str) -> None:
    text = f"天地玄黄{mark}宇宙{mark}洪荒" * 9
    for width in range(6, 20):
        assert mark not in [line[0] for line in broken(text, width)]


@pytest.mark.parametrize("mark", OPENING)
def test_no_line_ends_with_what_opens(mark: str) -> None:
    text = f"天地{mark}玄黄宇{mark}宙" * 9
    for width in range(6, 20):
        assert mark not in [line[-1] for line in broken(text, width)]


def test_any_text_fits_any_width_and_stays_whole() -> None:
    random_ = random.Random(5)
    pieces = [*"ab ，。（）「」“”世界ー…、！?($１ァ한글😀"]
    pieces += ["👨‍👩‍👧", "⚠️", "❤️", "🇳🇴", "e\u0301", "㊗️", "ไทย", "\u200d", "\ufe0f", "\u00a0"]
    pieces += ["\u3000", "x" * 30, "\u0301" * 90]
    for _ in range(3_000):
        text = "".join(random_.choices(pieces, k=random_.randrange(40)))
        width = random_.randrange(1, 20)
        lines = broken(text, width)
        assert "".join(lines) == text
        for line in lines:
            assert cell_len(line.rstrip(" \u3000")) <= max(width, 2), (text, width)


def test_marks_without_an_end_make_no_line_without_an_end() -> None:
    lines = broken("x" + "\u0301" * 9_000, 10)
    assert "".join(lines) == "x" + "\u0301" * 9_000
    assert max(map(len, lines)) <= LONGEST_LINE * 10 + 1


def test_the_widest_part_decides_the_width_of_a_column() -> None:
    assert widest_unit("one three two") == 5
    assert widest_unit("天地玄黄") == 2
    assert widest_unit("天地。") == 4
    assert widest_unit("") == 0
