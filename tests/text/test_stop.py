"""Stop strings end a reply wherever the chunks of its text end."""

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text.stop import StopStrings, partial_match_length


def run(stops: list[str], chunks: list[str]) -> tuple[list[str], bool]:
    strings = StopStrings(stops)
    out = [strings.push(chunk) for chunk in chunks]
    return [*out, strings.flush()], strings.stopped


@pytest.mark.parametrize("size", range(1, 9))
def test_any_chunking_gives_the_text_before_the_stop(size):
    text = "one ababac two STOP three"
    for stops, expected in (
        (["STOP"], "one ababac two "),
        (["abac"], "one ab"),
        (["zzz"], text),
        (["two", "abab"], "one "),
        ([], text),
    ):
        out, stopped = run(stops, [text[i : i + size] for i in range(0, len(text), size)])
        assert "".join(out) == expected
        assert stopped == (expected != text)


def test_only_a_possible_start_of_a_stop_string_is_held_back():
    assert run(["END"], ["so E", "N", "T", "s"])[0] == ["so ", "", "ENT", "s", ""]


def test_the_stop_string_that_comes_first_is_named():
    strings = StopStrings(["three", "two"])
    assert strings.found is None
    strings.push("one two three")
    assert strings.found == "two"


def test_flush_returns_the_held_text():
    assert run(["END"], ["the E"])[0] == ["the ", "E"]


def test_an_empty_stop_string_is_refused():
    with pytest.raises(Qwen35Error, match="empty"):
        StopStrings(["x", ""])


@pytest.mark.parametrize(("text", "length"), [("a<", 1), ("a<<", 2), ("<<x", 0), ("<<", 2)])
def test_partial_match_is_the_longest(text, length):
    assert partial_match_length(text, "<<<") == length
