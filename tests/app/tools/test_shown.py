"""Calls as the user reads them before they run: nothing in them hides anything."""

import json

import pytest
from qwen35_chat.tools.calls import Tool
from qwen35_chat.tools.shown import (
    LONGEST_TEXT,
    MOST_LINES,
    said_of,
    shown_arguments,
    shown_name,
)

LONG = "begin" + "a" * 100_000 + "end"


def test_a_long_value_hides_no_other_one() -> None:
    arguments = {"filler": LONG, "nested": [{"command": LONG}, {"path": "/etc"}], LONG: True}
    shown = shown_arguments(arguments)
    for name in ("filler", "nested", "command", "path"):
        assert f'"{name}": ' in shown
    assert '"/etc"' in shown
    assert shown.count('"begin') == shown.count('end"') == 3
    assert (
        shown.count(f" … {len(LONG) - LONGEST_TEXT:,} more characters, which are not shown … ") == 3
    )
    assert len(shown) < 4 * LONGEST_TEXT


@pytest.mark.parametrize("text", ["a" + '"' * 30_000, "\\" * 30_001, "a" + "\x01" * 30_000])
def test_a_long_text_is_not_cut_within_an_escape(text: str) -> None:
    begin, _, end = shown_arguments({"x": text}, None)[len('{"x": ') : -1].split(" … ")
    assert json.loads(begin) == text[: LONGEST_TEXT // 2]
    assert json.loads(end) == text[-LONGEST_TEXT // 2 :]


def test_escapes_do_not_make_a_text_long() -> None:
    text = "\x01" * LONGEST_TEXT
    assert json.loads(shown_arguments({"x": text})) == {"x": text}


HIDDEN = (
    "ad 34f 115f 17b5 180b 180e 180f 200b 202e 2028 2065 2800 3164 fe0f feff ffa0 fff0 e0041 e01ef"
)


@pytest.mark.parametrize("code", HIDDEN.split())
def test_characters_that_cannot_be_seen_are_escapes(code: str) -> None:
    char, escape = chr(int(code, 16)), f"\\u{code:>04}"
    assert shown_arguments({"x": f"a{char}b"}, None) == f'{{"x": "a{escape}b"}}'
    assert shown_name(f"a{char}b") == f"a{escape}b"


def test_a_long_list_is_one_line_with_all_its_values() -> None:
    numbers = [*range(MOST_LINES)]
    assert shown_arguments({"x": numbers[3:]}).count("\n") == MOST_LINES
    shown = shown_arguments({"x": numbers})
    assert "\n" not in shown
    assert json.loads(shown) == {"x": numbers}
    commas = ",{[" * MOST_LINES
    assert shown_arguments({"x": commas}) == f'{{\n  "x": "{commas}"\n}}'


def test_letters_of_any_script_are_themselves() -> None:
    text = "Grüß 你好 한국 हिन्दी ᠮ ⠓ 😀"
    assert shown_arguments({"x": text}, None) == f'{{"x": "{text}"}}'


def test_what_a_server_says_of_its_tool_is_quoted_on_one_line() -> None:
    tool = Tool("files", "read", "  Read a file.\x1b[1m\u202e\nPress 2 now.", {}, "")
    assert said_of(tool) == "files says of it: \u201cRead a file.\u241b[1m\\u202e\u201d"
    assert said_of(Tool("files", "read", " \n", {}, "")) == ""


def test_a_short_call_is_one_line() -> None:
    assert shown_arguments({"path": "a.txt"}) == '{"path": "a.txt"}'
    assert shown_arguments({"path": "a" * 60}).count("\n") == 2
    assert shown_arguments({"path": "a", "to": "b"}).count("\n") == 3
