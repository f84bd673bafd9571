"""Memory over HTTP: histories that clients send, and sessions that outlive the server."""

import signal
from pathlib import Path
from typing import Any

import openai

from qwen35_mlx.library.library import Library
from tests.server.serving import ServerProcess, start_server

QUESTIONS = ("My name is Ada.", "What is 17 + 25?", "What is my name?")


def connect(server: ServerProcess) -> Any:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="any", max_retries=0)


def ask(client: Any, messages: list[dict[str, Any]], **more: Any) -> Any:
    return client.chat.completions.create(
        model="demo",
        messages=messages,
        temperature=0,
        max_tokens=30,
        extra_body={"enable_thinking": False, **more},
    )


def new_tokens(usage: Any) -> int:
    return usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens


def test_a_history_costs_its_new_tokens_only_after_a_restart_too(tmp_path):
    """The client sends everything each time, but no thinking."""
    messages: list[dict[str, Any]] = []
    read: list[int] = []
    for part in (QUESTIONS[:2], QUESTIONS[2:]):
        server = start_server(tmp_path)
        client = connect(server)
        for question in part:
            messages.append({"role": "user", "content": question})
            found = ask(client, messages)
            read.append(new_tokens(found.usage))
            messages.append({"role": "assistant", "content": found.choices[0].message.content})
        assert server.stop() == 0
    assert messages[-1]["content"].endswith("your name is Ada.")
    assert max(read) < 40
    assert found.usage.prompt_tokens > 50


def test_a_session_survives_a_kill(tmp_path: Path):
    """What was acknowledged is in the library, and goes on with another server."""
    server = start_server(tmp_path)
    client = connect(server)
    ask(client, [{"role": "user", "content": QUESTIONS[0]}], session="Trip")
    stream = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": QUESTIONS[1]}],
        stream=True,
        extra_body={"session": "Trip"},
    )
    next(iter(stream))
    server.stop(signal.SIGKILL)
    server = start_server(tmp_path)
    found = ask(connect(server), [{"role": "user", "content": QUESTIONS[2]}], session="Trip")
    assert found.choices[0].message.content.endswith("your name is Ada.")
    assert server.stop() == 0
    with Library(tmp_path) as library:
        conversation = library.conversation(library.resolve("Trip"))
        asked = [one.content for one in conversation.path() if one.role == "user"]
    assert asked == list(QUESTIONS[:3])
