"""One of two processes with an engine in the first, which loses the other.

python -m tests.distributed.loss_child FOLDER SIGNAL MOMENT

SIGNAL 0 sends none: the other's network hangs, and the turn is cancelled once that was reported.

MOMENT is "idle", "prefill" or "decode", and seconds after its begin: "decode+0.5". The first
process writes what came of it to FOLDER/loss.json.
"""

import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from qwen35_mlx.distributed import link
from qwen35_mlx.distributed.follower import Follower
from qwen35_mlx.distributed.place import Place
from qwen35_mlx.distributed.processes import follow
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.engine import EngineThread
from qwen35_mlx.session.events import (
    Answer,
    Event,
    Failed,
    Loaded,
    Notice,
    ProcessesLost,
    Thinking,
    TurnStarted,
)
from qwen35_mlx.session.requests import Send

QUESTION = f"{'The quick brown fox jumps over the lazy dog. ' * 20} What is 17 + 25?"
SECONDS = 60


BEGIN = {"idle": Loaded, "prefill": TurnStarted, "decode": Thinking | Answer}


def lose(place: Place, folder: Path, number: int, moment: str) -> dict[str, Any]:
    """The events after the loss, and what the library has."""
    events: list[Event] = []
    with Library(folder) as library:
        settings = ChatSettings(thinking=True, repetition_guard=False)
        engine = EngineThread("demo", place=place, library=library, settings=settings)
        with closing(engine):
            engine.start()
            wait(engine, events, lambda: any(isinstance(e, Loaded | Failed) for e in events))
            phase, _, delay = moment.partition("+")
            if phase != "idle":
                engine.submit(Send(QUESTION))
            wait(engine, events, lambda: any(isinstance(e, BEGIN[phase]) for e in events))
            time.sleep(float(delay or 0))
            lost_at = time.monotonic()
            if number:
                os.kill(int((folder / "1.pid").read_text()), number)
            else:
                count = len(notices(events))  # of a slow machine
                wait(engine, events, lambda: len(notices(events)) > count)
                lost_at = time.monotonic()
                engine.cancel()
            wait(engine, events, lambda: any(isinstance(e, ProcessesLost) for e in events))
            seconds = time.monotonic() - lost_at
            engine.submit(Send("Are you there?"))
            before = len(events)
            wait(engine, events, lambda: any(isinstance(e, Failed) for e in events[before:]))
        stored = [library.conversation(one.id) for one in library.list()]
    return {
        "events": [[type(event).__name__, getattr(event, "message", "")] for event in events],
        "text": "".join(e.text for e in events if isinstance(e, Thinking | Answer)),
        "seconds": seconds,
        "stored": [
            [message.role, message.content + message.thinking, message.state, message.error]
            for conversation in stored
            for message in conversation.messages
        ],
    }


def notices(events: list[Event]) -> list[str]:
    return [e.message for e in events if isinstance(e, Notice) and "no progress" in e.message]


def hang_in_passes(count: int) -> None:
    """Let this process hang in a pass of its network after some others."""
    compute = Follower._compute
    passes: list[str] = []

    def computed(self: Follower, command: dict[str, Any], network: Any) -> None:
        passes.append(command["call"])
        if len(passes) > count:
            time.sleep(SECONDS)
        compute(self, command, network)

    Follower._compute = computed


def wait(engine: EngineThread, events: list[Event], done: Any) -> None:
    """Collect events until it is done."""
    deadline = time.monotonic() + SECONDS
    while not done():
        events += engine.poll()
        assert time.monotonic() < deadline, events
        time.sleep(0.005)


def main(folder: Path, number: int, moment: str) -> None:
    place = Place.of_environment()
    assert place is not None
    (folder / f"{place.rank}.pid").write_text(str(os.getpid()))
    if not number:
        link.STALLED_SECONDS = 6.0
    if place.rank:
        if not number:
            hang_in_passes(40)
        follow(place)
    else:
        (folder / "loss.json").write_text(json.dumps(lose(place, folder, number, moment)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
