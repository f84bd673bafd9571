"""A process that uses a library until it is told to stop, or killed.

Called with a folder, a seed, what to do, and for how many seconds. What has surely happened is
written to standard output, one JSON line each, unbuffered: the test holds the library to it.
"""

import json
import os
import random
import sys
import time
from collections.abc import Generator
from contextlib import nullcontext

from qwen35_mlx.library import database
from qwen35_mlx.library.conversation import Message, MessageState, Usage
from qwen35_mlx.library.library import Library
from tests.library.messages import add_message, begin_reply, finish_reply, update_reply

FIGURES = Usage(12, 3, 45, 0.25, 1.5, 10**9)
WORDS = ["the", "quick", "brown", "fox", "Grüße", "你好", "世界", "😀", "naïve", "café", "\n"]


def say(event: str, **values: object) -> None:
    os.write(1, json.dumps({"event": event, **values}).encode() + b"\n")


def text(random: random.Random, words: int) -> str:
    return " ".join(random.choices(WORDS, k=words))


def one_turn(library: Library, random: random.Random, conversation: int | None) -> int:
    """A question and a reply that is streamed, each told once it is there."""
    parent = None
    # Half of the time the first two messages are one transaction, as an engine may do it.
    with library.transaction() if random.random() < 0.5 else nullcontext():
        if conversation is None:
            with library.transaction():
                conversation = library.create(model="demo")
                library.claim(conversation)  # before others can see it
        else:
            tree = library.conversation(conversation)
            parent = random.choice([None, *(message.id for message in tree.messages)])
        question = add_message(library, conversation, parent, "user", text(random, 30))
        reply = begin_reply(library, conversation, question.id, "demo")
    say("message", conversation=conversation, id=question.id, content=question.content)
    say("begun", conversation=conversation, id=reply.id)
    content = ""
    for _ in range(random.randrange(12)):
        content += text(random, 40)
        update_reply(library, reply.id, content, "Hm.", thinking_seconds=0.5)
        say("update", conversation=conversation, id=reply.id, content=content)
    states: list[MessageState] = ["complete", "complete", "cancelled", "failed"]
    state = random.choice(states)
    finish_reply(library, reply.id, content, "Hm.", state=state, usage=FIGURES)
    say("message", conversation=conversation, id=reply.id, content=content)
    return conversation


def other_things(library: Library, random: random.Random, conversation: int) -> None:
    match random.randrange(8):
        case 0:
            library.delete(conversation)
            say("deleted", conversation=conversation)
        case 1:
            library.rename(conversation, title := text(random, 5).strip() or "x")
            say("renamed", conversation=conversation, title=" ".join(title.split()))
        case 2:
            library.save_draft(conversation, draft := text(random, 20))
            say("draft", conversation=conversation, text=draft)
        case 3:
            library.save_draft(None, draft := text(random, 20))
            say("new draft", text=draft)
        case 4:
            library.search("quick 你好")
        case _:
            pass


def turns(folder: str, random: random.Random, until: float) -> None:
    """Alone on the library, until killed."""
    with Library(folder) as library:
        say("ready")
        mine: list[int] = []
        while time.monotonic() < until:
            known = random.choice([None, *mine])
            if known is None or library.claim(known):
                conversation = one_turn(library, random, known)
                mine = [*mine, conversation][-5:]
                other_things(library, random, conversation)
                if library.deleted():
                    if random.random() < 0.5:
                        library.undelete(conversation)
                        say("restored", conversation=conversation)
                    else:
                        mine = [i for i in mine if i != conversation]


def shared(folder: str, random: random.Random, until: float) -> None:
    """Beside others, which use the same conversations; windows open and close all the time."""
    say("ready")
    while time.monotonic() < until:
        with Library(folder) as library:
            for _ in range(random.randrange(1, 6)):
                known = [summary.id for summary in library.list(4)]
                conversation = random.choice([None, *known])
                if conversation is not None and not library.claim(conversation):
                    say("refused", conversation=conversation)
                    continue
                before = [] if conversation is None else ids(library, conversation)
                conversation = one_turn(library, random, conversation)
                # Claimed: nobody else has added anything meanwhile.
                assert len(ids(library, conversation)) == len(before) + 2
                library.release(conversation)
                library.save_draft(None, text(random, 3))
                library.search("fox")


def ids(library: Library, conversation: int) -> list[int]:
    messages: tuple[Message, ...] = library.conversation(conversation).messages
    return [message.id for message in messages]


def migrate(folder: str, _: random.Random, __: float) -> None:
    """Bring an older library to this version."""
    say("ready")
    with Library(folder):
        say("open")


def stall(folder: str, random: random.Random, _: float) -> None:
    """The same, but stop for good after the n-th statement of the last migration."""
    *earlier, last = database.MIGRATIONS

    def stalling() -> Generator[str]:
        for number, statement in enumerate((*last, "SELECT 1")):
            if number == int(sys.argv[2]):
                say("ready")
                time.sleep(600)
            yield statement

    database.MIGRATIONS = (*earlier, stalling())  # pyright: ignore[reportAttributeAccessIssue]
    Library(folder)


if __name__ == "__main__":
    _, folder, seed, what, seconds = sys.argv
    work = {"turns": turns, "shared": shared, "migrate": migrate, "stall": stall}[what]
    work(folder, random.Random(int(seed)), time.monotonic() + float(seconds))
