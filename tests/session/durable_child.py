"""A process of its own that takes turns, for tests that end it or run it beside another.

python -m tests.session.durable_child MODEL FOLDER COMMAND [ARGUMENT ...]
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session import kept
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.conversation import Message
from qwen35_mlx.session.events import Done, Notice, TurnEvent, TurnStarted
from qwen35_mlx.session.library import Library
from qwen35_mlx.session.model import Model, load

OPTIONS: dict[str, Any] = {"thinking": True, "temperature": 0.0, "presence_penalty": 0.5}


def done_of(events: Iterable[TurnEvent]) -> Done:
    *_, last = events
    assert isinstance(last, Done)
    return last


def logits_after(model: Model, chat: Chat, question: str) -> np.ndarray:
    """Logits of the first token of the reply to `question`, computed in the pieces of a turn."""
    messages = [*chat.conversation.for_template(), {"role": "user", "content": question}]
    prompt = model.render(messages, thinking=chat.settings.thinking)
    cache = model.make_cache()
    chat._kept.resume(prompt, cache)
    assert cache.offset > 0
    for stop in (chat._anchor(messages, prompt), len(prompt) - 1):
        if stop > cache.offset:
            model.network(mx.array([prompt[cache.offset : stop]]), cache)
    hidden = model.network(mx.array([prompt[cache.offset :]]), cache)
    return np.array(model.network.logits(hidden[:, -1]).astype(mx.float32))


def resume(model: Model, library: Library, number: str, question: str, file: str) -> None:
    """Save the logits that the next turn begins with, after some more that it has forgotten."""
    chat = Chat(model, library=library, conversation=int(number))
    np.save(file, logits_after(model, chat, question))
    said = [done_of(chat.send(question, max_tokens=10)).message["content"]]
    print(json.dumps(said))


def endless(model: Model, library: Library) -> None:
    """Turns with long prompts and replies, until the process is killed."""
    kept.CHECKPOINT = 64
    chat = Chat(model, library=library, **OPTIONS)
    turn = 0
    while True:
        turn += 1
        for event in chat.send(f"Question {turn} " + "word " * 60, max_tokens=20):
            if isinstance(event, TurnStarted):
                print(json.dumps({"started": event.user, "reply": event.reply}), flush=True)
            if isinstance(event, Done):
                print(json.dumps({"done": event.message["content"]}), flush=True)
        if chat.context_used > 600:
            chat.close()
            chat = Chat(model, library=library, **OPTIONS)


def mixed(model: Model, library: Library, name: str, turns: str) -> None:
    """Turns in conversations of its own, all of which begin alike, with little room for states."""
    states = model.open_states(library.folder)
    states.budget = 3_000_000
    expected: list[list[str]] = []
    for turn in range(int(turns)):
        if turn % 3 == 0:
            chat = Chat(model, library=library, system="Be brief. " * 30, **OPTIONS)
            expected.append([str(chat)])
        question = f"{name} asks {turn}"
        for event in chat.send(question, max_tokens=8):
            if isinstance(event, Notice) and "dropped" not in event.message:
                raise Qwen35Error(event.message)
        if turn % 3 == 1:
            done_of(chat.retry(max_tokens=8, seed=turn))
        expected[-1] = [str(chat.conversation.id), *(_line(m) for m in chat.messages)]
        if turn % 3 == 2:
            chat.close()
    states.flush()
    print(json.dumps(expected))


def _line(message: Message) -> str:
    return f"{message.role}: {message.content}"


if __name__ == "__main__":
    folder, home, command, *arguments = sys.argv[1:]
    with Library(Path(home)) as opened:
        globals()[command](load(folder), opened, *arguments)
