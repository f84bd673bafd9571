"""`--plain`: the same chat as lines, for screen readers, logs and dumb terminals."""

import io
import re
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from qwen35_chat import clipboard
from qwen35_chat.commands import BY_SLASH, SCOPE_OF
from qwen35_chat.desk import Desk
from qwen35_chat.fake import FakeEngine, done
from qwen35_chat.history import History
from qwen35_chat.linear import Linear
from qwen35_chat.settings_file import SettingsFile

from qwen35_mlx import __version__
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Event,
    Failed,
    Loaded,
    Loading,
    Notice,
    Opened,
    PrefillProgress,
    ToolCall,
)
from qwen35_mlx.session.library import Library
from qwen35_mlx.session.requests import Compact, Edit, Open, Retry, Select, Unload, UseModel
from tests.app.drive import reply

BOXES = re.compile("[\u2500-\u257f\u2580-\u259f\u2800-\u28ff]")
STARTED = f"qwen35-chat {__version__}, demo. /help lists the commands.\n"
READY = STARTED + "demo is loaded; its context is 4,096 tokens.\n"
FIGURES = "(20 tokens, 38 a second, context 120 of 4,096)\n"


class Session:
    """A linear chat: what is typed, and what comes of it.

    Attributes:
        steps: each is called when the mode waits the next time.
    """

    def __init__(self, home: Path, *, loads: bool = True, library: Library | None = None):
        self.library = library or Library(home)
        self.engine = FakeEngine(self.library, loads=loads)
        settings = SettingsFile(home / "settings.toml", commands=SCOPE_OF)
        settings.load()
        self.desk = Desk(self.engine, self.library, settings, History(home / "history.jsonl"))
        self.out = io.StringIO()
        self.prompts: list[str] = []
        self.steps: list[Callable[[], object]] = []
        self.now = 0.0
        self._typed: list[str | BaseException | list[Event]] = []
        self.linear = Linear(
            self.desk, read=self._read, out=self.out, sleep=self._sleep, clock=lambda: self.now
        )

    def run(self, *typed: str | BaseException | list[Event], at: int | None = None) -> str:
        """All of it, to the end of the input. Events are what the engine says to the line before.

        Returns:
            What was written since the model is there.
        """
        self._typed = list(typed)
        self.linear.run(at)
        assert not self._typed, "not everything was read"
        return self.out.getvalue().removeprefix(READY).removesuffix("\n")

    def _read(self, prompt: str) -> str:
        self.prompts.append(prompt)
        if not self._typed:
            raise EOFError
        typed = self._typed.pop(0)
        if isinstance(typed, BaseException):
            raise typed
        assert isinstance(typed, str)
        while self._typed and isinstance(self._typed[0], list):
            events = self._typed.pop(0)
            assert isinstance(events, list)
            self.steps.append(lambda events=events: self.engine.play(events))
        return typed

    def _sleep(self, _: float) -> None:
        if not self.steps:
            raise AssertionError(f"it waits for ever:\n{self.out.getvalue()}")
        self.steps.pop(0)()


@pytest.fixture
def session(home: Path) -> Iterable[Session]:
    session = Session(home)
    yield session
    session.library.close()


def test_a_turn_is_a_few_lines(session: Session) -> None:
    written = session.run("hello", reply("Good ", "day.", thinking="hm"))
    assert written == "Thinking.\nAnswer: Good day.\n" + FIGURES
    assert session.engine.sent == ["hello"]
    assert session.prompts == ["You: ", "You: "]


def test_thinking_is_written_out_or_left_out_as_the_settings_say(session: Session) -> None:
    written = session.run(
        "/view open", "one", reply("1", thinking="\nhm\nhm"),
        "/view hidden", "two", reply("2", thinking="hm"),
    )  # fmt: skip
    assert written == (
        f"thinking_view: open\nThinking: hm\nhm\nAnswer: 1\n{FIGURES}"
        f"thinking_view: hidden\nAnswer: 2\n{FIGURES}"
    )


def test_a_backslash_goes_on_in_the_next_line(session: Session) -> None:
    session.run("one\\", "two\\", "", reply("so"))
    assert session.engine.sent == ["one\ntwo\n"]
    assert session.prompts == ["You: ", "More: ", "More: ", "You: "]


