"""A child process that runs turns with an engine on a library, for a given time or until killed.

python -m tests.session.engine_child MODEL FOLDER COMMAND [ARGUMENT ...]

Every event is written to standard output as one JSON line; the test compares the library with them.
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
from qwen35_mlx.session import cached_turn, recorder
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
# Expected errors while another process has a conversation open, and notices while it evicts states.
REFUSALS = ("another window", "this model's context")
EVICTIONS = ("dropped", "is gone")


def report(event: str, **values: object) -> None:
    os.write(1, json.dumps({"event": event, "at": time.monotonic(), **values}).encode() + b"\n")


def settings(tokens: int, system: str | None = None) -> ChatSettings:
    return ChatSettings(system=system, max_tokens=tokens, sampling=SAMPLING)


@dataclass(slots=True)
class Outcome:
    """How a request ended: its last event, the notices before it, and the ids of its turn."""

    end: Event | None = None
    notices: list[Notice] = field(default_factory=list)
    started: TurnStarted | None = None


def submit_and_wait(engine: EngineThread, request: Request) -> Outcome:
    engine.submit(request)
    return wait_for_end(engine)


def wait_for_end(engine: EngineThread) -> Outcome:
    """Report events as they come, until a request has ended."""
    outcome = Outcome()
    partial = {"thinking": "", "content": ""}
    while outcome.end is None:
        for event in engine.poll():
            match event:
                case TurnStarted(conversation, user, reply):
                    outcome.started = event
                    report("started", conversation=conversation, user=user, id=reply)
                case PrefillProgress():
                    report("prefill")
                case Thinking(text):
                    partial["thinking"] += text
                    report("partial", **partial)
                case Answer(text):
                    partial["content"] += text
                    report("partial", **partial)
                case Notice():
                    outcome.notices.append(event)
                case Done(message=message):
                    thinking = message.get("reasoning_content", "")
                    report("done", thinking=thinking, content=message["content"])
            if isinstance(event, ENDS):
                outcome.end = event
        time.sleep(0.001)
    return outcome


def endless(model: str, library: Library, seconds_to_save: str) -> None:
    """Turns with long prompts and replies."""
    recorder.SAVE_SECONDS = float(seconds_to_save)
    cached_turn.CHECKPOINT_TOKENS = 64
    engine = EngineThread(model, settings=settings(60), library=library)
    engine.start()
    wait_for_end(engine)
    request: Request = Send("Question 0 " + "word " * 60)
    for turn in count(1):
        outcome = submit_and_wait(engine, request)
        assert isinstance(outcome.end, Done), outcome.end
        assert outcome.started
        assert not outcome.notices, outcome.notices
        request = Send(f"Question {turn} " + "word " * 60)
        if turn % 3 == 1:
            request = Retry(outcome.started.reply)
        if turn % 3 == 0:
            submit_and_wait(engine, Open(None))


def mixed(model: str, library: Library, name: str, seconds: str) -> None:
    """Turns of all kinds, beside another process that does the same, with a small budget of states.

    Conversations of the other process may be opened, and are read-only while it has them open.
    """
    rng = random.Random(name)
    engine = EngineThread(
        model, settings=settings(8, "Be brief. " * 30), library=library, budget=3_000_000
    )
    engine.start()
    wait_for_end(engine)
    counts: Counter[str] = Counter()
    path: Sequence[Message] = ()
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        kind = rng.choice(["new", "old", "send", "send", "retry", "edit"])
        request: Request = Send(f"{name} asks {rng.randrange(10**6)}")
        users = [m.id for m in path if m.role == "user"]
        if kind == "new":
            request = Open(None)
        elif kind == "old" and (known := [row.id for row in library.list(6)]):
            request = Open(rng.choice(known))
        elif kind == "retry" and path:
            request = Retry(path[-1].id)
        elif kind == "edit" and users:
            request = Edit(rng.choice(users), f"{name} asks anew {rng.randrange(10**6)}")
        outcome = submit_and_wait(engine, request)
        result = type(outcome.end).__name__
        match outcome.end:
            case Failed(message):
                result = next((why for why in REFUSALS if why in message), "")
                if not result:
                    raise Qwen35Error(message)
            case Opened(None):
                path = ()
            case Opened(conversation, read_only=read_only) if conversation is not None:
                path = library.conversation(conversation).path()
                result = "read only" if read_only else result
            case Done():
                assert outcome.started
                path = library.conversation(outcome.started.conversation).path()
        counts[f"{type(request).__name__}: {result}"] += 1
        for notice in outcome.notices:
            why = next((word for word in EVICTIONS if word in notice.message), "")
            if not why:
                raise Qwen35Error(notice.message)
            counts[f"notice: {why}"] += 1
    engine.close()
    report("counts", **counts)


if __name__ == "__main__":
    model, home, command, *arguments = sys.argv[1:]
    work: dict[str, Any] = {"endless": endless, "mixed": mixed}
    with Library(Path(home)) as opened:
        work[command](model, opened, *arguments)
