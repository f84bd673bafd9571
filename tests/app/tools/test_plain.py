"""Tools in plain mode: a question is a line, and its answer a word."""

import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qwen35_chat import plain_mode
from qwen35_chat.fake import done
from qwen35_chat.runtime import ChatRuntime
from qwen35_chat.tools.calls import ToolResult

from qwen35_mlx.session.events import ToolCall
from qwen35_mlx.session.requests import AddResults, OfferTools, Send, SendResults
from tests.app.drive import reply
from tests.app.plain_drive import PlainChat
from tests.app.tools.drive import ScriptedServer, toolbox
from tests.app.tools.server import ESCAPES

CALL = [ToolCall("files__read", {"path": ESCAPES}), done("tool_calls")]
PROMPT = "once, always, no or never: "


class Answering(ScriptedServer):
    """A server that answers at once."""

    def call(self, name, arguments):
        future = super().call(name, arguments)
        future.set_result(ToolResult(f"a\x1b[2J{len(self.calls)}\nmore"))
        return future


@pytest.fixture
def files() -> Answering:
    return Answering("files", "read")


@pytest.fixture
def session(home: Path, files: Answering) -> Iterable[PlainChat]:
    session = PlainChat(home, toolbox=toolbox(files, file=home / "tools.json"))
    yield session
    session.library.close()


def run(session: PlainChat, *answers: str | BaseException) -> str:
    """One message, a call, these answers, and a reply to the result.

    The reply is played as soon as the engine gets the results.
    """
    submit = session.engine.submit

    def submitted(request: object) -> None:
        submit(request)  # pyright: ignore[reportArgumentType]
        if isinstance(request, SendResults):
            session.steps.append(lambda: session.engine.play(reply("So.")))

    session.engine.submit = submitted  # pyright: ignore[reportAttributeAccessIssue]
    return session.run("read", CALL, *answers)


def test_a_call_runs_after_a_word(session: PlainChat, files: Answering) -> None:
    written = run(session, "yes", "", "Once")
    assert len(files.calls) == 1
    assert session.prompts == ["You: ", PROMPT, PROMPT, PROMPT, "You: "]
    assert "Run read of files with\n{\n" in written
    assert "Result of files__read: a␛[2J1 ... (11 characters)\n" in written
    assert "Answer: So.\n" in written
    assert "\x1b" not in written
    assert "\u202e" not in written


@pytest.mark.parametrize("word", ["no", "never"])
def test_a_call_that_is_refused_does_not_run(
    word: str, session: PlainChat, files: Answering
) -> None:
    written = run(session, word)
    assert not files.calls
    assert "Result of files__read: Error: the user does not allow this call" in written


@pytest.mark.parametrize("end", [EOFError(), KeyboardInterrupt()])
def test_the_end_of_the_input_and_ctrl_c_stop_the_turn(
    end: BaseException, session: PlainChat, files: Answering
) -> None:
    written = run(session, end)
    assert not files.calls
    assert isinstance(session.engine.calls[-1], AddResults)
    assert "Stopped." in written


def test_lines_of_a_pipe_allow_nothing(home: Path, files: Answering) -> None:
    piped = PlainChat(home, toolbox=toolbox(files), attended=False)
    written = run(piped)
    piped.library.close()
    assert not files.calls
    assert piped.prompts == ["You: ", "You: "]
    assert "No: standard input is no terminal, so that nobody can allow it.\n" in written
    assert "Result of files__read: Error: the user does not allow this call" in written


@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_has_a_user(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def make(_: object, **options: Any) -> SimpleNamespace:
        made.append(options)
        return SimpleNamespace(run=lambda _: None)

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: terminal))
    monkeypatch.setattr(plain_mode, "PlainMode", make)
    runtime: Any = SimpleNamespace(controller=None, _enable_readline=lambda: None)
    assert ChatRuntime.run_plain(runtime, None) == 0
    assert [arguments["attended"] for arguments in made] == [terminal]


def test_what_was_typed_before_the_question_is_dropped(
    session: PlainChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    monkeypatch.setattr(plain_mode, "drop_typed_input", lambda: dropped.append(1))
    run(session, "no")
    assert dropped == [1]


def test_tools_are_listed_and_switched(session: PlainChat, files: Answering) -> None:
    written = session.run(
        "/tools", "/tools files__read always", "/tools", "/tools files__read ask",
        "/tools files off", "/tools", "/tools other on", "/tools files__no never", "/tools x",
    )  # fmt: skip
    assert written.splitlines() == [
        "files: on, 1 tool",
        "  files__read: asks before each call. does it",
        "/tools, a server and on or off switches it.",
        "/tools, a tool and ask, always or never says when it runs.",
        "files__read always runs",
        "files: on, 1 tool",
        "  files__read: always runs. does it",
        "/tools, a server and on or off switches it.",
        "/tools, a tool and ask, always or never says when it runs.",
        "files__read asks before each call",
        "The tools of files: off",
        "files: off",
        "/tools, a server and on or off switches it.",
        "/tools, a tool and ask, always or never says when it runs.",
        "Error: there is no server other: /tools lists them",
        "Error: there is no tool files__no: /tools lists them",
        "Error: give a server and on or off, or a tool and ask, always or never",
    ]


def test_tools_that_are_ready_since_the_last_poll_are_offered_first(home: Path, files: Answering):
    """Plain mode polls nothing while it waits for a line."""
    files.slow = True
    session = PlainChat(home, toolbox=toolbox(files))
    requests: list[object] = []
    session.engine.submit = requests.append  # pyright: ignore[reportAttributeAccessIssue]
    files.connect()
    session.controller.send("Hello")
    session.library.close()
    assert [type(request) for request in requests] == [OfferTools, Send]
