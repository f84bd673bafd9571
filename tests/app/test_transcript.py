"""The conversation on the screen, as it grows."""

import threading
from itertools import pairwise
from pathlib import Path

import pytest
from qwen35_chat.drawing.colours import coloured
from qwen35_chat.drawing.entries import ReplyEntry, TranscriptEntry, UserEntry
from qwen35_chat.drawing.line import Line
from qwen35_chat.drawing.markdown_text import MarkdownText
from qwen35_chat.fake import done
from qwen35_chat.merging import merged
from qwen35_chat.widgets.selecting import AGAIN_SECONDS
from textual.content import Content

from qwen35_mlx.session.events import (
    Answer,
    Failed,
    Loading,
    PrefillProgress,
    Thinking,
    ToolCall,
    Written,
)
from tests.app.drive import Clock, chat, reply


async def test_thinking_is_folded_away_with_its_seconds(home: Path) -> None:
    clock = Clock()
    async with chat(home, clock=clock) as at:
        await at.send("one")
        await at.shown([Thinking("\nlet me "), Thinking("see")])
        assert "let me see" not in at.text
        assert "▸ Thinking" in at.text
        clock.now = 3.25
        await at.shown()
        assert "Thinking · 3 s" in at.text
        await at.shown([Answer("42"), done()])
        assert "▸ Thought 3.2 s" in at.text
        assert "let me see" not in at.text


async def test_thinking_is_hidden_collapsed_or_open_by_key(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "42", thinking="let me see")
        await at.press("ctrl+o")
        assert "▾ Thought" in at.text
        assert "let me see" in at.text
        await at.press("ctrl+o")
        assert "Thought" not in at.text
        await at.press("ctrl+o")
        assert "▸ Thought" in at.text
        await at.send("/view open")
        assert "let me see" in at.text
        await at.send("/view wide")
        assert "'wide' is not one of hidden, collapsed, open" in at.text


