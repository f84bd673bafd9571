"""A child process that runs turns, for tests that go on where another process ended.

python -m tests.session.durable_child MODEL FOLDER COMMAND [ARGUMENT ...]
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.chat_prompts import prompt_anchors
from qwen35_mlx.session.events import Done, TurnEvent
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.reply_options import ReplyOptions

OPTIONS: dict[str, Any] = {"thinking": True, "temperature": 0.0, "presence_penalty": 0.5}


def done_of(events: Iterable[TurnEvent]) -> Done:
    """Run a turn to its end; its last event."""
    *_, last = events
    assert isinstance(last, Done)
    return last


def messages_with(chat: Chat, question: str) -> list[dict[str, Any]]:
    """The conversation so far, followed by `question`."""
    return [*chat.conversation.for_template(), {"role": "user", "content": question}]


def fresh_logits(model: Model, chat: Chat, question: str) -> np.ndarray:
    """Logits of the reply's first token, computed from the whole prompt at once: [vocab]."""
    prompt = model.render(messages_with(chat, question), thinking=chat.settings.thinking)
    return model.logits(prompt)[-1]


def logits_after(model: Model, chat: Chat, question: str) -> np.ndarray:
    """The same logits, computed as a turn does it, from the prompt cache: [1, vocab]."""
    messages = messages_with(chat, question)
    prompt = model.render(messages, thinking=chat.settings.thinking)
    cache = model.make_cache()
    chat._snapshots.restore(prompt, cache)
    assert cache.offset > 0
    anchors = prompt_anchors(model, ReplyOptions(thinking=chat.settings.thinking))
    for stop in (anchors.anchor(messages, prompt), len(prompt) - 1):
        if stop > cache.offset:
            model.network(mx.array([prompt[cache.offset : stop]]), cache)
    hidden = model.network(mx.array([prompt[cache.offset :]]), cache)
    return np.array(model.network.logits(hidden[:, -1]).astype(mx.float32))


def resume(model: Model, library: Library, number: str, question: str, file: str) -> None:
    """Save the logits that the next turn begins with, and print its reply."""
    chat = Chat(model, library=library, conversation=int(number))
    np.save(file, logits_after(model, chat, question))
    replies = [done_of(chat.send(question, max_tokens=10)).message["content"]]
    print(json.dumps(replies))


if __name__ == "__main__":
    folder, home, command, *arguments = sys.argv[1:]
    with Library(Path(home)) as opened:
        globals()[command](load(folder), opened, *arguments)
