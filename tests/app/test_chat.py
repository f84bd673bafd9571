"""Sending, stopping and failing, as the user sees them."""

import re
from pathlib import Path

import pytest
from qwen35_chat.cpu_budget import CpuBudget
from qwen35_chat.fake import done

from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Failed,
    Loading,
    Notice,
    PrefillProgress,
    Thinking,
)
from qwen35_mlx.session.requests import Configure, Retry, Unload
from tests.app.drive import chat, reply
from tests.library.messages import add_message


async def test_the_model_is_loaded_after_the_first_frame(home: Path) -> None:
    async with chat(home, demo=True) as at:
        assert [type(call) for call in at.engine.calls] == [Configure, str]
        assert "a small demonstration model" in at.text
        assert "loading" not in at.text
        assert "0 / 4,096 (0%)" in at.text


async def test_enter_sends_a_greeting_to_the_demo_once(home: Path) -> None:
    async with chat(home, demo=True) as at:
        assert "Hello! Who are you?  (Enter sends this)" in at.text
        await at.press("enter")
        assert at.sent == ["Hello! Who are you?"]
        await at.shown(reply("A model."))
        await at.press("enter")
        assert len(at.sent) == 1


async def test_the_progress_of_a_load_is_shown(home: Path) -> None:
    async with chat(home, loads=False) as at:
        await at.shown([Loading("Qwen/Qwen3.5-4B", 0.42)])
        assert "loading Qwen3.5-4B 42%" in at.text


async def test_enter_sends_and_the_reply_streams_in(home: Path) -> None:
    async with chat(home) as at:
        await at.press(*"hello", "enter")
        assert at.sent == ["hello"]
        assert at.typed == ""
        await at.shown([PrefillProgress(128, 2048, 128)])
        at.clock.now = 2.0
        await at.shown([PrefillProgress(608, 2048, 128)])
        assert "30% · 6 s to go · 608 of 2,048 tokens" in at.text
        assert "Esc stops" in at.text
        await at.shown([Answer("Good "), Answer("day")])
        assert "Good day" in at.text
        assert "Reading" not in at.text
        await at.shown([Answer("!"), done(prompt=300, reply=21)])
        assert "Good day!" in at.text
        assert re.search(r" 8%.* · 40 t(ok)?/s · (memory )?1.0 MB", at.text)
        assert "Esc" not in at.text