async def test_an_empty_thinking_block_is_not_shown(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([Thinking("\n\n"), Answer("\n\n42"), done()])
        assert "Thought" not in at.text


async def test_markup_in_text_is_literal(home: Path) -> None:
    text = "[red]no[/red] [/] [link=x]x[/]"
    async with chat(home) as at:
        await at.send("/view open")
        await at.send(text)
        await at.shown([Thinking(text), Answer(text)])
        assert at.text.count(text) == 3
        await at.shown([done()])
        assert at.text.count(text) == 3
        await at.send("again")
        await at.shown([Answer("so"), Failed(text)])
        assert at.text.count(text) == 4
        await at.send(text)
        assert f"Next: {text}" not in at.text
        await at.send(text)
        assert f"Next: {text}" in at.text


async def test_no_escape_sequence_reaches_the_terminal(home: Path) -> None:
    text = "a\x1b[2J\x1b]0;t\x07\x9bH\rb"
    seen = "a␛[2J␛]0;t␇\\x9bH␍b"
    async with chat(home) as at:
        await at.send("/view open")
        at.composer.set_text("x")
        await at.pilot.pause()
        at.app.chat.show(at.controller.send(text))
        await at.shown([Thinking(text), Answer(text), ToolCall(text, {"a": text})])
        assert at.text.count(seen) >= 4
        await at.shown([done()])
        shown = at.text
        assert shown.count(seen) >= 4
        assert not {"\x1b", "\x07", "\x9b", "\r"} & set(shown)


async def test_a_reply_is_markdown_with_its_line_breaks(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "**roses**\nviolets")
        assert "  roses\n  violets" in at.text


async def test_an_open_fence_is_shown_as_code_at_once_and_stays_where_it_is(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([Answer("Look:\n\n```python\nx = 1\n# still **open**")])
        before = at.text
        assert " python\n" in before
        assert "# still **open**" in before
        assert "```" not in before
        await at.shown([Answer("\n```\n"), done()])
        assert " python " in at.text
        assert at.text.splitlines().index("   x = 1") == before.splitlines().index("   x = 1")


async def test_only_web_pages_are_opened(home: Path, monkeypatch) -> None:
    opened: list[str] = []
    async with chat(home) as at:
        monkeypatch.setattr("webbrowser.open", lambda url, **_: opened.append(url))
        await at.turn("one", "[page](https://example.org) [file](file:///etc/passwd)")
        assert "page (https://example.org)" in at.text
        assert "[file](file:///etc/passwd)" in at.text
        line = next(n for n, text in enumerate(at.text.splitlines()) if "page (" in text)
        await at.pilot.click("TranscriptView", offset=(5, line))
        await at.pilot.pause(2 * AGAIN_SECONDS)
        column = at.text.splitlines()[line].index("[file]")
        await at.pilot.click("TranscriptView", offset=(column, line))
        await at.pilot.pause(2 * AGAIN_SECONDS)
        for href in ("file:///etc/passwd", "-x", "javascript:x"):
            at.app.open_url(href)
        assert opened == ["https://example.org"]


async def test_a_tool_call_is_shown_and_not_run(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([ToolCall("weather", {"city": "Oslo"}), done("tool_calls")])
        assert 'asks for  weather({"city": "Oslo"})' in at.text
        assert "asks for a tool; none was run" in at.text


async def test_a_reply_cut_short_has_a_note(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([Answer("Once"), done("length")])
        assert "Cut short" in at.text


async def test_the_end_is_followed_until_the_user_scrolls_up_and_again_on_ctrl_end(home) -> None:
    async with chat(home, size=(50, 20)) as at:
        transcript = at.transcript
        await at.send("one")
        await at.shown([Answer("line\n" * 60)])
        assert transcript.scroll_y == transcript.max_scroll_y > 40
        await at.press("pageup")
        y = transcript.scroll_y
        assert y < transcript.max_scroll_y
        await at.shown([Answer("more\n" * 60), done()])
        assert transcript.scroll_y == y
        await at.press("ctrl+end")
        assert transcript.scroll_y == transcript.max_scroll_y
        await at.send("two")
        await at.shown([Answer("line\n" * 60)])
        assert transcript.scroll_y == transcript.max_scroll_y


async def test_scrolling_down_to_the_end_follows_again(home: Path) -> None:
    async with chat(home, size=(50, 20)) as at:
        await at.send("one")
        await at.shown([Answer("line\n" * 60)])
        await at.press("pageup", "pagedown")
        await at.shown([Answer("line\n" * 60)])
        assert at.transcript.scroll_y == at.transcript.max_scroll_y


def long_conversation(turns: int) -> list:
    entries = []
    for n in range(turns):
        entries.append(UserEntry(f"question {n} " * (n % 7 + 1)))
        entries.append(ReplyEntry(answer=f"answer {n}\n\n" + "- point\n" * (n % 11)))
    return entries


async def test_paging_up_through_estimated_heights_shows_every_line_once(home: Path) -> None:
    """Heights are estimated far from the view, and correcting them must not move text."""
    async with chat(home, size=(50, 20)) as at:
        at.transcript.show(long_conversation(60))
        at.app.chat.show_first()
        await at.pilot.pause()
        await at.pilot.pause()
        pages = []

        def page() -> list[str]:
            lines = at.text.splitlines()[: at.transcript.size.height]
            return [line[:49].rstrip() for line in lines]  # without the scrollbar

        while at.transcript.scroll_y > 0:
            pages.append(page())
            await at.press("pageup")
        pages.append(page())
        for below, above in pairwise(pages[:-1]):
            # Two lines are seen twice.
            assert above[-2:] == below[:2]
        everything = "\n".join("\n".join(page) for page in pages)
        assert all(f"answer {n}" in everything for n in range(60))


async def test_only_what_is_near_the_view_is_laid_out(home: Path) -> None:
    async with chat(home, size=(50, 20)) as at:
        entries = long_conversation(1000)
        at.transcript.show(entries)
        at.app.chat.show_first()
        await at.pilot.pause()
        await at.pilot.pause()
        assert "answer 999" in at.text
        parts = [part for entry in entries for part in entry.column(48).parts]
        assert sum(part.laid_out for part in parts) < 120


async def test_a_resize_keeps_the_place(home: Path) -> None:
    async with chat(home, size=(80, 20)) as at:
        at.transcript.show(long_conversation(40))
        at.app.chat.show_first()
        await at.pilot.pause()
        await at.pilot.pause()
        for _ in range(8):
            await at.press("pageup")
        top = next(line for line in at.text.splitlines() if "question" in line or "answer" in line)
        await at.pilot.resize_terminal(60, 20)
        await at.pilot.pause()
        assert top.split()[-1] in at.text


async def test_a_long_message_of_the_user_is_folded_and_unfolds_on_a_click(home: Path) -> None:
    async with chat(home, size=(60, 60)) as at:
        text = "\n".join(f"line {n}" for n in range(40))
        await at.turn(text)
        assert "line 9\n" in at.text
        assert "line 10\n" not in at.text
        line = next(n for n, t in enumerate(at.text.splitlines()) if "30 more lines" in t)
        await at.pilot.click("TranscriptView", offset=(6, line))
        await at.pilot.pause()
        assert "line 39" in at.text


@pytest.mark.parametrize("columns", range(1, 8))
async def test_a_pane_of_a_few_columns_does_not_end_the_chat(home: Path, columns: int) -> None:
    async with chat(home, size=(columns, 12)) as at:
        await at.turn("one", "# 标题\n\n- **two** `three`\n\n| a | b |\n|---|--:|\n| c | $x^2$ |")
        assert at.app.is_running


@pytest.mark.parametrize("size", [(12, 5), (20, 8), (50, 20)])
async def test_the_composer_stays_on_a_small_terminal(home: Path, size) -> None:
    async with chat(home, size=size) as at:
        await at.send("one")
        await at.shown(reply("a reply of some words"))
        await at.press(*"typed")
        assert "typed" in at.text


def test_neighbouring_pieces_are_merged_and_the_order_is_kept() -> None:
    last = done()
    events = [
        Loading("model", 0.1),
        Loading("model", 0.2),
        PrefillProgress(1, 2, 0),
        PrefillProgress(2, 2, 0),
        Thinking("a"),
        Thinking("b"),
        Answer("c"),
        Answer("d"),
        Written(5),
        Written(6),
        Failed("x"),
        Answer("e"),
        last,
    ]
    assert list(merged(events)) == [
        Loading("model", 0.2),
        PrefillProgress(2, 2, 0),
        Thinking("ab"),
        Answer("cd"),
        Written(6),
        Failed("x"),
        Answer("e"),
        last,
    ]


def lines_of(entry: TranscriptEntry) -> list[Line]:
    """All lines of an entry on a screen of 60 columns."""
    column = entry.column(58)
    return [line for part in column.parts for line in part.lines(column.width)]


CODE = "```python\n" + "".join(f"value_{n} = call({n})\n" for n in range(200)) + "```\n"


async def test_code_is_drawn_before_it_has_colours(home: Path, monkeypatch) -> None:
    may_go_on, began = threading.Event(), threading.Event()

    def slowly(code: str, language: str) -> list[Content] | None:
        began.set()
        may_go_on.wait(60)
        return coloured(code, language)

    monkeypatch.setattr("qwen35_chat.drawing.colours.coloured", slowly)
    async with chat(home, size=(60, 20)) as at:

        def styles() -> set[str]:
            lines = lines_of(at.transcript.entries[-1])
            return {str(span.style) for line in lines for span in line.content.spans}

        await at.turn("one", CODE)
        await at.until(began.is_set)
        assert "value_199 = call(199)" in at.text
        plain, before = styles(), at.text
        await at.press(*"typed")  # nobody waits for the lexer
        assert at.typed == "typed"
        may_go_on.set()
        await at.until(lambda: styles() > plain)
        await at.press(*["backspace"] * 5)
        assert at.text == before


async def test_code_out_of_view_waits_for_its_colours(home: Path, monkeypatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "qwen35_chat.drawing.colours.coloured", lambda code, _: asked.append(code) or None
    )
    async with chat(home, size=(60, 20)) as at:
        replies = [
            ReplyEntry(answer=f"```python\nx = {n}\n```\n" + "- so\n" * 30) for n in range(9)
        ]
        at.transcript.show([*replies, ReplyEntry(answer="```python\nlast = 1\n```")])
        at.app.chat.show_first()
        await at.pilot.pause()
        await at.until(lambda: "last = 1" in asked)
        await at.pilot.pause()
        assert "x = 0" not in asked
        at.transcript.scroll_to(y=0, animate=False)
        await at.until(lambda: "x = 0" in asked)
        assert len(asked) == len(set(asked))


async def test_a_line_of_an_open_fence_is_laid_out_once(home: Path) -> None:
    """The cost of a frame must not grow with the text: 203 ms a frame, elsewhere."""
    async with chat(home, size=(60, 20)) as at:
        await at.send("one")
        await at.shown([Answer("Look:\n\n" + "\n".join(CODE.split("\n")[:100]))])
        entry = at.transcript.entries[-1]
        before = lines_of(entry)[1:90]  # after the head, which tells how the reply goes
        await at.shown([Answer("\nmore = 1\n" * 30)])
        after = lines_of(entry)[1:90]
        assert all(one is other for one, other in zip(before, after, strict=True))


async def test_a_reply_that_grows_lays_out_no_other_widget(home: Path, monkeypatch) -> None:
    async with chat(home, size=(60, 20)) as at:
        await at.send("one")
        await at.shown([Answer("line\n\n" * 30)])
        layouts: list[int] = []
        reflow = at.app.screen._compositor.reflow
        monkeypatch.setattr(
            at.app.screen._compositor,
            "reflow",
            lambda *args: layouts.append(1) or reflow(*args),
        )
        await at.shown([Answer("line\n\n" * 30)])
        assert at.transcript.scroll_y == at.transcript.max_scroll_y > 80
        assert at.transcript.vertical_scrollbar.window_virtual_size > 100
        assert not layouts


def test_a_long_paragraph_is_parsed_in_parts_without_a_gap() -> None:
    growing = MarkdownText()
    for n in range(2_000):
        growing.feed(f"{n}, ")
    lines = [line for part in growing.parts for line in part.lines(80)]
    plain = [line.content.plain for line in lines]
    assert "".join(plain) == "".join(f"{n}, " for n in range(2_000)).rstrip()
    assert all(plain)
    assert all(line.joined for line in lines[1:])
