"""The app's side of `scripts.bench_ui`: its processes, with instruments in them.

What needs a look from inside; the rest is measured from outside, on the command itself.
"""

import argparse
import asyncio
import gc
import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from qwen35_chat.options import Options
from qwen35_chat.window import Window, app_class

from qwen35_mlx.session.engine import Engine, EngineThread
from qwen35_mlx.session.events import (
    Answer,
    Done,
    Event,
    Failed,
    Figures,
    Loaded,
    Opened,
    TurnStarted,
)
from qwen35_mlx.session.library import Library
from qwen35_mlx.session.requests import Configure, Open, Request, Send

RATE = 150.0  # tokens a second
CODE_LINES = 300
TICK = 0.005  # seconds between two looks at the event loop
SAVE_SECONDS = 0.5
COUNTING = "Count from one to one hundred."  # the demo model thinks about this without end
REPLY_TOKENS = 400
POLLS_PER_SECOND = 15
STEPS = ("stream", "bare")


def code() -> str:
    """A reply of one code block."""
    lines = [
        f"    total = combine(total, measure(step={n}, scale={n * 7 % 13}))  # part {n}"
        for n in range(CODE_LINES - 1)
    ]
    return "```python\ndef run(total: int) -> int:\n" + "\n".join(lines) + "\n```\n"


def tokens(text: str) -> Iterator[str]:
    """A text in pieces of about the size of a token."""
    for at in range(0, len(text), 4):
        yield text[at : at + 4]


class Producer:
    """An `Engine` whose thread writes one reply, at a steady pace, as a model's would.

    Attributes:
        writing: a reply is being written.
        rate: tokens a second that it has really given.
    """

    def __init__(self, library: Library):
        self._library = library
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._conversation: int | None = None
        self._closed = threading.Event()
        self.writing = False
        self.rate = 0.0

    def start(self) -> None:
        self._events.put(Loaded("producer", 262_144))

    def ask(self, request: Request) -> None:
        if isinstance(request, Open):
            self._conversation = request.conversation
            self._events.put(Opened(request.conversation, "Bench"))
        elif isinstance(request, Send):
            threading.Thread(target=self._reply, args=(request.text,), daemon=True).start()

    def cancel(self) -> None:
        self._closed.set()

    def poll(self) -> list[Event]:
        events: list[Event] = []
        with suppress(queue.Empty):
            while True:
                events.append(self._events.get_nowait())
        return events

    def close(self) -> None:
        self._closed.set()

    def _reply(self, text: str) -> None:
        library, here = self._library, self._conversation
        assert here is not None
        leaf = library.conversation(here).leaf
        user = library.add_message(here, leaf, "user", text)
        reply = library.begin_reply(here, user.id, "producer")
        self._events.put(TurnStarted(here, user.id, reply.id))
        said, count = "", 0
        started = saved = time.monotonic()
        self.writing = True
        for count, piece in enumerate(tokens(code()), 1):
            if self._closed.wait(max(started + count / RATE - time.monotonic(), 0)):
                break
            said += piece
            self._events.put(Answer(piece))
            if time.monotonic() - saved > SAVE_SECONDS:
                library.update_reply(reply.id, said)
                saved = time.monotonic()
        self.writing = False
        seconds = time.monotonic() - started
        self.rate = count / seconds
        library.finish_reply(reply.id, said)
        figures = Figures(20_100, 20_000, count, 0.1, seconds, 1 << 30)
        self._events.put(Done("stop", figures, {"role": "assistant", "content": said}))


async def watch(engine: Producer, lags: list[float]) -> None:
    """While a reply is written, note how long a callback has to wait that is due every `TICK`."""
    due = time.perf_counter()
    while True:
        due += TICK
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        now = time.perf_counter()
        # Whatever would have been due meanwhile has waited as well.
        while due <= now:
            if engine.writing:
                lags.append(now - due)
            due += TICK
        due -= TICK


def stream(conversation: int) -> dict[str, Any]:
    """The app and a producer, until it is left by its key."""
    with Window(Options(model="demo")) as window:
        engine = window.desk.engine = Producer(window.desk.library)
        lags: list[float] = []
        watching: list[asyncio.Task[None]] = []

        def ready() -> None:
            gc.freeze()
            if not watching:
                watching.append(asyncio.get_running_loop().create_task(watch(engine, lags)))

        cpu = time.process_time()
        app_class()(window.desk, conversation=conversation, ready=ready).run()
        engine.close()
        return {"lags": lags, "tok/s": engine.rate, "cpu s": time.process_time() - cpu}


def bare(folder: Path, questions: Sequence[str], limit: int) -> dict[str, Any]:
    """The demo model's replies without a screen: its events are taken as often, and dropped."""
    settings = Configure(max_tokens=limit, seed=1)
    with Library(folder) as library:
        engine = EngineThread("demo", settings=settings, library=library)
        engine.start()
        try:
            _drain(engine, Loaded)
            for question in questions:
                engine.ask(Send(question))
                _drain(engine, Done)
        finally:
            engine.close()
    return {}


def _drain(engine: Engine, last: type[Event]) -> None:
    while True:
        for event in engine.poll():
            if isinstance(event, Failed):
                raise SystemExit(event.message)
            if isinstance(event, last):
                return
        time.sleep(1 / POLLS_PER_SECOND)


def run(args: argparse.Namespace) -> None:
    """One process; what it found is written into its folder."""
    if args.step == "stream":
        found = stream(args.conversation)
    else:
        found = bare(args.folder, [COUNTING] * args.rounds, REPLY_TOKENS)
    (args.folder / "found.json").write_text(json.dumps(found))