def test_blank_lines_are_not_sent(session: Session) -> None:
    assert session.run("", "  ") == ""
    assert session.engine.sent == []


def test_files_travel_with_a_message(session: Session) -> None:
    Path("a.txt").write_text("text\n")
    session.run("see @a.txt", reply("so"), "see @.", "/quit")
    assert session.engine.sent == ['see @a.txt\n\n<file name="a.txt">\ntext\n</file>']
    assert "Error: . is a folder: attach its files one by one" in session.out.getvalue()


def test_a_long_prompt_and_a_slow_load_are_told_now_and_then(home: Path) -> None:
    session = Session(home, loads=False)

    def later(*events: Event) -> Callable[[], None]:
        def step() -> None:
            session.now += 6
            session.engine.play(events)

        return step

    session.steps = [
        lambda: session.engine.play([Loading("org/repo", 0.1)]),  # too soon for a line
        later(Loading("org/repo", 0.5)),
        later(Loaded("org/repo", 8_192)),
    ]
    session._typed = ["hello"]
    session.steps += [
        later(PrefillProgress(512, 2_048, 128)),
        lambda: session.engine.play([PrefillProgress(1_024, 2_048, 128)]),
        lambda: session.engine.play([Answer("so"), done()]),
    ]
    session.linear.run()
    assert session.out.getvalue() == (
        f"{STARTED}Loading org/repo: 50%\n"
        "org/repo is loaded; its context is 8,192 tokens.\n"
        "Reading: 512 of 2,048 tokens, 128 from before.\n"
        "Answer: so\n(20 tokens, 38 a second, context 120 of 8,192)\n\n"
    )


def test_calls_notices_limits_and_failures_are_lines(session: Session) -> None:
    written = session.run(
        "one", [Notice("a state was damaged")], [ToolCall("now", {"zone": "UTC"})],
        [done("tool_calls")],
        "two", [Answer("Once"), done("length")],
        "three", [Answer("Twice"), Failed("out of memory")],
    )  # fmt: skip
    assert written == (
        'a state was damaged\nAsks for now({"zone": "UTC"})\n'
        f"The model asks for a tool; this chat has none.\n{FIGURES}"
        "Answer: Once\nCut short: the reply reached the limit of tokens. Ask it to go on.\n"
        f"{FIGURES}Answer: Twice\nError: out of memory\n"
    )


def test_nothing_is_drawn_and_nothing_is_obeyed(session: Session) -> None:
    text = "a\x1b[2J\x1b]0;t\x07\x9bH\rb"
    written = session.run(
        f"{text}?", reply(text, thinking=text), f"/rename {text}", "/sessions", "/help",
        "/settings", "/model", "/view open", "again",
        reply(f"| a | b |\n|---|---|\n| {text} | 2 |"),
    )  # fmt: skip
    assert not BOXES.search(written)
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(written)
    assert "a␛[2J␛]0;t␇\\x9bH␍b" in written


def ctrl_c(session: Session, events: list[Event]) -> Callable[[], None]:
    def step() -> None:
        signal.raise_signal(signal.SIGINT)
        session.engine.play(events)

    return step


def test_ctrl_c_during_a_reply_stops_it_and_keeps_what_was_said(session: Session) -> None:
    session.steps = [
        lambda: session.engine.play([Answer("Once upon")]),
        ctrl_c(session, []),
        lambda: session.engine.play([Cancelled()]),
    ]
    before = signal.getsignal(signal.SIGINT)
    written = session.run("a story", "/copy")
    assert written.startswith("Answer: Once upon\nStopped.\n")
    assert "cancel" in session.engine.calls
    stored = session.library.conversation(1).path()
    assert (stored[-1].content, stored[-1].state) == ("Once upon", "cancelled")
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_comes_with_the_end_loses_nothing(session: Session) -> None:
    session.steps = [ctrl_c(session, [Answer("all of it"), done()])]
    written = session.run("one", "two", reply("more"))
    assert written == f"Answer: all of it\n{FIGURES}Answer: more\n{FIGURES}"
    assert "cancel" not in session.engine.calls


