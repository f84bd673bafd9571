"""The chat as its user drives it, over an engine that plays scripts."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from qwen35_chat import app
from qwen35_chat.app import ChatApp, merged
from qwen35_chat.widgets.composer import Composer
from qwen35_chat.widgets.reply import LIVE_CHARACTERS, Reply, StreamText
from qwen35_chat.widgets.status import Status
from qwen35_chat.widgets.transcript import Transcript
from textual.pilot import Pilot
from textual.widgets import Collapsible, Markdown, Static

from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Failed,
    Loading,
    PrefillProgress,
    Thinking,
    ToolCall,
)
from tests.app.fake_engine import FakeEngine, done, reply


@pytest.fixture(autouse=True)
def polls_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "POLLS_PER_SECOND", 100)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def chat(
    engine: FakeEngine, *, size: tuple[int, int] = (80, 24), clock: Clock | None = None
) -> AsyncGenerator[Pilot[None]]:
    chat_app = ChatApp(engine, model="demo", demo=True, clock=clock or Clock())
    async with chat_app.run_test(size=size) as pilot:
        await engine.shown(pilot)
        yield pilot


async def send(pilot: Pilot[None], text: str) -> None:
    composer = pilot.app.query_one(Composer)
    composer.text = text
    await pilot.press("enter")
    await pilot.pause()


def composed(pilot: Pilot[None]) -> str:
    return pilot.app.query_one(Composer).text


def screen(pilot: Pilot[None]) -> str:
    """What can be read, line by line."""
    width, height = pilot.app.size
    lines = pilot.app.screen._compositor.render_strips()[:height]
    return "\n".join(strip.text[:width].rstrip() for strip in lines)


def static(pilot: Pilot[None], selector: str) -> str:
    return str(pilot.app.query(selector).last(Static).content)


def cue(pilot: Pilot[None]) -> str:
    return str(pilot.app.query_one(Status).render())


async def test_the_model_is_loaded_once_the_screen_is_there() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        assert engine.calls == ["start"]
        assert "a small demonstration model" in screen(pilot)
        assert "Loading" not in screen(pilot)
        assert "0 / 4,096 tokens" in screen(pilot)


async def test_the_share_of_a_download_is_shown() -> None:
    engine = FakeEngine(loads=False)
    async with chat(engine) as pilot:
        await engine.shown(pilot, [Loading("Qwen/Qwen3.5-4B", 0.42)])
        assert "Loading Qwen/Qwen3.5-4B: 42%" in screen(pilot)


async def test_enter_sends_and_the_reply_streams_in() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await pilot.press(*"hello", "enter")
        assert engine.sent == ["hello"]
        assert composed(pilot) == ""
        await engine.shown(pilot, [PrefillProgress(512, 2048, 128)])
        assert "Reading: 512 of 2,048 tokens, 128 of them from before" in screen(pilot)
        await engine.shown(pilot, [Answer("Good "), Answer("day")])
        assert "Good day" in screen(pilot)
        assert "Reading" not in screen(pilot)
        await engine.shown(pilot, [Answer("!"), done(prompt=300, reply=21)])
        assert "Good day!" in screen(pilot)
        assert "demo · 321 / 4,096 tokens · 40 tok/s · first token 0.25 s" in screen(pilot)


async def test_new_lines_by_key_are_sent_as_they_were_typed() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await pilot.press("a", "shift+enter", "b", "ctrl+j", "c", "alt+enter", "d")
        assert engine.sent == []
        await pilot.press("enter")
        assert engine.sent == ["a\nb\nc\nd"]


async def test_blank_text_is_not_sent() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await send(pilot, " \n ")
        assert engine.sent == []


async def test_a_message_may_be_sent_while_the_model_loads() -> None:
    engine = FakeEngine(loads=False)
    async with chat(engine) as pilot:
        await send(pilot, "early")
        assert engine.sent == ["early"]
        assert "Waiting for the model" in screen(pilot)


async def test_what_is_typed_during_a_reply_waits_in_the_composer() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await send(pilot, "one")
        await engine.shown(pilot, [Answer("so")])
        await send(pilot, "two")
        assert engine.sent == ["one"]
        assert composed(pilot) == "two"
        await engine.shown(pilot, [done()])
        await pilot.press("enter")
        assert engine.sent == ["one", "two"]


async def test_esc_stops_the_reply_and_keeps_it_and_what_was_typed() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await send(pilot, "one")
        await engine.shown(pilot, [Answer("Once upon")])
        await pilot.press(*"next", "escape")
        assert "cancel" in engine.calls
        await engine.shown(pilot, [Cancelled()])
        assert composed(pilot) == "next"
        assert "Once upon" in screen(pilot)
        assert "Stopped." in screen(pilot)
        assert "Esc" not in cue(pilot)


async def test_esc_before_the_first_word_gives_the_message_back() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await send(pilot, "a question")
        await pilot.press(*"more", "escape")
        await engine.shown(pilot, [PrefillProgress(0, 9, 0), Cancelled()])
        assert composed(pilot) == "a question\nmore"
        assert not pilot.app.query(Reply)
        assert not pilot.app.query(".message")


async def test_a_turn_that_had_not_begun_hears_of_the_cancel_too() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await send(pilot, "one")
        await pilot.press("escape")
        await engine.shown(pilot)
        assert engine.calls.count("cancel") > 1
        await engine.shown(pilot, [Cancelled()])
        heard = engine.calls.count("cancel")
        await engine.shown(pilot)
        assert engine.calls.count("cancel") == heard


async def test_esc_without_a_reply_does_nothing() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await pilot.press(*"draft", "escape")
        assert composed(pilot) == "draft"
        assert "cancel" not in engine.calls


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


async def test_a_turn_that_fails_says_so_in_place_and_gives_the_message_back() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await send(pilot, "a very long story")
        await engine.shown(pilot, [Failed("the conversation has 5,000 tokens: shorten it")])
        assert "the conversation has 5,000 tokens: shorten it" in screen(pilot)
        assert composed(pilot) == "a very long story"
        await pilot.press("enter")
        assert engine.sent == ["a very long story"] * 2


async def test_a_failure_amid_a_reply_keeps_what_was_said() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await send(pilot, "one")
        await engine.shown(pilot, [Answer("Once upon"), Failed("out of memory")])
        assert "Once upon" in screen(pilot)
        assert "out of memory" in screen(pilot)
        assert composed(pilot) == ""


async def test_a_model_that_does_not_load_says_why_and_nothing_typed_is_lost() -> None:
    engine = FakeEngine(loads=False)
    async with chat(engine) as pilot:
        await send(pilot, "early")
        await engine.shown(pilot, [Failed("config.json has no 'linear_key_head_dim'")])
        assert "could not be loaded. config.json has no 'linear_key_head_dim'" in screen(pilot)
        assert "Ctrl+Q quits" in cue(pilot)
        assert composed(pilot) == "early"
        await pilot.press("enter")
        assert engine.sent == ["early"]
        assert composed(pilot) == "early"


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


async def test_late_events_of_a_turn_that_is_over_are_harmless() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await engine.shown(pilot, [Answer("ghost"), Cancelled(), done(), PrefillProgress(1, 2, 0)])
        assert "ghost" not in screen(pilot)


async def test_ctrl_c_copies_a_selection_and_else_quits() -> None:
    engine = FakeEngine()
    async with chat(engine) as pilot:
        await pilot.press(*"word", "ctrl+shift+left", "ctrl+c")
        assert pilot.app.clipboard == "word"
        assert pilot.app.is_running
        await pilot.press("right", "ctrl+c")
    assert pilot.app.return_code == 0
    assert "close" not in engine.calls  # whoever made the engine closes it


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
