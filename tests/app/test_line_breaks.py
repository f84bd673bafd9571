"""Lines are broken between words, and between the characters of Chinese and Japanese."""

import random
from itertools import accumulate, pairwise

import pytest
from qwen35_chat.drawing.line_breaks import (
    LEAST_LINE,
    LONGEST_LINE,
    break_offsets,
    broken,
    widest_unit,
)
from qwen35_chat.graphemes import graphemes
from rich.cells import cell_len

from tests.app.clusters import CLUSTERS, PIECES

CLOSING = "，。、！？：；）」』】》”’…ー々ぁっ％"
OPENING = "（「『【《“‘￥"


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


@pytest.mark.parametrize("hanging", [None, 0, 1])
def test_any_text_fits_any_width_and_no_character_is_cut(hanging: int | None) -> None:
    random_ = random.Random(5)
    pieces = [piece for piece in PIECES if len(piece) < LEAST_LINE]
    for number in range(2_500):
        text = "".join(random_.choices(pieces, k=random_.randrange(40)))
        width = number % 80 + 1 if number % 2 else random_.randrange(1, 8)
        offsets = break_offsets(text, width, hanging)
        assert {*offsets} <= {0, *accumulate(map(len, graphemes(text)))}, (ascii(text), width)
        for start, end in pairwise([0, *offsets, len(text)]):
            line = text[start:end]
            spaces = len(line) - len(line.rstrip(" \t\u3000"))
            line = line[: len(line) - (spaces if hanging is None else min(hanging, spaces))]
            # One character may be wider than the line.
            assert cell_len(line) <= width or len(graphemes(line)) == 1, (ascii(text), width)


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_a_character_of_many_code_points_is_never_broken(cluster: str) -> None:
    for width in range(1, 9):
        for text in (cluster * 9, f"a{cluster}" * 9, f"字{cluster}" * 9, f"({cluster})" * 9):
            edges = {0, *accumulate(map(len, graphemes(text)))}
            assert {*break_offsets(text, width)} <= edges, width


def test_marks_without_an_end_make_no_line_without_an_end() -> None:
    lines = broken("x" + "\u0301" * 9_000, 10)
    assert "".join(lines) == "x" + "\u0301" * 9_000
    assert max(map(len, lines)) <= LONGEST_LINE * 10 + 1


def test_the_widest_part_decides_the_width_of_a_column() -> None:
    assert widest_unit("one three two") == 5
    assert widest_unit("天地玄黄") == 2
    assert widest_unit("天地。") == 4
    assert widest_unit("") == 0
