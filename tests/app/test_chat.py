"""Sending, stopping and failing, as the user of the chat meets them."""

from qwen35_chat.widgets.reply import Reply

from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Failed,
    Loading,
    PrefillProgress,
)
from tests.app.drive import chat, composed, cue, screen, send
from tests.app.fake_engine import FakeEngine, done


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
