"""`qwen35-chat -p` with tools: those that are named run, and nothing else."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import qwen35_chat.one_shot as one_shot
from qwen35_chat.fake import done
from qwen35_chat.main import main
from qwen35_chat.tools.calling import MAX_ROUNDS

from qwen35_mlx.session.events import Answer, ToolCall, TurnEvent
from tests.app.tools.drive import write_config

CALL = ToolCall("test__echo", {"text": "hi\x1b[2J"})


class ScriptedChat:
    """Notes what it is sent, and replies with the next of a test's replies."""

    def __init__(self, replies: Sequence[Sequence[TurnEvent]]):
        self.replies = [*replies]
        self.sent: list[Any] = []
        self.options: Mapping[str, Any] = {}

    def __call__(self, model: object, **options: Any) -> "ScriptedChat":
        self.options = options
        return self

    def send(self, content: Any, **_: object) -> Iterator[TurnEvent]:
        self.sent.append(content)
        yield from self.replies.pop(0)

    def close(self) -> None: ...


@pytest.fixture
def config(tmp_path: Path) -> str:
    return str(write_config(tmp_path / "servers.json", gone={"command": "/nowhere"}))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedChat]:
    def install(*replies: Sequence[TurnEvent]) -> ScriptedChat:
        chat = ScriptedChat(replies)
        monkeypatch.setattr(one_shot.qwen35_mlx, "load", lambda *_, **__: None)
        monkeypatch.setattr(one_shot.qwen35_mlx, "Chat", chat)
        monkeypatch.setattr(sys, "stdin", None)
        return chat

    return install


def test_a_named_tool_runs_and_its_result_is_answered(
    config: str, scripted: Callable[..., ScriptedChat], capsys: pytest.CaptureFixture[str]
) -> None:
    other = ToolCall("test__leave", {})
    chat = scripted([CALL, other, done("tool_calls")], [Answer("It said hi."), done()])
    assert main(["-p", "go", "--mcp-config", config, "--allow-tools", "test__echo"]) == 0
    out, err = capsys.readouterr()
    assert out == "It said hi.\n"
    assert 'note: the model calls test__echo({"text": "hi\\u001b[2J"})\n' in err
    assert [tool["function"]["name"] for tool in chat.options["tools"]] == ["test__echo"]
    assert chat.sent == [
        "go",
        [
            {"role": "tool", "content": "hi\x1b[2J"},
            {"role": "tool", "content": "Error: there is no such tool"},
        ],
    ]


def test_calls_of_a_reply_that_was_cut_short_do_not_run(
    config: str, scripted: Callable[..., ScriptedChat], capsys: pytest.CaptureFixture[str]
) -> None:
    chat = scripted([CALL, done("length")])
    assert main(["-p", "go", "--mcp-config", config, "--allow-tools", "test__echo"]) == 0
    assert chat.sent == ["go"]
    assert "cut short" in capsys.readouterr().err


def test_without_names_no_server_starts_and_no_tool_is_offered(
    config: str,
    home: Path,
    scripted: Callable[..., ScriptedChat],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path(config).rename(home / "mcp.json")
    monkeypatch.delattr(one_shot, "allowed_tools")
    chat = scripted([CALL, done("tool_calls")])
    assert main(["-p", "go"]) == 0
    assert "tools" not in chat.options
    assert capsys.readouterr().out.startswith("test__echo(")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--allow-tools", "test__nothing"], "error: there is no tool test__nothing, only: test__"),
        (["--allow-tools", ", "], "error: --allow-tools is empty"),
        ([], "error: --mcp-config has no use with -p unless --allow-tools names what may run"),
    ],
)
def test_what_cannot_be_is_one_line(
    options: list[str],
    line: str,
    config: str,
    scripted: Callable[..., ScriptedChat],
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted()
    assert main(["-p", "go", "--mcp-config", config, *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_names_without_a_prompt_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["--plain", "--allow-tools", "test__echo"]) == 2
    assert capsys.readouterr().err.startswith("error: --allow-tools is for -p")


def test_a_model_that_calls_for_ever_is_stopped(
    tmp_path: Path, scripted: Callable[..., ScriptedChat], capsys: pytest.CaptureFixture[str]
) -> None:
    call = ToolCall("folder__list_files", {})
    scripted(*[[call, done("tool_calls")]] * (MAX_ROUNDS + 1))
    options = ["--tools-folder", str(tmp_path), "--allow-tools", "folder__list_files"]
    assert main(["-p", "go", *options]) == 2
    assert f"the model has called tools {MAX_ROUNDS} times in a row" in capsys.readouterr().err
