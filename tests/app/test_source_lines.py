"""Where lines of the screen come from in the text of a message."""

from collections.abc import Callable

import pytest
from qwen35_chat.drawing.entries import ReplyEntry, UserEntry
from qwen35_chat.drawing.entry import TranscriptEntry
from qwen35_chat.drawing.line import CELL, Line
from qwen35_chat.drawing.markdown_text import MarkdownText
from qwen35_chat.drawing.rows import Row, rows_of
from qwen35_chat.drawing.selection import Place, Selection, selected_text

TEXT = """# A **title**

Some *words* in a paragraph
of two lines, with `code` and a very long line that is wrapped at any width that a screen may have.

- one
- two, which is long enough to be wrapped on a narrow screen at least once or twice
  ```sh
  ls\t-l
  ```

> a quote
> of two lines

| name | what it is |
|---|---|
| a | the first of them, long enough to be wrapped within its cell |
| bb | the second |

```python
def f(x):
\treturn x + 1  # a comment that is long enough to be wrapped on a narrow screen, twice or so
```

Title
=====

- [x] a task

> quoted
>
> twice

| a | b |
|:--|--:|
| c | d<br>e and a cell of two lines |

Where $x^2$ is and
$$\\frac{a}{b}$$
is as well.

$$
x = y
$$

The end[^1].

[^1]: A note.

<b>html</b>
"""
LONG = (
    TEXT + "\n```c\n" + "".join(f"int value_{n} = {n};\n" for n in range(400)) + "```\n\nThe end.\n"
)


def lines_of(made: MarkdownText, width: int) -> list[Line]:
    return [line for part in made.parts for line in part.lines(width)]


def whole(text: str) -> MarkdownText:
    made = MarkdownText(stream=3)
    made.feed(text)
    made.finish()
    return made


def places(lines: list[Line]) -> list[tuple[int, int, int, str]]:
    """Each character of each run: where its source begins, its place, and itself."""
    return [
        (line.source.stream, line.source.start, run.at + n, line.content.plain[run.start + n])
        for line in lines
        if line.source is not None
        for run in line.runs
        for n in range(run.end - run.start)
    ]


@pytest.mark.parametrize("width", [24, 60, 100])
def test_what_is_shown_is_in_the_line_it_comes_from(width: int) -> None:
    for line in lines_of(whole(LONG), width):
        if line.source is None:
            continue
        source = LONG[line.source.start : line.source.end]
        for run in line.runs:
            for word in line.content.plain[run.start : run.end].split():
                assert word.strip("().:¹") in source or "$" in source


@pytest.mark.parametrize("text", [TEXT, LONG])
def test_a_place_is_the_same_at_any_width(text: str) -> None:
    made = whole(text)
    wide, narrow = set(places(lines_of(made, 110))), set(places(lines_of(made, 48)))
    # At the end of a cell's line the space that separates its words is not shown.
    assert {place for place in wide ^ narrow if place[3] != " "} == set()
    assert len(wide) > 400


@pytest.mark.parametrize("size", [61, 1_000])
def test_a_place_is_the_same_while_the_text_grows(size: int) -> None:
    final = set(places(lines_of(whole(LONG), 60)))
    growing = MarkdownText(stream=3)
    for at in range(0, len(LONG), size):
        growing.feed(LONG[at : at + size])
        lines = lines_of(growing, 60)
        seen = places(lines)
        # The block that is being written may still be read as something else.
        block = lines[-1].source.block if lines and lines[-1].source else len(LONG)
        settled = {place for place in seen if place[1] < block - 400}
        assert settled <= final
    growing.finish()
    assert set(places(lines_of(growing, 60))) == final


def test_places_in_code_that_is_being_written_stay() -> None:
    text = "See:\n\n```c\n" + "".join(f"int x{n} = {n};\n" for n in range(90))
    final = set(places(lines_of(whole(text), 40)))
    growing = MarkdownText(stream=3)
    for at in range(0, len(text), 50):
        growing.feed(text[at : at + 50])
        assert set(places(lines_of(growing, 40))) <= final


def test_a_row_of_a_table_counts_by_its_cells() -> None:
    row = next(line for line in lines_of(whole(TEXT), 100) if line.content.plain.startswith("bb"))
    assert row.source is not None
    assert TEXT[row.source.start : row.source.end] == "| bb | the second |"
    assert [run.at for run in row.runs] == [0, CELL]