def test_ctrl_c_while_a_model_loads_goes_on_without_it(home: Path) -> None:
    session = Session(home, loads=False)
    session.steps = [
        ctrl_c(session, []), lambda: session.engine.play([Cancelled()]),
    ]  # fmt: skip
    assert "Stopped." in session.run("/thinking off")
    assert session.desk.settings.thinking == "off"


def test_ctrl_c_in_an_empty_line_asks_again(session: Session) -> None:
    assert session.run(KeyboardInterrupt(), "one", reply("so")) == f"\nAnswer: so\n{FIGURES}"


def test_a_load_that_fails_says_what_to_do(home: Path) -> None:
    session = Session(home, loads=False)
    session.steps = [lambda: session.engine.play([Failed("nothing there")])]
    written = session.run("/model org/other")
    assert "Error: nothing there\n/model and a name chooses another model.\n" in written
    assert UseModel("org/other") in session.engine.calls
    assert 'model = "org/other"' in (home / "settings.toml").read_text()


def test_the_end_of_the_input_amid_a_message_keeps_it_as_a_draft(home: Path) -> None:
    first = Session(home)
    first.run("half a thought\\")
    first.library.close()
    second = Session(home)
    written = second.run("whole", reply("so"))
    assert written.startswith("Not sent last time: half a thought\n")
    second.library.close()
    third = Session(home)
    assert "Not sent" not in third.run()
    third.library.close()


def test_a_conversation_goes_on_with_its_draft_and_its_cut_off_reply(home: Path) -> None:
    first = Session(home)
    conversation = first.library.create(model="demo")
    user = first.library.add_message(conversation, None, "user", "one")
    first.library.update_reply(
        first.library.begin_reply(conversation, user.id, "demo").id, "half of it"
    )
    first.library.save_draft(conversation, "and then")
    first.library.close()
    second = Session(home)
    second.run(at=conversation)
    written = second.out.getvalue()
    assert "one:\nYou: one\nAnswer: half of it\n" in written
    assert "Not sent last time: and then" in written
    second.library.close()


def test_quit_and_the_end_of_the_input_end_it(session: Session) -> None:
    session.run("/quit")
    assert len(session.prompts) == 1
    assert session.linear._ended


# Commands


def test_every_slash_name_is_listed_and_works_or_says_that_it_needs_the_screen(session) -> None:
    session.run("/help")
    listed = re.findall(r"^/(\w+)", session.out.getvalue(), re.MULTILINE)
    assert listed == [name for name, command in BY_SLASH.items() if not command.screen]
    for name, command in BY_SLASH.items():
        if command.screen:
            assert f"Error: /{name} needs the screen" in Session(session.library.folder).run(
                f"/{name}"
            )


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("/sesions", "there is no command /sesions; did you mean /sessions?"),
        ("/foo", "there is no command /foo: /help lists them"),
        ("/thinking maybe", "thinking is auto; give one of: auto, on, off"),
        ("/preset fast", "preset is model; give one of: model, thinking, precise, not-thinking"),
        ("/view", "thinking_view is collapsed; give one of: hidden, collapsed, open"),
        ("/settings max_tokens many", "max_tokens must be a whole number, and 'many' is none"),
        ("/retry", "this conversation has no message yet"),
        ("/edit", "this conversation has no message yet"),
        ("/older", "this conversation has no message yet"),
        ("/rename x", "this conversation has no message yet"),
        ("/delete", "this conversation has no message yet"),
        ("/undo", "nothing was deleted since the start"),
        ("/export", "this conversation has no message yet"),
        ("/compact", "there is nothing to compact yet"),
        ("/copy", "there is nothing to copy yet"),
        ("/code", "there is no code in the last answer"),
    ],
)
def test_what_cannot_be_done_is_one_line(session: Session, typed: str, why: str) -> None:
    assert session.run(typed) == f"Error: {why}\n"
    assert session.engine.sent == []


def test_conversations_are_listed_opened_renamed_deleted_and_brought_back(session) -> None:
    written = session.run(
        "about rivers", reply("they flow"), "/new", "about trees", reply("they grow"),
        "/rename Trees", "/sessions", "/sessions flow", "/sessions 1", "/delete", "/undo",
        "/sessions none of this",
    )  # fmt: skip
    assert "A new conversation.\n" in written
    assert "Renamed to Trees\n1. Trees: " in written
    assert "/sessions and a number opens one.\n1. about rivers: they flow\n" in written
    assert "about rivers:\nYou: about rivers\nAnswer: they flow\n" in written
    assert "Deleted about rivers; /undo brings it back.\nA new conversation.\n" in written
    assert written.endswith("Answer: they flow\nThere is none.\n")
    assert Open(1) in session.engine.calls


