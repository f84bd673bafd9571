"""The plugin of `llm`, through its Python API and its command line."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import llm
import pytest
from llm.parts import AttachmentPart, Message, ToolResultPart
from qwen35_chat.fake import done
from qwen35_chat.llm_plugin import AsyncLocalModel, LocalModel, SharedEngine, register_models

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Event,
    Failed,
    Loading,
    PrefillProgress,
    Thinking,
    ToolCall,
)
from qwen35_mlx.session.reply_requests import ReplyRequest

ROOT = Path(__file__).parents[2]


class ScriptedEngine(SharedEngine):
    """Delivers the events of one reply after the other."""

    def __init__(self, *replies: list[Event]):
        super().__init__()
        self.replies = list(replies)
        self.requests: list[ReplyRequest] = []
        self.cancelled = 0

    def submit(self, request: ReplyRequest, deliver: Callable[[Event], None]):
        self.requests.append(request)
        for event in self.replies.pop(0):
            deliver(event)
        return self

    def cancel(self) -> None:
        self.cancelled += 1


def scripted(*replies: list[Event]) -> tuple[LocalModel, ScriptedEngine]:
    engine = ScriptedEngine(*replies)
    return LocalModel("org/repo", engine), engine


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_a_reply_becomes_parts_usage_and_a_reason() -> None:
    events = [
        *(Loading("org/repo"), PrefillProgress(1, 1, 0)),
        *(Thinking("hm"), Answer("It"), Answer(" is"), done("length")),
    ]
    model, engine = scripted(events)
    response = model.prompt("hi", system="Be brief.")
    assert list(response) == ["It", " is"]
    assert [part.to_dict() for part in response.messages()[0].parts] == [
        {"type": "reasoning", "text": "hm"},
        {"type": "text", "text": "It is"},
    ]
    assert (response.usage().input, response.usage().output) == (100, 20)
    assert response.response_json == {"finish_reason": "length"}
    assert engine.requests[0].model == "org/repo"
    assert engine.requests[0].messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    )


def test_tools_run_and_their_results_go_back_in_the_order_of_the_calls() -> None:
    calls = [ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": 3, "b": "x"})]
    model, engine = scripted(
        [Thinking("Add."), *calls, done("tool_calls")], [Answer("It is 3."), done()]
    )
    assert model.chain("What is 1 + 2?", tools=[add]).text() == "It is 3."
    described = engine.requests[0].options["tools"][0]["function"]
    assert described["name"] == "add"
    assert described["description"] == "Add two numbers."
    assert set(described["parameters"]["properties"]) == {"a", "b"}
    _, reply, *results = engine.requests[1].messages
    assert reply["reasoning_content"] == "Add."
    assert [call["function"]["arguments"] for call in reply["tool_calls"]] == [
        dict(call.arguments) for call in calls
    ]
    assert "id" not in reply["tool_calls"][0]  # templates do not print it
    assert results[0] == {"role": "tool", "content": "3"}
    assert results[1]["content"].startswith("Error: ")


def test_a_conversation_is_sent_whole() -> None:
    model, engine = scripted([Answer("Hello Ada."), done()], [Answer("Ada."), done()])
    conversation = model.conversation()
    conversation.prompt("I am Ada.").text()
    conversation.prompt("Who am I?").text()
    roles = [(one["role"], one["content"]) for one in engine.requests[1].messages]
    assert roles == [("user", "I am Ada."), ("assistant", "Hello Ada."), ("user", "Who am I?")]


def test_options_and_a_schema() -> None:
    model, engine = scripted([Answer("{}"), done()])
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    model.prompt("hi", schema=schema, temperature=0.5, thinking=False, stop="END").text()
    options = dict(engine.requests[0].options)
    assert options.pop("response_format")["json_schema"]["schema"] == schema
    assert options == {"temperature": 0.5, "thinking": False, "stop": "END"}


def test_an_option_out_of_range_is_refused_before_a_model_is_loaded() -> None:
    model, engine = scripted()
    with pytest.raises(llm.ModelError, match="temperature is 200"):
        model.prompt("hi", temperature=200).text()
    assert engine.requests == []


def test_an_attachment_in_the_history_is_refused() -> None:
    model, engine = scripted()
    image = AttachmentPart(attachment=llm.Attachment(type="image/png", content=b"png"))
    with pytest.raises(llm.ModelError, match="text only"):
        model.prompt(messages=[Message("user", [image])]).text()
    assert engine.requests == []


def test_a_result_of_a_call_that_is_not_there_is_refused() -> None:
    model, engine = scripted()
    result = ToolResultPart(name="add", output="3", tool_call_id="lost")
    with pytest.raises(llm.ModelError, match="the id of add's result is 'lost': no call before"):
        model.prompt(messages=[Message("tool", [result])]).text()
    assert engine.requests == []


@pytest.mark.parametrize(
    ("last", "says"), [(Failed("the disk is full"), "the disk is full"), (Cancelled(), "cancelled")]
)
def test_a_reply_that_fails(last, says) -> None:
    model, _ = scripted([Answer("half"), last])
    with pytest.raises(llm.ModelError, match=says):
        model.prompt("hi").text()


def test_an_engine_that_does_not_start(monkeypatch) -> None:
    model, engine = scripted()

    def refuse(*_: object) -> None:
        raise Qwen35Error("the library is damaged")

    monkeypatch.setattr(engine, "submit", refuse)
    with pytest.raises(llm.ModelError, match="the library is damaged"):
        model.prompt("hi").text()


def test_a_reader_that_stops_ends_the_reply() -> None:
    model, engine = scripted([Answer("one"), Answer("two"), done()])
    pieces = iter(model.prompt("hi"))
    assert next(pieces) == "one"
    del pieces
    assert engine.cancelled == 1


async def test_an_event_loop() -> None:
    engine = ScriptedEngine([Thinking("hm"), Answer("He"), Answer("llo"), done()])
    response = AsyncLocalModel("demo", engine).prompt("hi")
    assert [piece async for piece in response] == ["He", "llo"]
    assert (await response.usage()).output == 20


def test_the_models_of_this_machine_are_registered() -> None:
    found: list[str] = []
    register_models(lambda model, async_model: found.append(model.model_id))
    assert found == ["qwen35:demo"]


def test_the_command_line_goes_on_where_another_process_has_stopped(tmp_path: Path) -> None:
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    package = tmp_path / "packages" / "plugin-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        "[llm]\n" + "".join(f"{name} = {value}\n" for name, value in entry_points["llm"].items())
    )
    paths = [str(ROOT), str(ROOT / "app"), str(package.parent)]
    environment = os.environ | {
        "LLM_USER_PATH": str(tmp_path / "llm"),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    options = ("-o", "temperature", "0", "-o", "thinking", "false")

    def run(*words: str) -> tuple[str, str]:
        command = [sys.executable, "-m", "llm", *words, "--usage", *options]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    assert "Ada" in run("My name is Ada.", "-m", "qwen35:demo")[0]
    answer, usage = run("What is my name?", "-c")
    assert "Ada" in answer
    cached = re.search(r'"cached": (\d+)', usage)
    assert cached is not None, usage
    assert int(cached[1]) > 10