async def test_tokens_a_second_are_shown_while_a_reply_is_written(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([Thinking("a")])
        at.clock.now = 2.0
        await at.shown([Answer("b")] * 59)
        assert "~30 tok/s" in at.text
        await at.shown([done()])
        assert "~" not in at.text


async def test_blank_text_is_not_sent(home: Path) -> None:
    async with chat(home) as at:
        await at.send(" \n ")
        assert at.sent == []


async def test_a_message_may_be_sent_while_the_model_loads(home: Path) -> None:
    async with chat(home, loads=False) as at:
        await at.send("early")
        assert at.sent == ["early"]
        assert "Waiting for the model" in at.text


async def test_what_is_sent_during_a_reply_is_sent_after_it(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([Answer("so")])
        await at.send("two\nlines")
        await at.send("three")
        assert at.sent == ["one"]
        assert "Next: two lines\n  Next: three" in at.text
        await at.shown([done()])
        assert at.sent == ["one", "two\nlines"]
        assert "Next: three" in at.text
        await at.shown([Answer("so"), done()])
        assert at.sent == ["one", "two\nlines", "three"]
        assert "Next" not in at.text


async def test_up_takes_back_a_queued_message(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.send("two")
        await at.press("up")
        assert at.typed == "two"
        assert "Next" not in at.text
        await at.shown(reply("so"))
        assert at.sent == ["one"]


async def test_esc_stops_the_reply_and_keeps_it_and_the_typed_text(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([Answer("Once upon")])
        await at.send("waits")
        await at.press(*"next", "escape")
        assert "cancel" in at.engine.calls
        assert "Stopping" in at.text
        await at.shown([Cancelled()])
        assert at.typed == "waits\nnext"
        assert "Once upon" in at.text
        assert "Stopped." in at.text
        assert at.sent == ["one"]
        stored = at.library.conversation(1).path()
        assert (stored[-1].content, stored[-1].state) == ("Once upon", "cancelled")


@pytest.mark.parametrize("end", [Cancelled(), Failed("no memory is left")])
async def test_a_turn_that_ends_before_its_first_word_leaves_what_was_before(home, end) -> None:
    async with chat(home) as at:
        await at.turn("one", "an answer")
        await at.send("two")
        await at.shown([PrefillProgress(0, 9, 0), end])
        assert at.typed == "two"
        assert "> two" not in at.text
        assert "an answer" in at.text
        assert ("no memory is left" in at.text) == isinstance(end, Failed)
        assert at.library.conversation(1).leaf == 2
        assert " 3%" in at.text
        await at.press("f5")  # what is asked again is what is on the screen
        assert at.engine.calls[-1] == Retry(2)
        await at.shown([PrefillProgress(0, 9, 0), end])
        assert "an answer" in at.text
        assert at.typed == "two"
        assert at.library.conversation(1).leaf == 2


async def test_a_first_turn_that_ends_before_its_first_word_can_be_sent_again(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([PrefillProgress(0, 9, 0), Cancelled()])
        assert at.typed == "one"
        await at.press("enter")
        await at.shown(reply("so"))
        assert [m.content for m in at.library.conversation(1).path()] == ["one", "so"]


async def test_a_turn_that_had_not_begun_is_cancelled_too(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.press("escape")
        await at.shown()
        assert at.engine.calls.count("cancel") > 1
        await at.shown([Cancelled()])
        heard = at.engine.calls.count("cancel")
        await at.shown()
        assert at.engine.calls.count("cancel") == heard


async def test_esc_without_a_reply_does_nothing(home: Path) -> None:
    async with chat(home) as at:
        await at.press(*"draft", "escape")
        assert at.typed == "draft"
        assert "cancel" not in at.engine.calls


async def test_a_turn_that_never_began_gives_the_message_back(home: Path) -> None:
    async with chat(home) as at:
        at.engine._library = None  # it refuses before anything is stored
        await at.send("a very long story")
        await at.shown([Failed("the conversation has 5,000 tokens: shorten it")])
        assert "the conversation has 5,000 tokens: shorten it" in at.text
        assert at.typed == "a very long story"
        assert at.messages == []
        await at.press("enter")
        assert at.sent == ["a very long story"] * 2


async def test_a_failure_amid_a_reply_keeps_its_text_and_names_the_next_step(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([Answer("Once upon"), Failed("out of memory")])
        assert "Once upon" in at.text
        assert "out of memory. F5 asks again." in at.text
        assert at.typed == ""


async def test_a_failed_load_shows_its_error_and_loses_nothing_typed(home: Path) -> None:
    async with chat(home, loads=False) as at:
        at.engine._library = None
        await at.send("early")
        await at.shown([Failed("config.json has no 'linear_key_head_dim'")])
        assert "could not be loaded. config.json has no 'linear_key_head_dim'" in at.text
        assert "no model, Ctrl+L chooses one" in at.text
        assert at.typed == "early"
        await at.press("enter")
        assert at.sent == ["early"]
        assert at.typed == "early"
        assert "There is no model to answer" in at.text


async def test_a_failed_load_before_anything_was_sent(home: Path) -> None:
    async with chat(home, loads=False) as at:
        await at.shown([Failed("nothing there")])
        assert "could not be loaded. nothing there. Ctrl+L chooses another." in at.text


async def test_late_events_of_a_turn_that_is_over_are_harmless(home: Path) -> None:
    async with chat(home) as at:
        await at.shown([Answer("ghost"), Cancelled(), done(), PrefillProgress(1, 2, 0)])
        assert "ghost" not in at.text


async def test_a_notice_of_the_engine_is_shown(home: Path) -> None:
    async with chat(home) as at:
        await at.shown([Notice("a stored state was damaged: it is computed again")])
        assert "a stored state was damaged: it is computed again" in at.text


async def test_ctrl_c_copies_a_selection_or_quits(home: Path) -> None:
    async with chat(home) as at:
        await at.press(*"word", "ctrl+shift+left", "ctrl+c")
        assert at.app.clipboard == "word"
        assert at.app.is_running
        await at.press("right", "ctrl+c", "ctrl+c")
    assert at.app.return_code == 0
    assert "close" not in at.engine.calls  # whoever made the engine closes it


async def test_unload_is_a_request_to_the_engine(home: Path) -> None:
    async with chat(home) as at:
        await at.send("/unload")
        assert at.engine.calls[-1] == Unload()
        await at.shown()
        assert "memory was given back" in at.text


async def test_a_draft_survives_and_goes_with_its_conversation(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.press(*"half a thought")
        await at.until(lambda: at.library.draft(1) == "half a thought")
        await at.press("ctrl+n")
        await at.shown()
        assert at.typed == ""
        await at.press(*"another")
        await at.until(lambda: at.library.draft(None) == "another")
        at.library.close()
    library = Library(home)
    async with chat(home, conversation=1, library=library) as at:
        assert at.typed == "half a thought"


async def test_a_conversation_of_another_window_can_be_read_only(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "first answer")
        async with chat(home, conversation=1, library=Library(home)) as other:
            assert "first answer" in other.text
            assert "Open in another window" in other.text
            await other.send("me too")
            assert other.sent == []
            assert other.typed == "me too"
            assert "Ctrl+N begins a new one" in other.text


async def test_without_a_turn_events_are_shown_despite_the_budget(home, monkeypatch) -> None:
    monkeypatch.setattr(CpuBudget, "due", lambda _: False)
    async with chat(home) as at:
        number = at.library.create(title="Old")
        add_message(at.library, number, None, "user", "an old question")
        at.app.chat.perform(at.app.chat.conversations.open(number))
        await at.until(lambda: "an old question" in at.text)
