"""`qwen35-chat -p --json` and `--schema`, with scripted events in place of a model."""

import io
import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import MappingProxyType

import pytest
from qwen35_chat import one_shot
from qwen35_chat.fake import done
from qwen35_chat.main import main
from qwen35_chat.options import CommandOptions

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.events import Answer, Notice, Thinking, ToolCall, TurnEvent
from tests.app.drive import played


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[CommandOptions]]:
    """A function that takes the events of the turns and returns the options of turns started."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))

    def install(*events: TurnEvent | Exception) -> list[CommandOptions]:
        started: list[CommandOptions] = []

        def start_turn(_prompt, options, _progress, notice, _processes) -> Generator[TurnEvent]:
            started.append(options)
            if notice is not None:
                notice("the model has no MTP head")
            yield from played(events)

        monkeypatch.setattr(one_shot, "start_turn", start_turn)
        return started

    return install


def written(capsys, *argv: str) -> dict:
    assert main(["-p", "hi", "--json", *argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    return json.loads(out)


def test_one_object_has_all_of_a_reply(script, capsys) -> None:
    script(Thinking("h"), Thinking("m\n"), Answer("\n\nGrüß"), Answer(" Gott"), done("length"))
    assert written(capsys, "-m", "org/repo") == {
        "model": "org/repo",
        "text": "Grüß Gott",
        "thinking": "hm",
        "tool_calls": [],
        "finish_reason": "length",
        "usage": {
            "prompt_tokens": 100,
            "cached_tokens": 0,
            "reply_tokens": 20,
            "reasoning_tokens": 0,
            "prefill_seconds": 0.25,
            "decode_seconds": 0.5,
            "tokens_per_second": 38.0,
        },
        "notices": ["the model has no MTP head"],
    }


def test_calls_are_in_the_form_of_openai(script, capsys) -> None:
    call = ToolCall("weather", MappingProxyType({"city": "Zürich", "days": [1, 2]}))
    script(call, call, done("tool_calls"))
    first, second = written(capsys)["tool_calls"]
    assert first["type"] == "function"
    assert first["function"]["name"] == "weather"
    assert json.loads(first["function"]["arguments"]) == {"city": "Zürich", "days": [1, 2]}
    assert first["id"].startswith("call_")
    assert first["id"] != second["id"]


def test_turns_with_tools_that_ran_are_summed_up(script, capsys) -> None:
    notice = Notice("the model calls files__read(a)")
    script(Answer("Let me see."), notice, done("tool_calls"), Answer("It is 4."), done("stop"))
    answer = written(capsys)
    assert answer["text"] == "Let me see.\n\nIt is 4."
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == 200
    assert answer["usage"]["tokens_per_second"] == 38.0
    assert answer["notices"][1] == notice.message
    assert answer["tool_calls"] == []


def test_an_error_leaves_standard_output_empty(script, capsys) -> None:
    script(Answer("half"), Qwen35Error("then it broke"))
    assert main(["-p", "hi", "--json"]) == 2
    assert capsys.readouterr() == ("", "error: then it broke\n")


def test_an_output_that_is_not_utf_8_still_gets_every_character(script, monkeypatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    script(Answer("naïve 😀"), done())
    assert main(["-p", "hi", "--json"]) == 0
    assert json.loads(raw.getvalue())["text"] == "naïve 😀"


def test_a_schema_binds_the_reply(script, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    started = script(Answer("{}"), done())
    assert main(["-p", "hi", "--schema", str(file)]) == 0
    chosen = started[0].turn["response_format"]
    assert chosen == {"type": "json_schema", "json_schema": {"schema": schema}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        (b"{", "is not JSON ("),
        (b"[]", "does not hold a JSON object"),
        (b"\xff", "name a file with a JSON schema"),
        (b'{"a": 1, "a": 2}', "a key appears twice"),
        (b'{"type": "nope"}', "schema.json cannot be used (Invalid type"),
        (b'{"uniqueItems": true}', 'cannot be used (Unimplemented keys: ["uniqueItems"])'),
    ],
)
def test_a_file_that_holds_no_schema(script, capsys, tmp_path: Path, content, says) -> None:
    started = script(done())
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_bytes(content)
    assert main(["-p", "hi", "--schema", str(file)]) == 2
    out, err = capsys.readouterr()
    assert (out, started) == ("", [])
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["-p", "hi", "--schema", ""], "--schema is empty"),
        (["-p", "hi", "--schema", "."], "is a folder"),
        (["-p", "hi", "--json", "--show-thinking"], "leave out --show-thinking"),
        (["--plain", "--json"], "--json is for one answer"),
    ],
)
def test_options_without_a_use(script, capsys, argv, says) -> None:
    script(done())
    assert main(argv) == 2
    assert says in capsys.readouterr().err


def test_the_demo_model_keeps_to_a_schema(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    file = tmp_path / "schema.json"
    properties = {"answer": {"enum": ["maybe"]}}
    schema = {"type": "object", "properties": properties, "required": ["answer"]}
    file.write_text(json.dumps(schema | {"additionalProperties": False}))
    answer = written(capsys, "--schema", str(file), "--no-thinking")
    assert json.loads(answer["text"]) == {"answer": "maybe"}
    assert answer["usage"]["reply_tokens"] > 1
