"""Characters as a reader sees them."""

import random

import pytest
import regex
from qwen35_chat.graphemes import (
    _SINGLE,
    boundary_after,
    boundary_before,
    cells_before,
    cut,
    graphemes,
    starts,
)
from rich.cells import cell_len

from tests.app.clusters import CLUSTERS, PIECES


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_what_is_seen_as_one_character_is_one(cluster: str) -> None:
    assert list(graphemes(f"a{cluster}b")) == ["a", cluster, "b"]
    assert [boundary_before(f"a{cluster}b", at) for at in range(1, len(cluster) + 1)] == [
        *[1] * len(cluster)
    ]
    assert {boundary_after(f"a{cluster}b", at) for at in range(2, len(cluster) + 2)} == {
        len(cluster) + 1
    }


def test_characters_that_are_not_looked_at_combine_with_none() -> None:
    """As many as the Unicode data of `regex` say, each after itself and after its neighbour."""
    single = [chr(code) for code in range(0x110000) if _SINGLE.fullmatch(chr(code))]
    assert len(single) > 100_000
    text = "".join(character * 2 for character in single)
    assert len(regex.findall(r"\X", text)) == len(text)


def test_clusters_joined_are_the_text_and_no_narrower_than_it() -> None:
    random_ = random.Random(7)
    for _ in range(3_000):
        text = "".join(random_.choices(PIECES, k=random_.randrange(12)))
        clusters = graphemes(text)
        assert "".join(clusters) == text
        assert [text[a:] for a in starts(clusters)][-1] == ""
        assert cells_before(clusters)[-1] >= cell_len(text), ascii(text)


@pytest.mark.parametrize(
    ("text", "width", "kept"),
    [
        ("abc", 2, "ab"),
        ("漢字", 3, "漢"),
        ("漢字", 0, ""),
        ("🇳🇴🇸🇪", 3, "🇳🇴"),
        ("a⚠️b", 2, "a"),
        ("e\u0301e\u0301", 1, "e\u0301"),
    ],
)
def test_a_text_is_cut_between_characters(text: str, width: int, kept: str) -> None:
    assert cut(text, width) == kept
