"""`qwen35-chat -p` with tools: those that are named run, and nothing else."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import qwen35_chat.one_shot as one_shot
from qwen35_chat.fake import done
from qwen35_chat.main import main
from qwen35_chat.tools import allowed
from qwen35_chat.tools.allowed import allowed_tools
from qwen35_chat.tools.calling import MAX_ROUNDS

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.session.events import Answer, ToolCall, TurnEvent
from tests.app.tools.drive import ScriptedServer, toolbox, write_config

CALL = ToolCall("test__echo", {"text": "hi\x1b[2J"})


class ScriptedChat:
    """Notes what it is sent, and replies with the next of a test's replies."""

    def __init__(self, replies: Sequence[Sequence[TurnEvent]]):
        self.replies = [*replies]
        self.sent: list[Any] = []
        self.options: Mapping[str, Any] = {}
        self.model = SimpleNamespace(context=1 << 20)
        self.settings = ChatSettings()

    def __call__(self, model: object, **options: Any) -> "ScriptedChat":
        self.options = options
        return self

    def send(self, content: Any, **_: object) -> Iterator[TurnEvent]:
        self.sent.append(content)
        yield from self.replies.pop(0)

    def configure(self, settings: ChatSettings) -> None:
        self.settings = settings

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
    out, err = capsys.readouterr()
    assert out.startswith("test__echo(")
    assert "cut short" in err
    assert "the model calls" not in err


def test_json_lists_the_calls_without_a_result(
    config: str, scripted: Callable[..., ScriptedChat], capsys: pytest.CaptureFixture[str]
) -> None:
    cut = ToolCall("test__echo", {"text": "never"})
    scripted([CALL, done("tool_calls")], [cut, done("length")])
    options = ["--mcp-config", config, "--allow-tools", "test__echo"]
    assert main(["-p", "go", "--json", *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    (call,) = answer["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"text": "never"}
    (notice,) = answer["notices"]
    assert notice.startswith("the model calls test__echo")
    assert "never" not in notice


def test_results_are_cut_to_what_the_context_can_hold(
    config: str, scripted: Callable[..., ScriptedChat]
) -> None:
    call = ToolCall("test__echo", {"text": "word " * 100})
    chat = scripted([call, call, done("tool_calls")], [done()])
    chat.model = SimpleNamespace(context=80, tokenizer=SimpleNamespace(encode=str.split))
    assert main(["-p", "go", "--mcp-config", config, "--allow-tools", "test__echo"]) == 0
    for message in chat.sent[1]:
        assert message["content"].endswith("of 100 tokens]")
        assert message["content"].count("word") <= 10


@pytest.mark.parametrize(
    ("servers", "name"),
    [
        ({"a": ["b__c"], "a__b": ["c"]}, "a__b__c"),
        ({"a__b": ["c"], "a": ["b__c"]}, "a__b__c"),
        ({"a__b": ["c"], "a": ["b__c"]}, "a__b__c_2"),
        ({"a": ["b__c"], "a__b": []}, "a__b__c"),
        ({"a": ["c.d", "c_d"]}, "a__c_d"),
        ({"a": ["c.d", "c_d", "c_d_2"]}, "a__c_d_2"),
    ],
)
def test_a_name_that_could_be_that_of_another_tool_is_refused(
    servers: dict[str, list[str]], name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = toolbox(*(ScriptedServer(server, *names) for server, names in servers.items()))
    monkeypatch.setattr(allowed, "open_toolbox", lambda *_: (tools, []))
    with (
        pytest.raises(Qwen35Error, match=f"the name {name} could be that of another tool"),
        allowed_tools([name], None, ""),
    ):
        pass


def test_names_that_only_begin_alike_are_allowed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = toolbox(ScriptedServer("a", "c", "c_2"), ScriptedServer("ab", "c"))
    monkeypatch.setattr(allowed, "open_toolbox", lambda *_: (tools, []))
    with allowed_tools(["a__c", "ab__c"], None, "") as found:
        assert [schema["function"]["name"] for schema in found.schemas] == ["a__c", "ab__c"]


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
