import pytest

from qwen35_mlx.terminal import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "␛[31mred"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("over\rwritten\x08", "over␍written␈"),
        ("\x9b31m", "\\x9b31m"),
        ("\x00\x7f", "␀␡"),
        ("half a pair \ud83d", "half a pair \ufffd"),
    ],
)
def test_control_characters_are_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert all(character.isprintable() for character in visible(text))


def test_newlines_tabs_and_all_scripts_stay() -> None:
    text = "a\tb\nĳ ñ 你好 👩‍🚀 עברית"
    assert visible(text) == text
