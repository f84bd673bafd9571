"""A process that asks an engine for turns on a library, until it is told to stop, or killed.

python -m tests.session.engine_child MODEL FOLDER COMMAND [ARGUMENT ...]

What has surely happened is written to standard output, one JSON line each: the test holds the
library to it.
"""

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings, Message
from qwen35_mlx.library.library import Library
from qwen35_mlx.session import recorder
from qwen35_mlx.session.engine import EngineThread
from qwen35_mlx.session.events import (
    Answer,
    Done,
    Event,
    Failed,
    Loaded,
    Notice,
    Opened,
    PrefillProgress,
    Thinking,
    TurnStarted,
)
from qwen35_mlx.session.requests import Edit, Open, Request, Retry, Send

SAMPLING = {"temperature": 0.0, "presence_penalty": 0.5}
ENDS = Done | Failed | Opened | Loaded
# What may be said where another window has a conversation, and where it drops old states.
REFUSALS = ("another window", "this model's context")
EVICTIONS = ("dropped", "is gone")


def say(event: str, **values: object) -> None:
    os.write(1, json.dumps({"event": event, "at": time.monotonic(), **values}).encode() + b"\n")


def settings(tokens: int, system: str | None = None) -> ChatSettings:
    return ChatSettings(system=system, max_tokens=tokens, sampling=SAMPLING)


@dataclass(slots=True)
class Outcome:
    """How a request went: its last event, the notices before, and where its turn is."""

    end: Event | None = None
    notices: list[Notice] = field(default_factory=list)
    started: TurnStarted | None = None


def asked(engine: EngineThread, request: Request) -> Outcome:
    engine.ask(request)
    return ended(engine)


def ended(engine: EngineThread) -> Outcome:
    """Tell the events of a turn as they come, until it is over."""
    outcome = Outcome()
    said = {"thinking": "", "content": ""}
    while outcome.end is None:
        for event in engine.poll():
            match event:
                case TurnStarted(conversation, user, reply):
                    outcome.started = event
                    say("started", conversation=conversation, user=user, id=reply)
                case PrefillProgress():
                    say("prefill")
                case Thinking(text):
                    said["thinking"] += text
                    say("partial", **said)
                case Answer(text):
                    said["content"] += text
                    say("partial", **said)
                case Notice():
                    outcome.notices.append(event)
                case Done(message=message):
                    thinking = message.get("reasoning_content", "")
                    say("done", thinking=thinking, content=message["content"])
            if isinstance(event, ENDS):
                outcome.end = event
        time.sleep(0.001)
    return outcome


def endless(model: str, library: Library, seconds_to_save: str) -> None:
    """Turns with long prompts and replies."""
    recorder.SAVE_SECONDS = float(seconds_to_save)
    recorder.CHECKPOINT_TOKENS = 64
    engine = EngineThread(model, settings=settings(60), library=library)
    engine.start()
    ended(engine)
    request: Request = Send("Question 0 " + "word " * 60)
    for turn in count(1):
        outcome = asked(engine, request)
        assert isinstance(outcome.end, Done), outcome.end
        assert outcome.started
        assert not outcome.notices, outcome.notices
        request = Send(f"Question {turn} " + "word " * 60)
        if turn % 3 == 1:
            request = Retry(outcome.started.reply)
        if turn % 3 == 0:
            asked(engine, Open(None))


def mixed(model: str, library: Library, name: str, seconds: str) -> None:
    """Turns of all kinds, beside another process that does the same, with little room for states.

    Conversations of the other may be opened, and are read only while it has them.
    """
    chance = random.Random(name)
    engine = EngineThread(
        model, settings=settings(8, "Be brief. " * 30), library=library, budget=3_000_000
    )
    engine.start()
    ended(engine)
    counts: Counter[str] = Counter()
    path: Sequence[Message] = ()
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        kind = chance.choice(["new", "old", "send", "send", "retry", "edit"])
        request: Request = Send(f"{name} asks {chance.randrange(10**6)}")
        users = [m.id for m in path if m.role == "user"]
        if kind == "new":
            request = Open(None)
        elif kind == "old" and (known := [row.id for row in library.list(6)]):
            request = Open(chance.choice(known))
        elif kind == "retry" and path:
            request = Retry(path[-1].id)
        elif kind == "edit" and users:
            request = Edit(chance.choice(users), f"{name} asks anew {chance.randrange(10**6)}")
        outcome = asked(engine, request)
        said = type(outcome.end).__name__
        match outcome.end:
            case Failed(message):
                said = next((why for why in REFUSALS if why in message), "")
                if not said:
                    raise Qwen35Error(message)
            case Opened(None):
                path = ()
            case Opened(conversation, read_only=read_only) if conversation is not None:
                path = library.conversation(conversation).path()
                said = "read only" if read_only else said
            case Done():
                assert outcome.started
                path = library.conversation(outcome.started.conversation).path()
        counts[f"{type(request).__name__}: {said}"] += 1
        for notice in outcome.notices:
            why = next((word for word in EVICTIONS if word in notice.message), "")
            if not why:
                raise Qwen35Error(notice.message)
            counts[f"notice: {why}"] += 1
    engine.close()
    say("counts", **counts)


if __name__ == "__main__":
    model, home, command, *arguments = sys.argv[1:]
    work: dict[str, Any] = {"endless": endless, "mixed": mixed}
    with Library(Path(home)) as opened:
        work[command](model, opened, *arguments)
