"""One of two processes with an engine in the first, which loses the other.

python -m tests.distributed.loss_child FOLDER SIGNAL MOMENT

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
            os.kill(int((folder / "1.pid").read_text()), number)
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
    if place.rank:
        follow(place)
    else:
        (folder / "loss.json").write_text(json.dumps(lose(place, folder, number, moment)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
