"""Requests as agents and editors make them, with the official clients, on a scripted engine.

Those of Claude Code follow Anthropic's documentation of gateways, prompt caching, thinking and
context editing; those of Zed, Continue and Open WebUI follow OpenAI's of chat completions, of which
each uses other fields.
"""

import json
from collections.abc import Generator
from typing import Any

import anthropic
import openai
import pytest

from qwen35_mlx.session.events import Answer, Thinking, ToolCall
from tests.server.fake_engine import FakeEngine, reply
from tests.server.serving import scripted_server

CACHED = {"type": "ephemeral", "ttl": "1h"}
BETAS = [
    "claude-code-20250219",
    "interleaved-thinking-2025-05-14",
    "fine-grained-tool-streaming-2025-05-14",
    "context-management-2025-06-27",
    "prompt-caching-scope-2026-01-05",
]
READ = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"file_path": {"type": "string"}, "limit": {"type": "number"}},
    "required": ["file_path"],
    "additionalProperties": False,
}
CALL = ToolCall("Read", {"file_path": "/src/ü.py"})


@pytest.fixture
def engine() -> FakeEngine:
    events = [Thinking("The file."), Answer("I look."), CALL]
    return FakeEngine(lambda _: reply(*events, reason="tool_calls"))


@pytest.fixture
def address(engine: FakeEngine) -> Generator[str]:
    with scripted_server(engine) as address:
        yield address


@pytest.fixture
def claude(address: str) -> Any:
    """With a bearer token, as ANTHROPIC_AUTH_TOKEN has it sent."""
    return anthropic.Anthropic(base_url=address, auth_token="any", max_retries=0)


@pytest.fixture
def chat(address: str) -> Any:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0).chat.completions


def claude_code() -> dict[str, Any]:
    """The fields of a request in the middle of its work."""
    shown: list[Any] = [
        {"type": "text", "text": "<system-reminder>The date.</system-reminder>"},
        {"type": "text", "text": "Fix it.", "cache_control": CACHED},
    ]
    called = [
        {"type": "thinking", "thinking": "A file.", "signature": "unsigned"},
        {"type": "text", "text": "I list them."},
        {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}},
        {"type": "tool_use", "id": "toolu_2", "name": "Read", "input": {"file_path": "/no"}},
    ]
    failed = "<tool_use_error>File does not exist.</tool_use_error>"
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": True, "content": failed},
        {
            "type": "tool_result",
            "tool_use_id": "toolu_1",
            "content": [{"type": "text", "text": "ü.py"}],
            "cache_control": CACHED,
        },
        {"type": "text", "text": "<system-reminder>Go on.</system-reminder>"},
    ]
    bash = {"type": "object", "properties": {"command": {"type": "string"}}}
    return {
        "model": "demo",
        "max_tokens": 32000,
        "system": [
            {"type": "text", "text": "You are an agent.", "cache_control": CACHED},
            {"type": "text", "text": "Be brief.", "cache_control": {**CACHED, "scope": "global"}},
        ],
        "messages": [
            {"role": "user", "content": shown},
            {"role": "assistant", "content": called},
            {"role": "user", "content": results},
        ],
        "tools": [
            {"name": "Bash", "description": "Runs.", "input_schema": bash},
            {
                "name": "Read",
                "description": "Reads.",
                "input_schema": READ,
                "eager_input_streaming": True,
                "strict": True,
                "cache_control": CACHED,
            },
        ],
        "thinking": {"type": "enabled", "budget_tokens": 31999},
        "betas": BETAS,
    }


def of_claude_code() -> dict[str, Any]:
    """Those that only a reply has."""
    return {
        "metadata": {"user_id": "user_1_account__session_2"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "extra_body": {"temperature": 1},
        "extra_headers": {"x-app": "cli", "anthropic-dangerous-direct-browser-access": "true"},
    }


def check_work(engine: FakeEngine) -> None:
    """What the engine has got of `claude_code`."""
    request = engine.requests[-1]
    assert [message["role"] for message in request.messages] == [
        *("system", "user", "assistant", "tool", "tool", "user"),
    ]
    system, user, assistant, *results, reminder = request.messages
    assert system["content"] == "You are an agent.\n\nBe brief."
    assert user["content"] == "<system-reminder>The date.</system-reminder>Fix it."
    assert assistant["reasoning_content"] == "A file."
    names = [call["function"]["name"] for call in assistant["tool_calls"]]
    assert names == ["Bash", "Read"]
    assert results[0]["content"] == "ü.py"
    assert "does not exist" in results[1]["content"]
    assert reminder["content"] == "<system-reminder>Go on.</system-reminder>"
    tools = [tool["function"] for tool in request.options["tools"]]
    assert [sorted(tool) for tool in tools] == [["description", "name", "parameters"]] * 2
    assert tools[1]["parameters"] == READ
    assert (request.options["thinking"], request.options["thinking_budget"]) == (True, 31999)


def test_claude_code_at_work(engine, claude):
    with claude.beta.messages.stream(**claude_code(), **of_claude_code()) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_message()
    check_work(engine)
    assert engine.requests[-1].options["max_tokens"] == 32000
    assert engine.requests[-1].client.endswith("user_1_account__session_2")
    assert {"thinking", "text", "input_json"} <= kinds
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
    assert final.content[2].input == dict(CALL.arguments)
    assert final.stop_reason == "tool_use"
    assert final.usage.cache_read_input_tokens == 12
    whole = claude.beta.messages.create(**claude_code() | {"max_tokens": 9}, **of_claude_code())
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]


