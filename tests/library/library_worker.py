"""A process that uses a library until its time is over or it is killed.

    library_worker.py FOLDER SEED (turns | shared | migrate | stall) SECONDS

It prints each change as a line of JSON, unbuffered, as soon as the call has returned. The test
expects the library to hold all of these changes.
"""

import json
import os
import random
import sys
import time
from collections.abc import Generator
from contextlib import nullcontext

from qwen35_mlx.library import schema
from qwen35_mlx.library.conversation import Message, MessageState, Usage
from qwen35_mlx.library.library import Library
from tests.library.messages import add_message, begin_reply, finish_reply, update_reply

USAGE = Usage(12, 3, 45, 0.25, 1.5, 10**9)
WORDS = ["the", "quick", "brown", "fox", "Grüße", "你好", "世界", "😀", "naïve", "café", "\n"]


def report(event: str, **values: object) -> None:
    os.write(1, json.dumps({"event": event, **values}).encode() + b"\n")


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def run_turn(library: Library, rng: random.Random, conversation: int | None) -> int:
    """Add a question and stream a reply to it, and report both; the conversation's id."""
    parent = None
    # In half of the turns both messages are added in one transaction, as in a real turn.
    with library.transaction() if rng.random() < 0.5 else nullcontext():
        if conversation is None:
            with library.transaction():
                conversation = library.create(model="demo")
                library.claim(conversation)  # before other windows can see it
        else:
            tree = library.conversation(conversation)
            parent = rng.choice([None, *(message.id for message in tree.messages)])
        question = add_message(library, conversation, parent, "user", text(rng, 30))
        reply = begin_reply(library, conversation, question.id, "demo")
    report("message", conversation=conversation, id=question.id, content=question.content)
    report("begun", conversation=conversation, id=reply.id)
    content = ""
    for _ in range(rng.randrange(12)):
        content += text(rng, 40)
        update_reply(library, reply.id, content, "Hm.", thinking_seconds=0.5)
        report("update", conversation=conversation, id=reply.id, content=content)
    states: list[MessageState] = ["complete", "complete", "cancelled", "failed"]
    state = rng.choice(states)
    finish_reply(library, reply.id, content, "Hm.", state=state, usage=USAGE)
    report("message", conversation=conversation, id=reply.id, content=content)
    return conversation


def random_change(library: Library, rng: random.Random, conversation: int) -> None:
    """Delete, rename, draft or search, or do nothing."""
    match rng.randrange(8):
        case 0:
            library.delete(conversation)
            report("deleted", conversation=conversation)
        case 1:
            library.rename(conversation, title := text(rng, 5).strip() or "x")
            report("renamed", conversation=conversation, title=" ".join(title.split()))
        case 2:
            library.save_draft(conversation, draft := text(rng, 20))
            report("draft", conversation=conversation, text=draft)
        case 3:
            library.save_draft(None, draft := text(rng, 20))
            report("new draft", text=draft)
        case 4:
            library.search("quick 你好")
        case _:
            pass


def write_turns(folder: str, rng: random.Random, until: float) -> None:
    """Run turns and random changes as the only process."""
    with Library(folder) as library:
        report("ready")
        own_conversations: list[int] = []
        while time.monotonic() < until:
            chosen = rng.choice([None, *own_conversations])
            if chosen is None or library.claim(chosen):
                conversation = run_turn(library, rng, chosen)
                own_conversations = [*own_conversations, conversation][-5:]
                random_change(library, rng, conversation)
                if library.deleted():
                    if rng.random() < 0.5:
                        library.undelete(conversation)
                        report("restored", conversation=conversation)
                    else:
                        own_conversations = [i for i in own_conversations if i != conversation]


def share_library(folder: str, rng: random.Random, until: float) -> None:
    """Run turns in conversations that other processes use too, reopening the library often."""
    report("ready")
    while time.monotonic() < until:
        with Library(folder) as library:
            for _ in range(rng.randrange(1, 6)):
                newest = [summary.id for summary in library.list(4)]
                conversation = rng.choice([None, *newest])
                if conversation is not None and not library.claim(conversation):
                    report("refused", conversation=conversation)
                    continue
                before = [] if conversation is None else ids(library, conversation)
                conversation = run_turn(library, rng, conversation)
                # The claim kept other processes from adding messages.
                assert len(ids(library, conversation)) == len(before) + 2
                library.release(conversation)
                library.save_draft(None, text(rng, 3))
                library.search("fox")


def ids(library: Library, conversation: int) -> list[int]:
    messages: tuple[Message, ...] = library.conversation(conversation).messages
    return [message.id for message in messages]


def open_library(folder: str, _: random.Random, __: float) -> None:
    """Open the library, which migrates an old one."""
    report("ready")
    with Library(folder):
        report("open")


def stall_migration(folder: str, rng: random.Random, _: float) -> None:
    """Open the library, but hang before statement number SEED of the last migration."""
    *earlier, last = schema.MIGRATIONS

    def stalling() -> Generator[str]:
        for number, statement in enumerate((*last, "SELECT 1")):
            if number == int(sys.argv[2]):
                report("ready")
                time.sleep(600)
            yield statement

    schema.MIGRATIONS = (*earlier, stalling())  # pyright: ignore[reportAttributeAccessIssue]
    Library(folder)


if __name__ == "__main__":
    _, folder, seed, task, seconds = sys.argv
    work = {
        "turns": write_turns,
        "shared": share_library,
        "migrate": open_library,
        "stall": stall_migration,
    }[task]
    work(folder, random.Random(int(seed)), time.monotonic() + float(seconds))
