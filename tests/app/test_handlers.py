"""Command handlers with a view of the test's own, without Textual's loop."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from qwen35_chat.commands import Command
from qwen35_chat.controller import Controller
from qwen35_chat.disk_calls import Work, finished
from qwen35_chat.fake import FakeEngine, done
from qwen35_chat.handlers.conversations import ConversationHandler
from qwen35_chat.handlers.models import ModelHandler
from qwen35_chat.handlers.settings import ScreenSettingsHandler, SettingsHandler
from qwen35_chat.handlers.versions import VersionHandler
from qwen35_chat.handlers.writing import WritingHandler
from qwen35_chat.settings_file import SettingsFile
from qwen35_chat.transitions import SettingsChanged, Transition, TurnRequested

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import Failed
from qwen35_mlx.session.requests import Compact, Edit, Open, Retry, Send, UseModel
from qwen35_mlx.user_paths import short_path


class FakeComposer:
    """A text, as far as handlers use it."""

    def __init__(self) -> None:
        self.text = self.hint = ""
        self.browsing = self.typed = False

    @property
    def whole(self) -> str:
        return self.text.replace("[paste]", "a long paste")

    def stored(self, text: str) -> str:
        return text.replace("[paste]", "<a long paste>")

    def set_text(self, text: str) -> None:
        self.text = text

    def suggest(self, text: str) -> None:
        self.hint = text

    def put_back(self, text: str) -> None:
        self.text = f"{text}\n{self.text}" if self.text else text

    def insert(self, text: str) -> None:
        self.text += text

    def clear(self) -> None:
        self.text = ""

    def focus(self) -> None: ...


class FakeView:
    """Notes what handlers show; `answers` are the user's, to questions and lists."""

    def __init__(self) -> None:
        self.composer = FakeComposer()
        self.shown: list[Transition] = []
        self.messages: list[str] = []
        self.ran: list[tuple[str, str]] = []
        self.answers: list[Any] = []
        self.marked_message: int | None = None
        self.work: list[Work] = []  # the rest of commands, once the user has answered

    def show(self, transition: Transition) -> None:
        self.shown.append(transition)

    def show_message(self, text: str, *, error: bool = False) -> None:
        self.messages.append(text)

    def run_later(self, command: Command, argument: str) -> None:
        self.ran.append((command.name, argument))

    def list_conversations(self, words: str, then: Callable[..., None]) -> None:
        self.work.append(then(*self.answers.pop(0)))

    def ask(self, title: str, value: str, then: Callable[[str], Work]) -> None:
        self.messages.append(f"{title}: {value}")
        self.work.append(then(self.answers.pop(0)))

    def ask_title(self, title: str, then: Callable[[str], Work]) -> None:
        self.ask("Title", title, then)

    def list_models(self, then: Callable[[str], None]) -> None:
        then(self.answers.pop(0))

    def key(self, name: str, most: int = 1) -> str:
        return f"<{name}>"

    def save_draft(self) -> None: ...

    def perform_send(self, work: Work) -> None:
        finished(work)

    def show_queue(self) -> None: ...

    def finish(self, work: Work | None = None) -> None:
        """Do a command, and what it has asked the user for."""
        if work is not None:
            finished(work)
        while self.work:
            finished(self.work.pop(0))


@pytest.fixture
def controller(home: Path) -> Iterable[Controller]:
    with Library(home) as library:
        controller = Controller(FakeEngine(library), library, SettingsFile(None))
        controller.start()
        take_all(controller)
        yield controller


@pytest.fixture
def view() -> Any:
    return FakeView()


def engine_of(controller: Controller) -> FakeEngine:
    assert isinstance(controller.engine, FakeEngine)
    return controller.engine


def take_all(controller: Controller) -> None:
    """Take in all events of the engine."""

    async def poll() -> None:
        async for _ in controller.poll():
            pass

    finished(poll())


def turn(controller: Controller, text: str) -> None:
    """A whole turn."""
    controller.send(text)
    engine_of(controller).play([done()])
    take_all(controller)


def test_a_text_is_sent_and_a_second_one_waits(controller: Controller, view: Any) -> None:
    writing = WritingHandler(controller, view)
    for text in ("one", "two [paste]"):
        view.composer.text = text
        writing.send()
        assert view.composer.text == ""
    assert view.shown == [TurnRequested("one")]
    assert controller.queue == ["two a long paste"]
    assert controller.history.texts == ["one", "two a long paste"]
    writing.step_history(-1)
    assert (view.composer.text, controller.queue) == ("two a long paste", [])


