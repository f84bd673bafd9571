"""Texts that are long or odd: a frame's work is bounded, and the end of a reply is a frame."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
from qwen35_chat.attachments import Attached, taken_apart
from qwen35_chat.drawing.entries import NoticeEntry, ReplyEntry, TranscriptEntry, UserEntry
from qwen35_chat.drawing.line import Run
from qwen35_chat.drawing.markdown_text import MarkdownText
from qwen35_chat.drawing.sections import (
    LONGEST,
    MOST_LINES,
    SHORTEST,
    Section,
    Sections,
    fenced_code,
    pieces,
)
from qwen35_chat.drawing.wrapping import expand_tabs
from textual.content import Content, Span

SCREEN = 80  # lines that are laid out at most in a frame: two screens
MOST_STEPS = 170_000  # calls in a frame, most of them in the parser
TEXTS: dict[str, Callable[[int], str]] = {
    "short lines": lambda n: "y\n" * (n // 2),
    "tabs": lambda n: "a\t" * (n // 2),
    "brackets": lambda n: "[" * n,
    "images": lambda n: "![" * (n // 2),
    "links": lambda n: "[a](b) " * (n // 7),
    "stars": lambda n: "*_" * (n // 2),
    "backticks": lambda n: "`a" * (n // 2),
    "runs of backticks": lambda n: "".join("e" + "`" * k for k in range(1, int((2 * n) ** 0.5))),
    "nested quotes": lambda n: "> " * (n // 2) + "a",
    "quoted lines": lambda n: "> a\n" * (n // 4),
    "nested list": lambda n: "".join("  " * k + "- a\n" for k in range(int(n**0.5))),
    "list": lambda n: "- a\n" * (n // 4),
    "loose list": lambda n: "- a\n\n" * (n // 5),
    "numbers": lambda n: "1. a\n" * (n // 5),
    "wide table": lambda n: "\n".join(cell * (n // 6) for cell in ("|a", "|-", "|b")),
    "ragged table": lambda n: "|a" * (n // 8) + "\n" + "|-" * (n // 8) + "\n" + "|\n" * (n // 4),
    "tall table": lambda n: "|a|b|\n|-|-|\n" + "|c|d|\n" * (n // 6),
    "headings": lambda n: "# a\n" * (n // 4),
    "entities": lambda n: "&amp;" * (n // 5),
    "html": lambda n: "a <![CDATA[" * (n // 11),
    "addresses": lambda n: "http://a.b/c " * (n // 13),
    "mail": lambda n: "a@" * (n // 2),
    "small fences": lambda n: "```\na\n```\n" * (n // 10),
    "open fence": lambda n: "```python\n" + "a\n" * (n // 2),
    "fence of one line": lambda n: "```\n" + "a " * (n // 2),
    "fence in a list": lambda n: "- a\n  ```\n" + "  b\n" * (n // 4),
    "empty lines": lambda n: "\n" * n,
    "one word": lambda n: "a" * n,
    "words": lambda n: "ab " * (n // 3),
    "paragraphs": lambda n: "a\n\n" * (n // 3),
    "bold and code": lambda n: "**a** `b` " * (n // 10),
    "formulas": lambda n: "$x_1$ and " * (n // 10),
    "open formulas": lambda n: "$$x \\[y \\(z " * (n // 12),
    "open formula": lambda n: "$$\n" + "x + y\n" * (n // 6),
    "footnotes": lambda n: "a[^1]\n\n[^1]: b\n" * (n // 14),
    "bold Chinese": lambda n: "天地**玄黄**宇宙`洪荒`" * (n // 13),
    "opening brackets": lambda n: "（" * n,
    "wide characters": lambda n: "界" * n,
    "emoji": lambda n: "👨‍👩‍👧⚠️字" * (n // 8),
    "Thai": lambda n: "ภาษาไทยไม่มีช่องว่าง" * (n // 20),
    "combining characters": lambda n: "a" + "\u0301" * n,
    "control characters": lambda n: "\x1b[31m" * (n // 5),
    "definitions": lambda n: "[a]: b\n" * (n // 7),
    "attached files": lambda n: '<file name="a">\n' * (n // 16),
}


class Steps:
    """Functions that were called."""

    count = 0


@contextmanager
def counted() -> Iterator[Steps]:
    """Count calls of functions, which are the same on any machine."""
    steps = Steps()

    def one(_: FrameType, event: str, __: object) -> None:
        if event in ("call", "c_call"):
            steps.count += 1

    sys.setprofile(one)
    try:
        yield steps
    finally:
        sys.setprofile(None)


def draw(entry: TranscriptEntry) -> None:
    """What a frame does with the last entry."""
    column = entry.column(80)
    column.lay_out_up(len(column.parts) - 1, SCREEN)
    assert column.height >= 0


def frames(text: str) -> dict[str, int]:
    """The steps of each kind of frame with this text."""
    steps = {}
    growing = ReplyEntry(complete=False)
    growing.add_answer(text[:-50])
    draw(growing)
    with counted() as one:
        growing.add_answer(text[-50:])
        draw(growing)
    steps["a piece more"] = one.count
    with counted() as one:
        growing.finish()
        draw(growing)
    steps["the end"] = one.count
    for name, entry in {"a message": UserEntry(text), "a notice": NoticeEntry(text)}.items():
        with counted() as one:
            draw(entry)
        steps[name] = one.count
    return steps


@pytest.mark.parametrize("name", TEXTS)
def test_a_frame_takes_a_bounded_number_of_steps(name: str) -> None:
    frames("warm **up** http://a.b\n\n```python\n```\n" * 4)
    steps = frames(TEXTS[name](48_000))
    assert max(steps.values()) < MOST_STEPS, steps


def sections_of(text: str, *, seed: int | None = None) -> list[Section]:
    """The sections of a text that arrives in one piece, or in pieces of a random size."""
    cut = Sections()
    if seed is None:
        return cut.feed(text) + cut.finish()
    sizes, found, at = random.Random(seed), [], 0
    while at < len(text):
        size = sizes.choice([1, 7, 60, 999])
        found += cut.feed(text[at : at + size])
        at += size
    return found + cut.finish()


def shape(section: Section) -> tuple[object, ...]:
    fence = section.fence and (section.fence.language, section.fence.start, section.fence.end)
    flags = section.joined, section.within_line, section.tail, section.table
    return section.source, section.start, section.end, *flags, fence


MIXED = """# Head

