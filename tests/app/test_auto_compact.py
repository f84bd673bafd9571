"""With `auto_compact`, a summary of the oldest turns makes room for a message."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from qwen35_chat.fake import CONTEXT, done
from qwen35_chat.transitions import (
    ConversationShown,
    MessagePutOff,
    Problem,
    QueueReturned,
    RequestCancelled,
    TurnEnded,
    TurnRequested,
    TurnTakenBack,
)

from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import (
    Cancelled,
    Event,
    Failed,
    Measured,
    Opened,
    PrefillProgress,
    Written,
)
from qwen35_mlx.session.requests import Compact, Edit, Send
from tests.app.drive import Driver, chat, reply
from tests.app.plain_drive import PlainChat
from tests.app.test_controller import LoneController

ON = 'auto_compact = "on"\n'
CROWDED = int(CONTEXT * 0.9)
TOO_LONG = Failed("the conversation has 9,000 tokens", "too_long")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(ON)
    return path


@pytest.fixture
def window(home: Path, settings: Path) -> Iterable[LoneController]:
    with Library(home) as library:
        window = LoneController(library, settings)
        window.settings_file.load()
        yield window


def crowded(window: LoneController, used: int = CROWDED) -> int:
    """Open a stored conversation of so many tokens."""
    number = window.store_turn("one", "two")
    window.after(Measured(number, used, 0))
    return number


def test_a_message_waits_for_a_summary_where_the_context_is_nearly_full(window) -> None:
    number = crowded(window)
    assert window.send("three") == MessagePutOff()
    assert window.engine.requests == [Compact()]
    assert window.queue == ["three"]
    assert window.compacting
    window.enqueue("four")
    # The gauge stays that of the conversation meanwhile.
    window.after(PrefillProgress(512, 20_000, 0), Written(7))
    assert window.used == CROWDED
    shown, requested = window.after(Opened(number, "Stored"), Measured(number, CROWDED, 0))
    assert isinstance(shown, ConversationShown)
    assert requested == TurnRequested("three")
    assert window.engine.requests == [Compact(), Send("three")]
    assert window.queue == ["four"]


@pytest.mark.parametrize(
    ("text", "used", "sent"),
    [
        (ON, CONTEXT // 2, True),
        (ON, 0, True),  # not measured yet
        (ON, CONTEXT * 3, False),
        ('auto_compact = "off"\n', CROWDED, True),
        ("", CROWDED, True),
    ],
)
def test_it_is_an_option_and_only_for_little_room(window, settings, text, used, sent) -> None:
    settings.write_text(text)
    window.settings_file.load()
    crowded(window, used)
    window.send("three")
    assert window.engine.requests == [Send("three") if sent else Compact()]


def test_thinking_that_the_next_prompt_leaves_out_does_not_count(window) -> None:
    crowded(window, CONTEXT // 2)
    window.send("three")
    end = done(prompt=CONTEXT // 2, reply=CONTEXT // 2 - 10)
    usage = replace(end.usage, reasoning_tokens=CONTEXT // 2 - 20)
    window.after(replace(end, usage=usage))
    window.send("four")
    assert window.engine.requests == [Send("three"), Send("four")]
    window.after(end)
    window.send("five")
    assert window.engine.requests[2:] == [Compact()]


def test_a_queued_message_waits_on_if_the_reply_has_filled_the_context(window) -> None:
    crowded(window, CONTEXT // 2)
    window.send("three")
    window.enqueue("four")
    window.enqueue("five")
    end = done(prompt=CONTEXT // 2, reply=CONTEXT // 2 - 10)
    assert window.after(end) == [TurnEnded(usage=end.usage), MessagePutOff()]
    assert window.queue == ["four", "five"]


def test_a_message_that_is_too_long_for_the_context_is_sent_again_once(window) -> None:
    number = crowded(window, 0)
    assert window.send("three") == TurnRequested("three")
    (put_off,) = window.after(TOO_LONG)
    stored = window.library.conversation(number)
    assert put_off == MessagePutOff(TurnTakenBack(None, stored=stored))
    assert window.engine.requests == [Send("three"), Compact()]
    *_, requested = window.after(Opened(number, "Stored"))
    assert requested == TurnRequested("three")
    (back,) = window.after(TOO_LONG)
    assert isinstance(back, TurnTakenBack)
    assert back.text == "three"
    assert "/compact" in back.error
    assert not window.busy
    assert window.engine.requests == [Send("three"), Compact(), Send("three")]
    # The next message may be put off again.
    window.send("four")
    assert isinstance(window.after(TOO_LONG)[0], MessagePutOff)


def test_other_failures_and_other_turns_are_not_sent_again(window) -> None:
    crowded(window, 0)
    window.send("three")
    assert isinstance(window.after(Failed("broken"))[0], TurnTakenBack)
    window.edit(1, "one!")
    assert isinstance(window.after(TOO_LONG)[0], TurnTakenBack)
    assert window.engine.requests == [Send("three"), Edit(1, "one!")]


def test_a_new_conversation_has_nothing_to_sum_up(window) -> None:
    window.after(Opened(None))
    window.used, window.context = CROWDED, CONTEXT
    assert window.send("one") == TurnRequested("one")
    (back,) = window.after(TOO_LONG)
    assert isinstance(back, TurnTakenBack)


def test_a_message_is_sent_although_there_is_no_summary(window) -> None:
    crowded(window)
    window.send("three")
    problem, requested = window.after(Failed("there is nothing to summarise"))
    assert problem == Problem("there is nothing to summarise")
    assert requested == TurnRequested("three")
    assert window.engine.requests == [Compact(), Send("three")]


def test_stopping_the_summary_gives_the_message_back(window) -> None:
    crowded(window)
    window.send("three")
    window.enqueue("four")
    window.stop()
    assert window.engine.cancels == 1
    assert window.after(Cancelled()) == [QueueReturned("three\n\nfour"), RequestCancelled()]
    assert not window.busy


def test_a_message_taken_from_the_queue_is_not_sent(window) -> None:
    number = crowded(window)
    window.send("three")
    window.queue.pop()
    assert len(window.after(Opened(number, "Stored"))) == 1
    assert not window.busy
    crowded(window)
    window.send("three")
    window.queue.pop()
    assert window.after(Failed("there is nothing")) == [Problem("there is nothing")]


# The views


def deaf_to_compact(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    take = engine._take
    monkeypatch.setattr(engine, "_take", lambda r: None if r == Compact() else take(r))


async def begun(at: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    await at.turn("one", "an answer")
    deaf_to_compact(at.engine, monkeypatch)
    await at.shown([Measured(1, CROWDED, 0)])
    await at.send("two")
    await at.until(lambda: at.controller.compacting)


async def test_the_screen_shows_what_waits_and_for_what(home, settings, monkeypatch) -> None:
    async with chat(home, settings=settings, size=(100, 24)) as at:
        await begun(at, monkeypatch)
        assert "Next: two" in at.text
        assert "Summing up the oldest turns" in at.text
        assert at.typed == ""
        await at.shown([PrefillProgress(0, 8_000, 0)])
        at.clock.now = 10.0
        await at.shown([PrefillProgress(2_000, 8_000, 0)])
        assert "Summing up the oldest turns · read 25% · 30 s to go" in at.text
        await at.shown([Written(41)])
        assert "41 tokens written" in at.text
        await at.shown([PrefillProgress(4_000, 8_000, 0)])
        assert "written" not in at.text
        await at.shown([Opened(1, "one"), Measured(1, 50, 0)])
        assert at.sent == ["one", "two"]
        assert "Next" not in at.text
        await at.shown(reply("so"))
        assert at.text.index("an answer") < at.text.index("two") < at.text.index("so")


async def test_esc_gives_the_message_back(home, settings, monkeypatch) -> None:
    async with chat(home, settings=settings) as at:
        await begun(at, monkeypatch)
        await at.press("escape")
        await at.shown([Cancelled()])
        assert at.typed == "two"
        assert at.sent == ["one"]
        assert "Next" not in at.text


async def test_the_screen_takes_a_message_back_that_is_too_long(home, settings, monkeypatch):
    async with chat(home, settings=settings) as at:
        await at.turn("one", "an answer")
        deaf_to_compact(at.engine, monkeypatch)
        await at.send("a long one")
        assert len(at.messages) == 4
        await at.shown([TOO_LONG])
        assert len(at.messages) == 2
        assert "Next: a long one" in at.text
        assert at.typed == ""
        await at.shown([Opened(1, "one")])
        assert at.sent == ["one", "a long one", "a long one"]


async def test_it_is_among_the_settings(home, settings) -> None:
    async with chat(home, settings=settings) as at:
        await at.send("/settings auto_compact off")
        await at.until(lambda: 'auto_compact = "off"' in settings.read_text())
        assert at.controller.settings.auto_compact == "off"


def test_plain_mode_says_what_the_message_waits_for(home: Path, monkeypatch) -> None:
    (home / "settings.toml").write_text(ON)
    session = PlainChat(home)
    deaf_to_compact(session.engine, monkeypatch)

    def progress() -> None:
        session.now += 10.0
        session.engine.play([PrefillProgress(2_000, 8_000, 0)])

    session.steps = [
        lambda: session.engine.play([*reply("so")[:-1], done(prompt=CROWDED)]),
        progress,
        lambda: session.engine.play([Opened(1, "one")]),
        lambda: session.engine.play(reply("there")),
    ]
    written = session.run("one", "two")
    first = "The context is nearly full: the oldest turns are summed up first.\n"
    assert f"{first}Summing up: 2,000 of 8,000 tokens, 0 from before.\n" in written
    assert "Stopped" not in written
    assert written.index(first) < written.index("Answer: there")
    session.library.close()


def test_plain_mode_takes_nothing_back_in_words(home: Path, monkeypatch) -> None:
    (home / "settings.toml").write_text(ON)
    session = PlainChat(home)
    deaf_to_compact(session.engine, monkeypatch)
    ends: list[list[Event]] = [reply("so"), [TOO_LONG], [Opened(1, "one")], reply("there")]
    session.steps = [lambda events=events: session.engine.play(events) for events in ends]
    written = session.run("one", "two")
    assert "Stopped" not in written
    assert "9,000" not in written
    assert written.index("summed up first") < written.index("Answer: there")
    session.library.close()
