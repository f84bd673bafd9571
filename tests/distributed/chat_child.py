"""One of several processes that run the demo model together, and what the first one does.

python -m tests.distributed.chat_child COMMAND FOLDER [ARGUMENT ...]

The first process writes what it found to FOLDER/COMMAND.json.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import qwen35_mlx
from qwen35_mlx.distributed.place import Place
from qwen35_mlx.distributed.processes import Processes, follow
from qwen35_mlx.library.home import RANK_STATES
from qwen35_mlx.library.library import Library
from qwen35_mlx.prompt_cache.snapshots import SnapshotCache
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Notice
from qwen35_mlx.session.model import Model
from tests.session.durable_child import done_of, logits_after

QUESTION = [{"role": "user", "content": "What is 17 + 25?"}]
OPTIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.8, "seed": 3},
    {"temperature": 0.8, "seed": 4, "response_format": {"type": "json_object"}},
)
KEPT: dict[str, Any] = {"thinking": True, "temperature": 0.0}


def replies(model: Model) -> list[list[Any]]:
    """Replies of a model, with and without a grammar, and how many drafts it accepted."""
    found = [model.generate(QUESTION, max_tokens=12, **options) for options in OPTIONS]
    return [[reply.thinking, reply.text, reply.drafts and reply.drafts.accepted] for reply in found]


def together(model: Model) -> list[list[int]]:
    """Tokens of two conversations that share passes; one is taken back and read again."""
    network, caches = model.network, [model.make_cache(), model.make_cache()]
    for cache, text in zip(caches, ("What is 17 + 25?", "Hello"), strict=True):
        network(network.token_array(model.tokenizer.encode(text)), cache)
    stacks, tokens = network.make_stacks(), [[1], [2]]
    for _ in range(4):
        newest = mx.array([row[-1:] for row in tokens])
        logits = network.logits(network.together(newest, caches, stacks))
        for row, token in zip(tokens, np.array(mx.argmax(logits[:, 0], axis=-1)), strict=True):
            row.append(int(token))
    network.take_back(caches[0], 1)
    caches[0].leave_stack()
    again = network.logits(network(mx.array([tokens[0][-2:-1]]), caches[0]))
    tokens[0].append(int(np.array(mx.argmax(again[0, -1]))))
    return tokens


def reply(processes: Processes | None, folder: Path) -> Any:
    """Replies with and without drafts, and of two conversations at a time."""
    models = [qwen35_mlx.load("demo", mtp=mtp, processes=processes) for mtp in ("off", 3)]
    return [*(replies(model) for model in models), together(models[-1])]


def start(processes: Processes | None, folder: Path) -> Any:
    """A conversation, and the logits that its next turn begins with."""
    with Library(folder) as library, qwen35_mlx.load("demo", processes=processes) as model:
        chat = Chat(model, library=library, **KEPT)
        done_of(chat.send("What is 17 + 25?", max_tokens=10))
        np.save(folder / "start.npy", logits_after(model, chat, "And 3 + 4?"))
        return chat.conversation.id


def resume(processes: Processes | None, folder: Path, number: str) -> Any:
    """The same of a stored conversation, and how many tokens of the next turn are not read.

    Then how many it would be after the states of another process were damaged, and lost; and how
    many files the other has once those of the first are deleted.
    """
    with Library(folder) as library, qwen35_mlx.load("demo", processes=processes) as model:
        states = model.open_states(folder)
        chat = Chat(model, library=library, conversation=int(number))
        np.save(folder / "resume.npy", logits_after(model, chat, "And 3 + 4?"))
        found = [done_of(chat.send("And 3 + 4?", max_tokens=5)).usage.cached_tokens]
        ids = model.render(chat.conversation.for_template(), thinking=True)
        # Each process waits for what it has to write.
        SnapshotCache(states).restore(ids, model.make_cache())
        found.append(states.longest_prefix(ids))
        newest, *others = sorted((folder / RANK_STATES).glob("*/*.state.*"), reverse=True)
        content = bytearray(newest.read_bytes())
        content[-1] ^= 1
        newest.write_bytes(content)
        for _ in range(2):
            SnapshotCache(states).restore(ids, cache := model.make_cache())
            found.append(cache.offset)
        for file in others:
            file.unlink()
        found.append(states.longest_prefix(ids))
        model.close()
        for file in states.folder.glob("*/*.safetensors"):
            file.unlink()
        model.open_states(folder)
        model.close()
        return [*found, len([*(folder / RANK_STATES).glob("*/*.safetensors")])]


def rebuild(processes: Processes | None, folder: Path, number: str) -> Any:
    """A stored conversation with another number of processes.

    Returns:
        for two turns, the lines for the user and how many tokens were not read.
    """
    found: list[Any] = []
    with Library(folder) as library, qwen35_mlx.load("demo", processes=processes) as model:
        assert model.memory == (processes and processes.limit)
        chat = Chat(model, library=library, conversation=int(number))
        for question in ("And 3 + 4?", "And 5 + 6?"):
            events = list(chat.send(question, max_tokens=5))
            lines = [event.message for event in events if isinstance(event, Notice)]
            done = done_of(events)
            found.append([lines, done.usage.cached_tokens, done.message["content"]])
    return found


def pipeline(processes: Processes | None, folder: Path) -> Any:
    """A reply with drafts, and one that goes on from stored states."""
    with Library(folder) as library, qwen35_mlx.load("demo", mtp=2, processes=processes) as model:
        chat = Chat(model, library=library, **KEPT)
        found = [done_of(chat.send("What is 17 + 25?", max_tokens=8)).message["content"]]
        again = Chat(model, library=library, conversation=chat.conversation.id)
        return [*found, done_of(again.send("And 3 + 4?", max_tokens=8)).usage.cached_tokens]


def main(command: str, folder: Path, *arguments: str) -> None:
    place = Place.of_environment()
    assert place is not None
    if place.rank:
        follow(place)
        return
    processes = Processes.join(replace(place, pipeline=command == "pipeline"), print)
    print(processes.speed)
    found = globals()[command](processes, folder, *arguments)
    (folder / f"{command}.json").write_text(json.dumps(found))
    processes.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