Some *text* with `code` and a [link](https://a.b).

1. one

   ```python
   print(1)
   ```
2. two
   - three

5 apples, and no list.

```python
def f():

    return 1
```
| a | b |
|---|---|
| 1 | 2 |

"""


@pytest.mark.parametrize("name", [*TEXTS, "mixed"])
def test_sections_are_small_and_do_not_depend_on_how_the_text_arrives(name: str) -> None:
    text = MIXED * 60 if name == "mixed" else TEXTS[name](12_000)
    whole = sections_of(text)
    assert [s.start for s in whole] == [0, *[s.end for s in whole[:-1]]]
    assert whole[-1].end == len(text)
    assert all(len(s.source) <= LONGEST for s in whole)
    assert all(s.source.count("\n") <= MOST_LINES for s in whole)
    # All that is between sections is space, and the fences of long blocks of code.
    lost = len("".join(text.split())) - sum(len("".join(s.source.split())) for s in whole)
    assert lost <= 16 * len({id(s.fence) for s in whole if s.fence})
    for seed in (1, 2):
        assert list(map(shape, sections_of(text, seed=seed))) == list(map(shape, whole))


def plain(text: MarkdownText, width: int = 80) -> list[str]:
    return [line.content.plain for part in text.parts for line in part.lines(width)]


def complete(text: str) -> MarkdownText:
    made = MarkdownText()
    made.feed(text)
    made.finish()
    return made


def test_a_list_a_table_and_code_go_on_over_their_sections() -> None:
    items = plain(complete("".join(f"{n}. item\n" for n in range(1, 1_001))))
    assert items == [f"{n}. item" for n in range(1, 1_001)]
    rows = "".join(f"| {n} | x |\n" for n in range(1_000))
    table = plain(complete("| number | y |\n|---|---|\n" + rows))
    assert sum("number" in line for line in table) == 1
    assert sum("─" in line for line in table) == 1
    assert [line.split()[0] for line in table if line.split()[-1] == "x"] == [
        str(n) for n in range(1_000)
    ]
    code = "".join(f"value_{n} = {n}\n" for n in range(1_000))
    text = complete(f"Look:\n\n```python\n{code}```\n\nDone.")
    lines = plain(text)
    assert [line.strip() for line in lines[3:-2]] == code.splitlines()
    assert lines[:2] == ["Look:", ""]
    assert lines[-2:] == ["", "Done."]
    codes = {id(c): c for part in text.parts for c in part.codes}
    assert [c.code for c in codes.values()] == [code]
    (whole,) = codes.values()
    assert whole.uncoloured
    whole.colour()
    for part in text.parts:
        part.forget()
    assert plain(text) == lines
    assert any(line.content.spans for part in text.parts for line in part.lines(80)[5:])


def test_code_in_a_list_that_is_longer_than_a_section_stays_code() -> None:
    code = "".join(f"if {n}:\n    a\n" for n in range(300))
    indented = "".join(f"   {line}\n" for line in code.splitlines())
    lines = plain(complete(f"1. Do:\n   ```python\n{indented}   ```\n2. Then **this**"))
    assert lines[0] == "1. Do:"
    assert lines[-1].endswith("Then this")
    shown = [line[1:].rstrip() for line in lines if line.startswith((" if", "     a"))]
    assert shown == code.splitlines()


def test_a_link_finds_its_address_in_another_section() -> None:
    text = "See [the page][p].\n\n" + "word " * 2_000 + "\n\n[p]: https://example.org\n"
    assert plain(complete(text))[0] == "See the page (https://example.org)."


@pytest.mark.parametrize("mark", ["> ", "- "])
@pytest.mark.parametrize("depth", [9, 30, 200])
def test_what_is_nested_too_deeply_is_shown_as_it_was_written(mark: str, depth: int) -> None:
    assert "word" in "".join(plain(complete(mark * depth + "word")))
    assert all(len(line) <= 80 for line in plain(complete(mark * depth + "word")))


def test_tabs_become_spaces_and_styles_stay_where_they_were() -> None:
    content = Content("a\tbc\t界\td", [Span(0, 1, "bold"), Span(2, 5, "italic"), Span(7, 8, "dim")])
    shown, runs = expand_tabs(content)
    assert shown.plain == "a   bc  界  d"
    assert [(span.start, span.end) for span in shown.spans] == [(0, 1), (4, 8), (11, 12)]
    assert runs == [Run(0, 1, 0), Run(4, 6, 2), Run(8, 9, 5), Run(11, 12, 7)]


def test_a_message_of_a_megabyte_is_folded_to_its_first_lines() -> None:
    entry = UserEntry("line\n" * 200_000)
    column = entry.column(80)
    assert sum(len(part.lines(column.width)) for part in column.parts) < 15
    entry.toggle()
    unfolded = entry.column(80)
    assert unfolded.height > 199_000
    draw(entry)
    assert sum(part.laid_out for part in unfolded.parts) < 4


def test_pieces_of_a_plain_text_are_the_text() -> None:
    for text in ("", "a", "a\n", "x" * 9_001, "ab\n" * 5_000, ("y" * 3_000 + "\n") * 3):
        cut = list(pieces(text))
        whole = "".join(p.text if p.joined or not n else f"\n{p.text}" for n, p in enumerate(cut))
        assert whole == text or whole + "\n" == text
        assert all(len(piece.text) <= LONGEST for piece in cut)
        assert all(text.startswith(piece.text, piece.start) for piece in cut)


def test_files_in_a_message_are_found_in_one_pass() -> None:
    opened = '<file name="a">\n' * 3_000
    assert taken_apart(opened) == (opened, [])
    text = "see\n\n" + '<file name="a">\nx\n</file>\n\n<file name="b">\n\n</file>' + "\n" * 9_000
    assert taken_apart(text)[0].rstrip("\n") == "see"
    assert taken_apart(text)[1] == [Attached("a", "x"), Attached("b", "")]


def test_blocks_of_code_are_found_without_a_parser() -> None:
    text = "a\n```python\nx\n```\n- b\n  ```\n  y\n  ```\n~~~\n```\n~~~\n````\n```\nopen"
    assert fenced_code(text) == ["x\n", "y\n", "```\n", "```\nopen\n"]


@pytest.mark.parametrize("size", [1, 13, 400])
def test_a_text_that_grows_looks_as_it_will_when_it_is_complete(size: int) -> None:
    text = (MIXED * 3).rstrip("\n")
    growing = MarkdownText()
    for at in range(0, len(text), size):
        growing.feed(text[at : at + size])
        plain(growing)
    shown = [line.removesuffix("copy").rstrip() for line in plain(growing)]
    assert shown == [line.removesuffix("copy").rstrip() for line in plain(complete(text))]


@pytest.mark.parametrize("name", ["wide characters", "bold Chinese", "bold and code", "links"])
def test_the_work_to_draw_a_text_grows_with_its_length(name: str) -> None:
    def steps(length: int) -> int:
        with counted() as count:
            assert plain(complete(TEXTS[name](length)))
        return count.count

    steps(1_000)
    assert steps(20_000) < 2.2 * steps(10_000)


def test_a_paragraph_of_many_marks_is_shown_without_them() -> None:
    text = complete("**a** `b` [c](https://d.e) $f$ " * 1_000)
    assert not set("*`[$") & set("".join(plain(text)))


def test_code_of_many_brackets_is_shown_as_code() -> None:
    code = "x = [" + "[[0, 1], [2]], " * 150 + "]"
    lines = plain(complete(f"Look:\n\n```python\n{code}\n```\n\nDone."))
    assert lines[0] == "Look:"
    assert lines[2].split() == ["python", "copy"]
    assert lines[-1] == "Done."


def test_a_formula_with_empty_lines_is_in_one_section() -> None:
    for fill in range(SHORTEST - 40, SHORTEST + 10, 7):
        text = "word " * (fill // 5) + "\n\n$$\nx\n\n= y\n$$\n\nend " * 3
        lines = plain(complete(text))
        assert sum(line.strip() == "x = y" for line in lines) == 3


def test_a_long_line_is_cut_after_a_sentence_outside_of_marks() -> None:
    sentence = "这是**一个。很长**的`句`子，"
    lines = plain(complete(sentence * 500))
    assert "".join(lines) == "这是一个。很长的句子，" * 500


def test_a_line_of_fence_marks_is_searched_once() -> None:
    # A search that tries every length of the fence would take minutes.
    assert fenced_code("~" * 300_000 + "`\n") == []