def test_versions_by_retry_and_edit(session: Session) -> None:
    written = session.run(
        "q", reply("one"), "/retry", reply("two"), "/older", "/edit", "/edit r", reply("three"),
    )  # fmt: skip
    calls = session.engine.calls
    assert Retry(2) in calls
    assert Select(2) in calls
    assert Edit(1, "r") in calls
    assert "Answer (version 1 of 2): one\n" in written
    assert "Your last message: q\n/edit and a text sends that instead.\n" in written
    assert written.endswith(f"Answer: three\n{FIGURES}")


def test_a_summary_is_waited_for_however_long_it_takes(session: Session, monkeypatch) -> None:
    take = session.engine._take
    monkeypatch.setattr(session.engine, "_take", lambda r: None if r == Compact() else take(r))
    waits: list[list[Event]] = [[] for _ in range(40)]
    session.run("q", reply("so"), "/compact", *waits, [Opened(1, "q")])
    assert "q:\nYou: q\nAnswer: so\n" in session.out.getvalue()
    assert not session.desk.busy


def test_a_summary_can_be_stopped(session: Session, monkeypatch) -> None:
    take = session.engine._take
    monkeypatch.setattr(session.engine, "_take", lambda r: None if r == Compact() else take(r))
    session.steps = [
        lambda: session.engine.play(reply("so")),
        ctrl_c(session, []),
        lambda: session.engine.play([Cancelled()]),
    ]
    assert session.run("q", "/compact").endswith("Stopped.\n")
    assert session.engine.calls.count("cancel") >= 1


def test_choices_are_kept_in_the_settings_file(session: Session, home: Path) -> None:
    written = session.run(
        "/thinking on", "/preset not-thinking", "/system Be brief.", "/system",
        "/settings sampling.top_k 7", "/settings",
    )  # fmt: skip
    kept = (home / "settings.toml").read_text()
    for line in (
        'thinking = "off"',
        'preset = "not-thinking"',
        'system = "Be brief."',
        "top_k = 7",
    ):
        assert line in kept
    assert "System prompt: Be brief.\n" in written
    assert "sampling.temperature: 0.7\nsampling.top_p: 0.8\nsampling.top_k: 7\n" in written
    assert "folders: none\n" in written


def test_models_are_listed_with_what_fits(session: Session, monkeypatch) -> None:
    monkeypatch.setattr("qwen35_chat.linear.machine_memory", lambda: 16 * 2**30)
    written = session.run("/model")
    assert "demo: fits, here\n" in written
    assert "mlx-community/Qwen3.5-4B-MLX-4bit: fits, to download\n" in written
    assert "mlx-community/Qwen3.5-27B-4bit: too large, to download\n" in written


def test_unload_copy_code_and_export(session: Session, monkeypatch) -> None:
    copied: list[str] = []
    monkeypatch.setattr(clipboard, "copy", lambda text, *_: copied.append(text) or "Copied")
    written = session.run(
        "q", reply("Look:\n\n```\na = 1\n```\n"), "/copy", "/code", "/export x.md", "/export x.md",
        "/unload",
    )  # fmt: skip
    assert copied == ["Look:\n\n```\na = 1\n```", "a = 1\n"]
    assert "Written to x.md\nError: x.md exists: give another name" in written
    assert Path("x.md").read_text().startswith("# q\n")
    assert Unload() in session.engine.calls
    assert written.endswith("memory was given back; the next message loads it again.\n")


def test_a_conversation_of_another_window_is_read_only(session: Session, home: Path) -> None:
    session.run("q", reply("so"))
    other = Session(home, library=Library(home))
    other.run("me too", at=1)
    assert "Open in another window: here it can be read only.\n" in other.out.getvalue()
    assert "Error: this conversation is open in another window" in other.out.getvalue()
    assert other.engine.sent == []
    other.library.close()
