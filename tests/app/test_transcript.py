"""What the conversation looks like as it grows."""

from qwen35_chat.app import merged
from qwen35_chat.widgets.composer import Composer
from qwen35_chat.widgets.reply import LIVE_CHARACTERS, StreamText
from qwen35_chat.widgets.transcript import Transcript
from textual.widgets import Collapsible, Markdown, Static

from qwen35_mlx.session.events import (
    Answer,
    Failed,
    Loading,
    PrefillProgress,
    Thinking,
    ToolCall,
)
from tests.app.drive import Clock, chat, cue, screen, send
from tests.app.fake_engine import FakeEngine, done, reply


async def test_thinking_is_folded_away_with_its_seconds() -> None:
    engine, clock = FakeEngine(), Clock()
    async with chat(engine, clock=clock) as pilot:
        await send(pilot, "one")
        await engine.shown(pilot, [Thinking("\nlet me "), Thinking("see")])
        assert "let me see" not in screen(pilot)
        assert "thinking, Esc stops" in cue(pilot)
        clock.now = 3.25
        await engine.shown(pilot, [Answer("42"), done()])
        assert "Thought for 3.2 s" in screen(pilot)
        await pilot.press("ctrl+t")
        await pilot.pause()
        assert "let me see" in screen(pilot)
        assert pilot.app.query_one(Composer).has_focus


async def test_an_empty_thinking_block_is_not_shown() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await send(pilot, "one")
        await engine.shown(pilot, [Thinking("\n\n"), Answer("\n\n42"), done()])
        assert "Thought" not in screen(pilot)
        assert not pilot.app.query_one(Collapsible).display


async def test_markup_in_text_is_literal() -> None:
    engine = FakeEngine()
    text = "[red]no[/red] [/] [@click=app.quit]x[/]"
    async with chat(engine) as pilot:
        await send(pilot, text)
        await engine.shown(pilot, [Thinking(text), Answer(text)])
        assert screen(pilot).count(text) == 2
        await engine.shown(pilot, [done()])
        assert screen(pilot).count(text) == 2
        await pilot.press("ctrl+t")
        await pilot.pause()
        assert screen(pilot).count(text) == 3
        await send(pilot, "again")
        await engine.shown(pilot, [Failed(text)])
        assert screen(pilot).count(text) == 4
        await send(pilot, "again")
        await engine.shown(pilot, [Answer("so"), Failed(text)])
        assert screen(pilot).count(text) == 5


async def test_no_escape_sequence_reaches_the_terminal() -> None:
    engine = FakeEngine()
    text = "a\x1b[2J\x1b]0;t\x07\x9bH\rb"
    async with chat(engine) as pilot:
        await send(pilot, text)
        await engine.shown(pilot, [Thinking(text), Answer(text)])
        assert "a␛[2J␛]0;t␇\\x9bH␍b" in screen(pilot)
        await engine.shown(pilot, [done()])
        await pilot.press("ctrl+t")
        await pilot.pause()
        shown = screen(pilot)
        assert shown.count("a␛[2J␛]0;t␇\\x9bH␍b") == 3
        assert not {"\x1b", "\x07", "\x9b", "\r"} & set(shown)


async def test_a_reply_becomes_markdown_at_its_end_with_its_line_breaks() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await send(pilot, "one")
        await engine.shown(pilot, [Answer("**roses**\nviolets")])
        assert "**roses**" in screen(pilot)
        await engine.shown(pilot, [done()])
        assert "  roses\n  violets" in screen(pilot)
        assert not pilot.app.query("Reply > StreamText")


async def test_only_web_pages_are_opened(monkeypatch) -> None:
    engine, opened = FakeEngine(), []
    async with chat(engine) as pilot:
        monkeypatch.setattr(pilot.app, "open_url", opened.append)
        await send(pilot, "one")
        await engine.shown(pilot, reply("[page](https://example.org)"))
        markdown = pilot.app.query_one(Markdown)
        for href in ("file:///etc/passwd", "-x", "javascript:x", "https://example.org"):
            markdown.post_message(Markdown.LinkClicked(markdown, href))
        await pilot.pause()
        assert opened == ["https://example.org"]


async def test_a_tool_call_is_shown_and_not_run() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await send(pilot, "one")
        await engine.shown(pilot, [ToolCall("weather", {"city": "Oslo"}), done("tool_calls")])
        assert 'weather({"city": "Oslo"})' in screen(pilot)
        assert "asks for a tool" in screen(pilot)


async def test_a_reply_cut_short_says_so() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await send(pilot, "one")
        await engine.shown(pilot, [Answer("Once"), done("length")])
        assert "cut short" in screen(pilot)


async def test_the_end_is_followed_until_the_user_scrolls_up_and_again_on_ctrl_end() -> None:
    engine = FakeEngine()
    async with chat(engine, size=(50, 20)) as pilot:
        transcript = pilot.app.query_one(Transcript)
        await send(pilot, "one")
        await engine.shown(pilot, [Answer("line\n" * 60)])
        assert transcript.scroll_y == transcript.max_scroll_y > 40
        await pilot.press("pageup")
        await pilot.pause()
        at = transcript.scroll_y
        assert at < transcript.max_scroll_y
        await engine.shown(pilot, [Answer("more\n" * 60), done()])
        assert transcript.scroll_y == at
        await pilot.press("ctrl+end")
        await pilot.pause()
        assert transcript.scroll_y == transcript.max_scroll_y
        await send(pilot, "two")
        await engine.shown(pilot, [Answer("line\n" * 60)])
        assert transcript.scroll_y == transcript.max_scroll_y


async def test_scrolling_down_to_the_end_follows_again() -> None:
    engine = FakeEngine()
    async with chat(engine, size=(50, 20)) as pilot:
        transcript = pilot.app.query_one(Transcript)
        await send(pilot, "one")
        await engine.shown(pilot, [Answer("line\n" * 60)])
        await pilot.press("pageup", "pagedown")
        await pilot.pause()
        await engine.shown(pilot, [Answer("line\n" * 60)])
        assert transcript.scroll_y == transcript.max_scroll_y


async def test_a_long_stream_is_laid_out_in_parts_and_loses_nothing() -> None:
    engine = FakeEngine()
    text = "".join(f"line {n} of a [b]long[/b] reply\n" for n in range(300))
    pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
    async with chat(engine) as pilot:
        await send(pilot, "one")
        for at in range(0, len(pieces), 100):
            await engine.shown(pilot, [Answer(piece) for piece in pieces[at : at + 100]])
        parts = [
            str(part.content)
            for part in pilot.app.query_one("Reply > StreamText", StreamText).query(Static)
        ]
        assert "\n".join(parts) == text
        assert len(parts) > 3
        assert max(map(len, parts)) < 2 * LIVE_CHARACTERS
        assert "line 299 of a [b]long[/b] reply" in screen(pilot)


async def test_it_fits_a_very_small_terminal() -> None:
    engine = FakeEngine()
    async with chat(engine, size=(12, 5)) as pilot:
        await send(pilot, "one")
        await engine.shown(pilot, reply("a reply of some words"))
        await pilot.press(*"typed")
        assert "typed" in screen(pilot)


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
        Failed("x"),
        Answer("e"),
        last,
    ]
    assert list(merged(events)) == [
        Loading("model", 0.2),
        PrefillProgress(2, 2, 0),
        Thinking("ab"),
        Answer("cd"),
        Failed("x"),
        Answer("e"),
        last,
    ]
