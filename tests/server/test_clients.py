"""The official clients against a real server process with the demo model."""

import asyncio
import os
import random
import time
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.server.mutations import damaged_json, with_short_reply
from tests.server.serving import ServerProcess

QUESTION = "What is the capital of France?"
ASK = [{"role": "user", "content": QUESTION}]
ANSWER = "The capital of France is Paris."
REQUESTS = int(os.environ.get("QWEN35_FUZZ", "300"))


def metric(server: ServerProcess, name: str) -> float:
    text = httpx2.get(f"{server.address}/metrics").text
    found = [line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(found[0])


def test_chat_whole_and_as_a_stream(client):
    # The demo model's template reads no effort.
    whole = client.chat.completions.create(
        model="demo", messages=ASK, temperature=0, reasoning_effort="low"
    )
    message = whole.choices[0].message
    assert message.content == ANSWER
    assert message.reasoning_content
    with client.chat.completions.stream(
        model="demo", messages=ASK, temperature=0, stream_options={"include_usage": True}
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    assert final.choices[0].message.content == ANSWER
    deltas = [event.chunk for event in events if event.type == "chunk"]
    pieces = [chunk.choices[0].delta for chunk in deltas if chunk.choices]
    thinking = "".join(getattr(piece, "reasoning_content", None) or "" for piece in pieces)
    assert thinking.strip() == message.reasoning_content
    assert len(pieces) > 10
    assert 5 < final.usage.completion_tokens_details.reasoning_tokens < len(pieces) + 10
    assert final.usage.completion_tokens == whole.usage.completion_tokens
    # The prompt was read for the first reply.
    assert final.usage.prompt_tokens_details.cached_tokens > 10


def test_a_history_of_tools_is_read(client):
    """Whatever the demo model makes of it: the prompt has the calls and their results."""
    function = {"name": "add", "arguments": '{"a": 17, "b": 25}'}
    call = {"id": "c1", "type": "function", "function": function}
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    lengths = [
        client.chat.completions.create(
            model="demo", messages=some, tools=tools, max_tokens=1
        ).usage.prompt_tokens
        for some in (messages[:1], messages)
    ]
    assert lengths[1] > lengths[0] + 20


def test_completions(client):
    found = client.completions.create(model="demo", prompt="17 + 25", max_tokens=3, temperature=0)
    assert found.usage.completion_tokens <= 3
    chunks = client.completions.create(
        model="demo", prompt="17 + 25", max_tokens=3, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == found.choices[0].text


def test_responses_whole_and_as_a_stream(client):
    whole = client.responses.create(
        model="demo", input=QUESTION, temperature=0, reasoning={"effort": "none"}
    )
    assert whole.output_text == ANSWER
    assert [item.type for item in whole.output] == ["message"]
    with client.responses.stream(model="demo", input=QUESTION, temperature=0) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert final.output_text.strip() == ANSWER
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert {"response.reasoning_text.delta", "response.output_text.delta"} <= kinds
    # The output of one response is input of the next one.
    history = [{"role": "user", "content": "What is 17 + 25?"}, *final.output]
    more = client.responses.create(
        model="demo", input=[*history, {"role": "user", "content": "Thanks"}], max_output_tokens=2
    )
    assert more.status == "incomplete"
    assert more.usage.input_tokens > final.usage.input_tokens


def test_messages_whole_and_as_a_stream(claude):
    greedy: Any = {"temperature": 0}  # which the newest client does not name
    whole = claude.messages.create(model="demo", max_tokens=100, messages=ASK, extra_body=greedy)
    assert whole.content[0].text == ANSWER
    assert whole.stop_reason == "end_turn"
    thinking: Any = {"type": "adaptive"}
    with claude.messages.stream(
        model="demo", max_tokens=200, thinking=thinking, messages=ASK, extra_body=greedy
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text.strip() == ANSWER
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].signature
    assert claude.messages.count_tokens(model="demo", messages=ASK).input_tokens == (
        whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    )
    # Thinking goes back as it came.
    more: Any = [*ASK, {"role": "assistant", "content": final.content}, *ASK]
    short = claude.messages.create(model="demo", max_tokens=2, messages=more)
    assert short.stop_reason == "max_tokens"


def test_a_stop_string_ends_the_answer_and_no_thinking(client, claude):
    whole = client.chat.completions.create(model="demo", messages=ASK, temperature=0)
    thought = whole.choices[0].message.reasoning_content
    assert " is" in thought
    cut = client.chat.completions.create(model="demo", messages=ASK, temperature=0, stop=" is")
    assert cut.choices[0].message.reasoning_content == thought
    assert cut.choices[0].message.content == "The capital of France"
    assert cut.choices[0].finish_reason == "stop"
    thinking: Any = {"type": "adaptive"}
    ended = claude.messages.create(
        model="demo",
        max_tokens=200,
        thinking=thinking,
        messages=ASK,
        stop_sequences=[" is"],
        extra_body={"temperature": 0},
    )
    assert [getattr(block, "text", None) for block in ended.content] == [
        None,
        "The capital of France",
    ]
    assert (ended.stop_reason, ended.stop_sequence) == ("stop_sequence", " is")


def test_models(client, claude):
    assert [model.id for model in client.models.list()] == ["demo"]
    assert claude.models.retrieve("demo").display_name == "demo"
    assert client.models.retrieve("gpt-4o").id == "demo"


def test_errors_have_the_classes_of_the_clients(client, claude):
    with pytest.raises(openai.BadRequestError, match="n is 2"):
        client.chat.completions.create(model="demo", messages=ASK, n=2)
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.chat.completions.create(model="other", messages=ASK)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.responses.create(model="demo", input="Hi", temperature=1000)
    long: Any = [{"role": "user", "content": "word " * 40_000}]
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="demo", messages=long)
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        claude.messages.create(model="demo", max_tokens=9, messages=long)
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="other", max_tokens=9, messages=ASK)


def test_a_closed_stream_cancels_the_reply(server, client):
    before = metric(server, "qwen35_replies_cancelled_total")
    stream = client.chat.completions.create(
        model="demo", messages=ASK, stream=True, temperature=90, max_tokens=4000
    )
    next(iter(stream))
    stream.close()
    end = time.monotonic() + 5
    while metric(server, "qwen35_replies_cancelled_total") == before:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert metric(server, "qwen35_active_replies") == 0


def test_thirty_requests_at_once(server):
    """Each gets its own reply, as it would alone."""

    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        messages: Any = [{"role": "user", "content": f"What is {number} + 25?"}]
        stream = await client.chat.completions.create(
            model="demo",
            messages=messages,
            temperature=0,
            max_tokens=3,
            stream=True,
            extra_body={"enable_thinking": False},
        )
        pieces = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
        return "".join(piece or "" for piece in pieces)

    async def ask_all() -> tuple[list[str], list[str]]:
        url = f"{server.address}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
            together = await asyncio.gather(*(ask(client, number) for number in numbers))
            return together, [await ask(client, number) for number in numbers[::10]]

    numbers = range(30, 60)
    together, alone = asyncio.run(ask_all())
    assert together[::10] == alone
    assert len(set(together)) > 5


def test_damaged_json_is_the_clients_fault(server):
    """What the server lets through, the engine refuses or answers; QWEN35_FUZZ=5000 sends 250."""
    rng = random.Random(19)
    with httpx2.Client(base_url=server.address, timeout=60) as client:
        for _ in range(max(REQUESTS // 20, 1)):
            path, body = damaged_json(rng)
            found = client.post(path, content=with_short_reply(body))
            assert found.status_code < 500, (path, body, found.text)
            assert '"server_error"' not in found.text, (path, body, found.text)
            assert '"api_error"' not in found.text, (path, body, found.text)