def test_code_in_a_list_comes_without_its_indent() -> None:
    line = next(line for line in lines_of(whole(TEXT), 80) if "ls" in line.content.plain)
    assert line.source is not None
    assert TEXT[line.source.start + line.source.indent : line.source.end] == "ls\t-l"


def test_a_message_has_the_same_places_folded_and_unfolded() -> None:
    entry = UserEntry("\n".join(f"line {n}" for n in range(40)))
    folded = places([line for part in entry.column(60).parts for line in part.lines(58)])
    entry.toggle()
    unfolded = places([line for part in entry.column(60).parts for line in part.lines(58)])
    assert unfolded[: len(folded)] == folded
    assert len(unfolded) > len(folded) > 50


def test_the_texts_of_a_reply_are_what_its_parts_show() -> None:
    entry = ReplyEntry(
        thinking="Let me *see*.",
        answer="**Yes**",
        calls=[("f", {"a": 1}), ("g", {})],
        note="Stopped.",
        view="open",
    )
    column = entry.column(60)
    sources = entry.sources
    shown = [
        sources[line.source.stream][line.source.start : line.source.end]
        for part in column.parts
        for line in part.lines(60)
        if line.source is not None
    ]
    calls = ['asks for  f({"a": 1})', "asks for  g({})"]
    assert shown == ["Let me *see*.", "**Yes**", *calls, "Stopped."]


def selected(
    entry: TranscriptEntry, first: Callable[[Row], bool], last: Callable[[Row], bool]
) -> str:
    """What is copied from the start of one row of an entry to the end of another."""
    column = entry.column(60)
    rows = [row for part in column.parts for row in rows_of(part.lines(column.width))]
    start, end = next(filter(first, rows)), next(filter(last, rows))
    begin = Place(entry.key, start.source.stream, start.source.start, 0)
    stop = Place(entry.key, end.source.stream, end.source.start, end.end)
    return selected_text(Selection(begin, stop), [entry], 60)


def test_rows_of_a_table_that_is_cut_come_with_its_head() -> None:
    rows = [f"| {n} | value {n} of a long table |" for n in range(300)]
    head = ["Above:", "", "| a | b |", "|:--|--:|"]
    entry = ReplyEntry(answer="\n".join([*head, *rows]))
    copied = selected(entry, lambda r: r.cells[0] == "150", lambda r: r.cells[0] == "152")
    assert copied == "\n".join([*head[2:], *rows[150:153]])
    copied = selected(entry, lambda r: r.cells[0] == "2", lambda r: r.cells[0] == "290")
    assert copied == "\n".join([*head[2:], *rows[2:291]])
    copied = selected(entry, lambda r: r.cells[0] == "a", lambda r: r.cells[0] == "1")
    assert copied == "\n".join([*head[2:], *rows[:2]])


def test_a_paragraph_that_is_cut_keeps_all_its_spaces() -> None:
    text = " ".join(f"word{n}" for n in range(2_000))
    entry = ReplyEntry(answer=text)
    assert selected(entry, lambda r: True, lambda r: r.source.end >= len(text)) == text
    column = entry.column(60)
    rows = [row for part in column.parts for row in rows_of(part.lines(column.width))]
    assert "".join(row.text(0, row.end) for row in rows) == text
    assert len(rows) > 2


def test_long_code_in_a_list_is_copied_without_the_indent_and_without_a_layout() -> None:
    code = [f"  x{n} = {n};" for n in range(900)]
    fenced = "\n".join(["- item", "", "  ```c", *(f"  {line}" for line in code), "  ```"])
    entry = ReplyEntry(answer=fenced)
    copied = selected(entry, lambda r: r.cells == ["  x0 = 0;"], lambda r: "x899" in r.cells[0])
    assert copied == "\n".join(code)


def test_what_is_folded_is_copied_only_as_far_as_it_is_shown() -> None:
    entry = UserEntry("\n".join(f"line {n}" for n in range(40)))
    copied = selected(entry, lambda r: r.cells == ["line 8"], lambda r: r.cells == ["line 9"])
    assert copied == "line 8\nline 9"