def test_claude_code_counts_its_context(engine, claude):
    fields = claude_code()
    del fields["max_tokens"]
    assert claude.beta.messages.count_tokens(**fields).input_tokens == 42
    check_work(engine)


def test_claude_code_asks_whether_it_may(engine, claude):
    """Its first request has one token; none is thinking."""
    messages: Any = [{"role": "user", "content": "quota"}]
    found = claude.beta.messages.create(model="demo", max_tokens=1, messages=messages, betas=BETAS)
    assert found.role == "assistant"
    assert engine.requests[-1].options == {"thinking": False, "max_tokens": 1}


@pytest.mark.parametrize("name", ["output_format", "output_config"])
def test_a_title_in_a_schema_by_its_old_and_its_new_name(engine, claude, name):
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    wanted = {"type": "json_schema", "schema": schema}
    messages: Any = [{"role": "user", "content": "A title"}]
    fields = {name: wanted if name == "output_format" else {"format": wanted}}
    claude.beta.messages.create(
        model="demo", max_tokens=64, messages=messages, extra_body=fields, betas=BETAS
    )
    found = engine.requests[-1].options["response_format"]
    assert found["json_schema"]["schema"] == schema


def tool(**more: Any) -> dict[str, Any]:
    function = {"name": "Read", "description": "Reads.", "parameters": READ, **more}
    return {"type": "function", "function": function}


HISTORY = [
    {"role": "user", "content": [{"type": "text", "text": one} for one in ("Fix", " it.")]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "Read", "arguments": '{"file_path": "/a"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "text"}]},
]
OF_EDITORS = {
    "zed": {
        "messages": [{"role": "system", "content": "Be brief."}, *HISTORY],
        "tools": [tool()],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "max_completion_tokens": 4096,
        "temperature": 1.0,
        "stop": [],
        "prompt_cache_key": "thread-7",
        "reasoning_effort": "medium",
        "stream_options": {"include_usage": True},
    },
    "continue": {
        "messages": [{"role": "system", "content": "Be brief."}, *HISTORY],
        "tools": [tool(strict=True)],
        "parallel_tool_calls": False,
        "max_tokens": 4096,
        "stop": ["<|im_end|>", "<|endoftext|>"],
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "stream_options": {"include_usage": True},
    },
    "open webui": {
        "messages": [{"role": "developer", "content": "Be brief."}, *HISTORY],
        "tools": [tool(strict=False)],
        "tool_choice": "auto",
        "max_completion_tokens": 4096,
        "logit_bias": {},
        "seed": 0,
        "user": "ada",
        "metadata": {"chat_id": "1"},
        "stream_options": {"include_usage": True},
    },
}


@pytest.mark.parametrize("editor", OF_EDITORS)
def test_editors(engine, chat, editor):
    fields: Any = OF_EDITORS[editor]
    chunks = list(chat.create(model="demo", stream=True, **fields))
    request = engine.requests[-1]
    assert [message["role"] for message in request.messages[1:]] == ["user", "assistant", "tool"]
    assert request.messages[0]["content"] == "Be brief."
    assert request.messages[1]["content"] == "Fix it."
    assert request.messages[2]["tool_calls"][0]["function"]["arguments"] == {"file_path": "/a"}
    assert request.messages[3]["content"] == "text"
    assert request.options["max_tokens"] == 4096
    assert request.options["tools"][0]["function"]["parameters"] == READ
    assert request.options.get("parallel_tool_calls", True) is fields.get(
        "parallel_tool_calls", True
    )
    assert request.options.get("stop", []) == fields.get("stop", [])
    assert chunks[-1].usage.total_tokens == 25
    assert not chunks[-1].choices
    calls = [call for chunk in chunks[:-1] for call in chunk.choices[0].delta.tool_calls or ()]
    assert json.loads(calls[0].function.arguments) == dict(CALL.arguments)
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
