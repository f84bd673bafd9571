"""Replies that are continued, and replies that the user changes first."""

from dataclasses import replace
from pathlib import Path

from qwen35_chat.drawing.entries import ReplyEntry
from qwen35_chat.fake import done

from qwen35_mlx.session.events import Answer, Cancelled, PrefillProgress, Thinking, ToolCall
from qwen35_mlx.session.requests import Continue
from tests.app.drive import Clock, Driver, chat
from tests.app.plain_drive import FIGURES, PlainChat


def continued(at: Driver | PlainChat) -> list[Continue]:
    return [call for call in at.engine.calls if isinstance(call, Continue)]


async def test_a_stopped_reply_goes_on_as_another_version(home: Path) -> None:
    async with chat(home) as at:
        await at.send("Tell me")
        await at.shown([PrefillProgress(0, 10, 0), Answer("Once upon"), Cancelled()])
        await at.send("/continue")
        await at.shown([Answer(" a time"), done()])
        assert continued(at) == [Continue(2, None)]
        assert "Once upon a time" in at.text
        assert [e.version for e in at.messages if isinstance(e, ReplyEntry)] == [(2, 2)]
        assert at.library.conversation(1).message(2).content == "Once upon"
        await at.press("left")
        await at.shown()
        assert "a time" not in at.text


async def test_a_reply_at_the_limit_names_the_command(home: Path) -> None:
    async with chat(home) as at:
        await at.send("Tell me")
        await at.shown([Answer("Once"), done("length")])
        assert "Cut short: the reply reached the limit of tokens. /continue goes on." in at.text
        await at.send("/continue")
        assert len(continued(at)) == 1


async def test_what_is_complete_does_not_go_on(home: Path) -> None:
    async with chat(home) as at:
        await at.send("/continue")
        assert "this conversation has no message yet" in at.text
        await at.turn("one", "so")
        await at.send("/continue")
        assert "this reply is complete; /amend changes it" in at.text
        await at.send("call")
        await at.shown([ToolCall("f", {}), done("tool_calls")])
        for command in ("/continue", "/amend", "/amend so"):
            await at.send(command)
            assert "this reply calls a tool, so it cannot go on" in at.text
        assert continued(at) == []
        assert at.app.chat.writing.editing is None


async def test_e_on_a_reply_changes_it_and_the_model_goes_on(home: Path) -> None:
    async with chat(home, clock=(clock := Clock())) as at:
        await at.send("one")
        await at.shown([Thinking("Hm.")])
        clock.now += 7
        await at.shown([Answer("The answer @here is 41."), done()])
        stored = at.library.conversation(1).message(2)
        at.library.save(replace(stored, thinking_seconds=7.0))  # as an engine does
        at.composer.set_text("unsent")
        await at.press("tab", "e")
        assert at.typed == "The answer @here is 41."
        assert "The reply as it should begin" in at.text
        assert "Enter goes on from it" in at.text
        at.composer.set_text("The answer @here is 42")
        await at.press("enter")
        await at.shown([Answer(", of course."), done()])
        assert continued(at) == [Continue(2, "The answer @here is 42")]
        assert at.typed == "unsent"
        assert "The answer @here is 42, of course." in at.text
        assert "Thought 7" in at.text  # not what its second showing took
        assert "The answer @here is 42" not in at.controller.history.texts


async def test_e_on_a_message_edits_that(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "so")
        await at.press("tab", "up", "e")
        assert at.typed == "one"
        assert "Another version of “one”" in at.text


async def test_esc_leaves_the_reply_as_it_was(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "so")
        await at.send("/amend")
        assert at.typed == "so"
        await at.press("escape")
        assert (at.typed, continued(at)) == ("", [])


async def test_stopped_before_anything_came_the_old_reply_is_back(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "the old reply")
        at.engine._continue = lambda *_: None  # pyright: ignore  # the prefill goes on
        await at.send("/amend another")
        await at.press("escape")
        await at.shown([Cancelled()])
        assert "the old reply" in at.text
        assert not at.controller.busy


def test_plain_mode_goes_on_and_changes(session: PlainChat) -> None:
    written = session.run(
        "Tell me",
        [Answer("Once"), done("length")],
        "/amend",
        "/amend Twice upon",
        [Answer(" a time"), done()],
        "/quit",
    )
    assert written == (
        "Answer: Once\nCut short: the reply reached the limit of tokens. /continue goes on.\n"
        + FIGURES
        + "The reply: Once\n/amend and a text lets it begin so and go on.\n"
        + "Answer: Twice upon a time\n"
        + FIGURES.rstrip("\n")
    )
    assert continued(session) == [Continue(2, "Twice upon")]
