"""The official clients and tools over several rounds, on a scripted engine.

The engine calls a tool until it has two results, so that every form of call and result crosses the
network in both directions.
"""

import json
from collections.abc import Generator, Sequence
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from qwen35_mlx.session.events import Answer, Event, Failed, PrefillProgress, Thinking, ToolCall
from qwen35_mlx.session.reply_requests import ReplyRequest
from tests.server.fake_engine import FakeEngine, failing, reply
from tests.server.serving import scripted_server

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}


def forecast(request: ReplyRequest) -> Sequence[Event]:
    """Two calls, then one, then an answer that has all results."""
    results = [message["content"] for message in request.messages if message["role"] == "tool"]
    if len(results) == 3:
        return reply(Thinking("done\n"), Answer(", ".join(results)))
    cities = ["Oslo", "Rome"] if not results else ["Ünïted"]
    calls = [ToolCall("weather", {"city": city}) for city in cities]
    return reply(Thinking("look\n"), Answer("Let me see."), *calls, reason="tool_calls")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(forecast)


@pytest.fixture
def address(engine: FakeEngine) -> Generator[str]:
    with scripted_server(engine) as address:
        yield address


EXPECTED = "sun in Oslo, sun in Rome, sun in Ünïted"


def check_history(engine: FakeEngine) -> None:
    """What the engine got in the last round."""
    roles = [message["role"] for message in engine.requests[-1].messages]
    assert roles == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    calls = engine.requests[-1].messages[1]["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert engine.requests[-1].messages[1]["content"] == "Let me see."


def weather(arguments: Any) -> str:
    return f"sun in {arguments['city']}"


@pytest.mark.parametrize("stream", [False, True])
def test_chat_completions(engine, address, stream):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="any")
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
    messages: list[Any] = [{"role": "user", "content": "Weather?"}]
    for _ in range(5):
        if stream:
            with client.chat.completions.stream(
                model="demo", messages=messages, tools=tools
            ) as events:
                for _event in events:
                    pass
                choice: Any = events.get_final_completion().choices[0]
        else:
            choice = client.chat.completions.create(
                model="demo", messages=messages, tools=tools
            ).choices[0]
        messages.append(choice.message)
        if choice.finish_reason != "tool_calls":
            break
        for call in reversed(choice.message.tool_calls):
            result = weather(json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert messages[-1].content == EXPECTED
    check_history(engine)
    assert engine.requests[-1].messages[1]["reasoning_content"].strip() == "look"


@pytest.mark.parametrize("stream", [False, True])
def test_responses(engine, address, stream):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="any")
    tools: Any = [{"type": "function", "name": "weather", "parameters": PARAMETERS}]
    items: list[Any] = [{"role": "user", "content": "Weather?"}]
    for _ in range(5):
        if stream:
            with client.responses.stream(model="demo", input=items, tools=tools) as events:
                for _event in events:
                    pass
                found = events.get_final_response()
        else:
            found = client.responses.create(model="demo", input=items, tools=tools)
        items += found.output
        calls = [item for item in found.output if item.type == "function_call"]
        if not calls:
            break
        for call in calls:
            result = weather(json.loads(call.arguments))
            output = {"type": "function_call_output", "call_id": call.call_id, "output": result}
            items.append(output)
    assert found.output_text == EXPECTED
    check_history(engine)
    assert engine.requests[-1].messages[1]["reasoning_content"].strip() == "look"


@pytest.mark.parametrize("stream", [False, True])
def test_messages(engine, address, stream):
    client = anthropic.Anthropic(base_url=address, api_key="any")
    tools: Any = [{"name": "weather", "input_schema": PARAMETERS}]
    messages: list[Any] = [{"role": "user", "content": "Weather?"}]
    for _ in range(5):
        if stream:
            with client.messages.stream(
                model="demo", max_tokens=9, messages=messages, tools=tools
            ) as events:
                found = events.get_final_message()
        else:
            found = client.messages.create(
                model="demo", max_tokens=9, messages=messages, tools=tools
            )
        messages.append({"role": "assistant", "content": found.content})
        if found.stop_reason != "tool_use":
            break
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": weather(block.input)}
            for block in found.content
            if block.type == "tool_use"
        ]
        messages.append({"role": "user", "content": results[::-1]})
    assert found.content[-1].text == EXPECTED  # type: ignore[union-attr]
    check_history(engine)


def test_the_tool_runner_of_the_client(engine, address):
    """It runs the functions and sends their results by itself.

    At first it wants the server to keep the messages; refused, it sends all of them.
    """

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather in a city."""
        return f"sun in {city}"

    client = anthropic.Anthropic(base_url=address, api_key="any")
    runner = client.beta.messages.tool_runner(
        model="demo",
        max_tokens=9,
        tools=[weather],
        messages=[{"role": "user", "content": "Weather?"}],
        max_iterations=5,
    )
    found: Any = runner.until_done()
    assert found.content[-1].text == EXPECTED
    check_history(engine)


@pytest.mark.parametrize(
    ("kind", "openai_class", "anthropic_class"),
    [
        ("invalid", openai.BadRequestError, anthropic.BadRequestError),
        ("busy", openai.ConflictError, anthropic.ConflictError),
        ("internal", openai.InternalServerError, anthropic.InternalServerError),
    ],
)
def test_errors(kind, openai_class, anthropic_class):
    messages: Any = [{"role": "user", "content": "Hi"}]
    with scripted_server(FakeEngine(failing("no luck", kind))) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
        for stream in (False, True):
            with pytest.raises(openai_class, match="no luck"):
                client.chat.completions.create(model="demo", messages=messages, stream=stream)
        claude = anthropic.Anthropic(base_url=address, api_key="any", max_retries=0)
        with pytest.raises(anthropic_class, match="no luck"):
            claude.messages.create(model="demo", max_tokens=9, messages=messages)


def test_every_character_survives_a_stream():
    """Some end a line for one client or another: U+0085, U+2028, a carriage return."""
    text = "a\x85b\u2028c\u2029d\re\r\nf\n\ng\0😀"
    messages: Any = [{"role": "user", "content": text}]
    engine = FakeEngine(lambda request: reply(Answer(request.messages[0]["content"])))
    with scripted_server(engine) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
        chunks = client.chat.completions.create(model="demo", messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
        claude = anthropic.Anthropic(base_url=address, api_key="any", max_retries=0)
        with claude.messages.stream(model="demo", max_tokens=9, messages=messages) as stream:
            assert "".join(stream.text_stream) == text
        raw = httpx2.post(
            f"{address}/v1/chat/completions", json={"messages": messages, "stream": True}
        ).text
        assert raw.splitlines() == raw.split("\n")[:-1]


def test_an_error_in_a_stream_is_raised():
    messages: Any = [{"role": "user", "content": "Hi"}]
    events = [PrefillProgress(0, 9, 0), Answer("He"), 0.3, Failed("no luck")]
    with scripted_server(FakeEngine(lambda _: events)) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
        with pytest.raises(openai.APIError, match="no luck"):
            list(client.chat.completions.create(model="demo", messages=messages, stream=True))
        claude = anthropic.Anthropic(base_url=address, api_key="any", max_retries=0)
        with (
            pytest.raises(anthropic.APIStatusError, match="no luck"),
            claude.messages.stream(model="demo", max_tokens=9, messages=messages) as stream,
        ):
            list(stream)