def test_a_slash_command_is_run_and_not_sent(controller: Controller, view: Any) -> None:
    view.composer.text = "/rename A title"
    WritingHandler(controller, view).send()
    assert view.ran == [("rename", "A title")]
    assert view.composer.text == ""
    assert not controller.busy


@pytest.mark.parametrize("greeting", ["", "Hello!"])
def test_nothing_typed_sends_the_greeting_or_nothing(controller, view, greeting: str) -> None:
    WritingHandler(controller, view, greeting).send()
    assert view.shown == ([TurnRequested("Hello!")] if greeting else [])


def test_without_a_model_the_text_stays(controller: Controller, view: Any) -> None:
    controller.use_model("org/wrong")
    controller.model_status = "failed"
    view.composer.text = "one"
    with pytest.raises(Qwen35Error, match="<models> chooses one"):
        WritingHandler(controller, view).send()
    assert view.composer.text == "one"


def test_an_edit_gives_the_draft_back_when_it_is_sent_or_left(controller, view) -> None:
    turn(controller, "first")
    message = controller.library.conversation(1).message(1)
    writing = WritingHandler(controller, view)
    for leave in (writing.leave_edit, writing.send):
        view.composer.text = "unsent"
        writing.begin_edit(message, "first")
        assert (writing.editing, view.composer.text) == (message, "first")
        leave()
        assert (writing.editing, view.composer.text) == (None, "unsent")
    assert engine_of(controller).calls[-1] == Edit(1, "first")
    assert view.shown == [TurnRequested("first", drop_from=1)]


def test_retry_acts_on_the_marked_message(controller: Controller, view: Any) -> None:
    for text in ("first", "second"):
        turn(controller, text)
    view.marked_message = 1
    view.finish(VersionHandler(controller, view).retry())
    assert engine_of(controller).calls[-1] == Retry(2)
    assert view.shown == [TurnRequested(None, drop_after=1)]


def test_compact_is_a_request(controller: Controller, view: Any) -> None:
    turn(controller, "first")
    view.finish(VersionHandler(controller, view).compact())
    assert engine_of(controller).calls[-1] == Compact()
    controller.take(Failed("too short"))
    assert not controller.busy


def test_rename_asks_for_a_title_it_was_not_given(controller: Controller, view: Any) -> None:
    handler = ConversationHandler(controller, view)
    with pytest.raises(Qwen35Error, match="no message yet"):
        view.finish(handler.rename())
    turn(controller, "first")
    view.answers = ["Second"]
    view.finish(handler.rename("First"))
    view.finish(handler.rename())
    assert view.messages == ["Renamed to First", "Title: First", "Renamed to Second"]


def test_a_found_message_is_opened_on_its_own_path(controller: Controller, view: Any) -> None:
    turn(controller, "first")
    controller.edit(1, "other")
    engine_of(controller).play([done()])
    take_all(controller)
    library = controller.library
    assert library.conversation(1).path()[0].content == "other"
    view.answers = [(1, 2)]
    ConversationHandler(controller, view).list("first")
    view.finish()
    assert [message.id for message in library.conversation(1).path()] == [1, 2]
    assert engine_of(controller).calls[-1] == Open(1)


def test_a_model_is_used_by_name_or_from_the_list(controller: Controller, view: Any) -> None:
    view.answers = ["org/two"]
    for name, used in (("org/one", "org/one"), ("", "org/two")):
        ModelHandler(controller, view).choose(name)
        assert engine_of(controller).calls[-1] == UseModel(used)
        take_all(controller)


def test_a_setting_is_changed_by_name_and_value(controller: Controller, view: Any) -> None:
    view.finish(SettingsHandler(controller, view).settings("max_tokens 1,234"))
    assert controller.settings.max_tokens == 1234
    assert view.shown == [SettingsChanged()]
    assert view.messages == ["max_tokens is 1234, from now on"]


def test_a_command_without_a_value_goes_to_the_next_one(controller: Controller, view: Any) -> None:
    handler = ScreenSettingsHandler(controller, view)
    for value in ("open", "hidden", "collapsed"):
        view.finish(handler.view())
        assert controller.settings.thinking_view == value
    with pytest.raises(Qwen35Error, match="'wide' is not one of hidden, collapsed, open"):
        view.finish(handler.view("wide"))
    view.finish(handler.preset("precise"))
    assert (controller.settings.preset, controller.settings.thinking) == ("precise", "on")


def test_an_export_is_written_to_its_file(controller: Controller, view: Any) -> None:
    turn(controller, "first")
    view.finish(ConversationHandler(controller, view).export("kept.md"))
    assert Path("kept.md").read_text().startswith("# first")
    assert view.messages == [f"Written to kept.md in {short_path(Path.cwd())}"]
    assert engine_of(controller).calls[-1] == Send("first")
