"""The controller alone: events of an engine in, transitions out."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from qwen35_chat.controller import Controller
from qwen35_chat.disk_calls import finished
from qwen35_chat.fake import done
from qwen35_chat.settings_file import SettingsFile
from qwen35_chat.transitions import (
    ConversationShown,
    LoadFailed,
    Problem,
    QueueReturned,
    ReplyStarted,
    RequestCancelled,
    ThinkingEnded,
    Transition,
    TurnEnded,
    TurnRequested,
    TurnTakenBack,
)

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    DraftCounts,
    Event,
    Failed,
    Loaded,
    Loading,
    Measured,
    Notice,
    Opened,
    PrefillProgress,
    Thinking,
    Titled,
    ToolCall,
    TurnStarted,
    Unloaded,
    Written,
)
from qwen35_mlx.session.requests import Compact, Edit, Open, Retry, Select, Send, UseModel
from tests.app.drive import Clock
from tests.library.messages import add_message, begin_reply, finish_reply


class RecordingEngine:
    """Notes requests, and returns the events that a test gives it."""

    def __init__(self) -> None:
        self.requests: list[object] = []
        self.cancels = 0
        self.events: list[Event] = []

    def start(self) -> None: ...

    def submit(self, request: object) -> None:
        self.requests.append(request)

    def cancel(self) -> None:
        self.cancels += 1

    def poll(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def close(self) -> None: ...


class LoneController(Controller):
    """A controller with an engine, a library and a clock of its own."""

    engine: RecordingEngine

    def __init__(self, library: Library, settings: Path | None = None):
        self.time = Clock()
        super().__init__(RecordingEngine(), library, SettingsFile(settings), clock=self.time)

    def after(self, *events: Event) -> list[Transition]:
        """The transitions of the next poll."""
        self.engine.events = list(events)
        return finished(self._polled())

    async def _polled(self) -> list[Transition]:
        return [transition async for transition in self.poll()]

    def store_turn(self, *texts: str) -> int:
        """Store a path of messages, the user's first, and open it; the conversation's id."""
        number = self.library.create(title="Stored", model="demo")
        parent = None
        for n, text in enumerate(texts):
            if n % 2:
                assert parent is not None
                parent = begin_reply(self.library, number, parent, "demo").id
                finish_reply(self.library, parent, text)
            else:
                parent = add_message(self.library, number, parent, "user", text).id
        self.after(Loaded("demo", 4096), Opened(number, "Stored"))
        return number


@pytest.fixture
def window(home: Path) -> Iterable[LoneController]:
    with Library(home) as library:
        yield LoneController(library)


def loaded(window: LoneController) -> LoneController:
    window.after(Loading("demo"), Loaded("demo", 4096))
    return window


# A turn


def test_a_whole_turn(window: LoneController) -> None:
    number = loaded(window).store_turn("one", "two")
    assert window.send("three") == TurnRequested("three")
    assert window.engine.requests == [Send("three")]
    user = add_message(window.library, number, 2, "user", "three").id
    reply = begin_reply(window.library, number, user, "demo").id
    assert window.after(TurnStarted(number, user, reply)) == [ReplyStarted(user, reply)]
    progress = PrefillProgress(64, 128, 32)
    assert window.after(progress) == [progress]
    assert (window.used, window.cached) == (128, 32)
    window.time.now = 1.0
    assert window.after(Thinking("\n "), Thinking("hm")) == [Thinking("hm")]
    window.time.now = 3.5
    assert window.after(Answer("\n\nfo"), Answer("ur")) == [ThinkingEnded(2.5), Answer("four")]
    assert window.busy
    drafts = DraftCounts(passes=10, drafted=30, accepted=21)
    end = replace(done(prompt=130, reply=7), drafts=drafts)
    assert window.after(end) == [TurnEnded(usage=end.usage, accepted=drafts)]
    assert not window.busy
    assert (window.used, window.usage, window.accepted) == (137, end.usage, drafts)


@pytest.mark.parametrize(
    ("event", "phase"),
    [
        (PrefillProgress(1, 2, 0), "reading"),
        (Thinking("hm"), "thinking"),
        (Answer("so"), "writing"),
        (Thinking("  "), "waiting"),
    ],
)
def test_the_phases_of_a_turn(window: LoneController, event: Event, phase: str) -> None:
    loaded(window).send("one")
    assert window.turn is not None
    assert window.turn.phase == "waiting"
    window.after(event)
    assert window.turn.phase == phase


def test_the_rate_counts_pieces_as_they_came_and_needs_some_time(window: LoneController) -> None:
    loaded(window).send("one")
    window.after(Answer("a"))
    assert window.turn is not None
    assert window.turn.rate() == 0.0
    window.time.now = 2.0
    window.after(*[Answer("b")] * 59)  # merged into one transition
    assert window.turn.rate() == 30.0


@pytest.mark.parametrize("end", [done(), Cancelled(), Failed("lost")])
@pytest.mark.parametrize("answered", [True, False])
def test_at_its_end_a_reply_shows_the_time_of_thinking_that_is_stored(
    window: LoneController, end: Event, *, answered: bool
) -> None:
    number = loaded(window).store_turn("one")
    window.send("two")
    user = add_message(window.library, number, 1, "user", "two").id
    stored = begin_reply(window.library, number, user, "demo")
    window.after(TurnStarted(number, user, stored.id), Thinking("hm"))
    window.time.now = 0.37
    if answered:
        assert ThinkingEnded(0.37) in window.after(Answer("so"))
    window.library.save(replace(stored, thinking="hm", thinking_seconds=0.31))
    shown = window.after(end)
    assert shown[0] == ThinkingEnded(0.31)
    assert isinstance(shown[1], TurnEnded)


def test_a_tool_call_ends_the_thinking_and_counts_as_a_reply(window: LoneController) -> None:
    call = ToolCall("now", {"zone": "UTC"})
    loaded(window).send("one")
    assert window.after(Thinking("hm"), call) == [Thinking("hm"), ThinkingEnded(0.0), call]
    (ended,) = window.after(done("tool_calls"))
    assert isinstance(ended, TurnEnded)
    assert ended.note == "The model asks for a tool; none was run."


def test_tokens_without_text_change_nothing(window: LoneController) -> None:
    loaded(window).send("one")
    assert window.after(Written(7)) == []


@pytest.mark.parametrize(
    "event", [Answer("ghost"), Thinking("ghost"), PrefillProgress(1, 2, 0), done(), Written(1)]
)
def test_late_events_of_a_turn_that_is_over_are_ignored(
    window: LoneController, event: Event
) -> None:
    assert loaded(window).after(event) == []
    assert (window.used, window.usage, window.turn) == (0, None, None)


# How a turn ends


def begun(window: LoneController) -> LoneController:
    """A window whose turn is stored, with a message in the queue."""
    loaded(window).send("one")
    window.after(TurnStarted(1, 1, 2))
    window.enqueue("two")
    window.enqueue("three")
    return window


def test_a_stop_keeps_the_reply_and_returns_the_queue(window: LoneController) -> None:
    begun(window).after(Answer("Once"))
    window.stop()
    assert window.after(Cancelled()) == [TurnEnded("Stopped."), QueueReturned("two\n\nthree")]
    assert window.engine.cancels >= 2  # again with each poll: the turn may have begun only then
    assert window.queue == []


def test_a_stop_of_a_blank_reply_offers_another(window: LoneController) -> None:
    (ended, _) = begun(window).after(Answer("\n"), Cancelled())
    assert ended == TurnEnded("Stopped.", offer_retry=True)


def test_a_failure_amid_a_reply_keeps_it(window: LoneController) -> None:
    transitions = begun(window).after(Thinking("hm"), Failed("out of memory"))
    assert transitions == [
        Thinking("hm"),
        ThinkingEnded(0.0),
        TurnEnded("Error: out of memory", error=True, offer_retry=True),
        QueueReturned("two\n\nthree"),
    ]


def test_a_reply_cut_short_says_so_and_the_next_message_is_sent(window: LoneController) -> None:
    ended, requested = begun(window).after(done("length"))
    assert isinstance(ended, TurnEnded)
    assert ended.note.startswith("Cut short")
    assert requested == TurnRequested("two")
    assert window.queue == ["three"]
    assert window.engine.requests[-1] == Send("two")
    assert window.busy


@pytest.mark.parametrize(("event", "error"), [(Failed("too long"), "too long"), (Cancelled(), "")])
def test_a_turn_that_never_began_is_taken_back(
    window: LoneController, event: Event, error: str
) -> None:
    number = loaded(window).store_turn("one", "two")
    window.send("three")
    window.enqueue("four")
    returned, taken_back = window.after(event)
    assert returned == QueueReturned("four")
    stored = window.library.conversation(number)
    assert taken_back == TurnTakenBack("three", error, stored=stored)
    assert not window.busy


def test_a_retry_that_never_began_gives_no_text_back(window: LoneController) -> None:
    loaded(window).store_turn("one", "two")
    assert finished(window.retry()) == TurnRequested(None, drop_after=1)
    (taken_back,) = window.after(Failed("no room"))
    assert isinstance(taken_back, TurnTakenBack)
    assert taken_back.text is None


# What is requested


def test_retry_and_edit_say_what_leaves_the_view(window: LoneController) -> None:
    loaded(window).store_turn("one", "two", "three", "four")
    assert finished(window.retry(1)) == TurnRequested(None, drop_after=1)
    assert window.engine.requests[-1] == Retry(2)
    window.after(Cancelled())
    assert window.edit(3, "other") == TurnRequested("other", drop_from=3)
    assert window.engine.requests[-1] == Edit(3, "other")


@pytest.mark.parametrize(
    "request_it",
    [
        lambda window: window.send("two"),
        lambda window: window.open(None),
        lambda window: window.use_model("org/repo"),
        lambda window: window.unload(),
        lambda window: window.compact(),
        lambda window: finished(window.select_version(1)),
    ],
)
def test_nothing_else_is_requested_during_a_turn(window: LoneController, request_it) -> None:
    loaded(window).send("one")
    with pytest.raises(Qwen35Error, match="a reply is being written: Esc stops it"):
        request_it(window)
    assert window.engine.requests == [Send("one")]


def test_a_conversation_of_another_window_takes_no_turn(window: LoneController) -> None:
    loaded(window).after(Opened(None, read_only=True))
    with pytest.raises(Qwen35Error, match="open in another window: Ctrl\\+N begins a new one"):
        window.send("one")
    assert not window.busy


# Conversations


def test_an_opened_conversation_comes_with_its_messages(window: LoneController) -> None:
    number = loaded(window).store_turn("one", "two")
    window.open(number)
    assert window.pending
    stored = window.library.conversation(number)
    assert window.after(Opened(number, "Stored", read_only=True)) == [
        ConversationShown(stored, read_only=True)
    ]
    assert not window.pending
    assert window.after(Measured(number, 70, 64), Measured(99, 1, 1), Titled(number, "New")) == []
    assert (window.used, window.cached, window.title) == (70, 64, "New")
    assert window.after(Opened(None)) == [ConversationShown(None)]
    assert (window.conversation, window.used) == (None, 0)


def test_another_version_is_shown_with_the_message_that_was_selected(
    window: LoneController,
) -> None:
    number = loaded(window).store_turn("one", "two")
    begin_reply(window.library, number, 1, "demo")
    finished(window.select_version(-1))
    assert window.engine.requests[-1] == Select(2)
    (shown,) = window.after(Opened(number, "Stored"))
    assert isinstance(shown, ConversationShown)
    assert shown.selected == 2
    with pytest.raises(Qwen35Error, match="this is version 2 of 2"):
        finished(window.select_version(1, 3))


def test_a_summary_ends_with_the_conversation_and_sends_what_waits(window: LoneController) -> None:
    number = loaded(window).store_turn("one", "two")
    window.compact()
    assert window.engine.requests[-1] == Compact()
    window.enqueue("three")
    progress = PrefillProgress(512, 2048, 0)
    assert window.after(progress) == [progress]
    assert window.compacting
    shown, requested = window.after(Opened(number, "Stored"))
    assert isinstance(shown, ConversationShown)
    assert requested == TurnRequested("three")
    assert not window.compacting


@pytest.mark.parametrize(
    ("event", "end"),
    [(Cancelled(), RequestCancelled()), (Failed("too short"), Problem("too short"))],
)
def test_a_summary_that_ends_otherwise_returns_the_queue(window, event, end) -> None:
    loaded(window).store_turn("one", "two")
    window.compact()
    window.enqueue("three")
    assert window.after(event) == [QueueReturned("three"), end]


# The model


def test_a_load_and_an_unload(window: LoneController) -> None:
    assert window.loading
    assert window.pending
    assert window.after(Loading("demo", 0.1), Loading("demo", 0.4)) == [Loading("demo", 0.4)]
    assert window.load_progress == Loading("demo", 0.4)
    assert window.after(Loaded("demo", 4096)) == [Loaded("demo", 4096)]
    assert (window.loaded, window.context, window.pending) == (True, 4096, False)
    window.unload()
    assert window.pending
    assert window.after(Unloaded()) == [Unloaded()]
    assert (window.loaded, window.pending) == (False, False)


def test_a_first_load_that_fails_leaves_no_model(window: LoneController) -> None:
    assert window.after(Failed("no room")) == [LoadFailed("no room")]
    assert window.failed
    window.use_model("org/other")
    window.after(Loading("org/other"))
    assert not window.failed


def test_a_load_that_was_stopped_has_not_failed(window: LoneController) -> None:
    window.stop()
    assert window.engine.cancels == 1
    assert window.after(Cancelled()) == [RequestCancelled()]
    assert (window.failed, window.loading, window.pending) == (False, False, False)


@pytest.mark.parametrize("end", [Failed("not found"), Cancelled()])
def test_a_model_that_cannot_be_loaded_leaves_the_one_before(home: Path, end: Event) -> None:
    file = home / "settings.toml"
    with Library(home) as library:
        window = loaded(LoneController(library, file))
        window.use_model("org/wrong")
        assert (window.model, window.loading) == ("org/wrong", True)
        window.after(Loading("org/wrong"), end)
        assert (window.model, window.loaded) == ("demo", True)
        window.after(Loaded("org/wrong", 1))
        assert not file.exists()


def test_a_chosen_model_goes_into_the_settings_once_it_is_loaded(home: Path) -> None:
    file = home / "settings.toml"
    with Library(home) as library:
        window = loaded(LoneController(library, file))
        window.use_model("org/other")
        assert window.engine.requests == [UseModel("org/other")]
        assert not file.exists()
        window.after(Loading("org/other"), Loaded("org/other", 8192))
        assert 'model = "org/other"' in file.read_text()


def test_settings_that_cannot_be_written_are_a_problem_and_the_model_stays(home: Path) -> None:
    with Library(home) as library:
        window = loaded(LoneController(library, home / "file" / "settings.toml"))
        (home / "file").write_text("no folder")
        window.use_model("org/other")
        event, problem = window.after(Loaded("org/other", 8192))
        assert event == Loaded("org/other", 8192)
        assert isinstance(problem, Problem)
        assert window.model == "org/other"


def test_a_load_that_fails_under_a_turn_takes_it_back(window: LoneController) -> None:
    window.send("early")
    assert window.after(Failed("no room")) == [TurnTakenBack("early", "no room", load_failed=True)]
    assert window.failed


def test_a_failure_of_another_request_is_a_problem(window: LoneController) -> None:
    loaded(window).open(7)
    assert window.engine.requests == [Open(7)]
    assert window.after(Failed("there is no conversation 7")) == [
        Problem("there is no conversation 7")
    ]
    assert not window.pending


def test_a_notice_passes_unchanged(window: LoneController) -> None:
    assert window.after(Notice("a state was damaged")) == [Notice("a state was damaged")]
