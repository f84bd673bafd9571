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
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from qwen35_chat.options import Options
from qwen35_chat.window import Window, app_class

from qwen35_mlx.library.conversation import Usage
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.engine import Engine
from qwen35_mlx.session.events import Answer, Done, Event, Loaded, Opened, Thinking, TurnStarted
from qwen35_mlx.session.requests import Open, Request, Send

RATE = 150.0  # tokens a second
CODE_LINES = 300
TICK = 0.005  # seconds between two looks at the event loop
SAVE_SECONDS = 0.5
COUNTING = "Count from one to one hundred."  # the demo model thinks about this without end
WINDOW_SECONDS, SETTLE_SECONDS = 1.5, 0.2
STEPS = ("stream", "decode")


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
        usage = Usage(20_100, 20_000, count, 0.1, seconds, 1 << 30)
        self._events.put(Done("stop", usage, {"role": "assistant", "content": said}))


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
        engine = window.controller.engine = Producer(window.controller.library)
        lags: list[float] = []
        watching: list[asyncio.Task[None]] = []

        def ready() -> None:
            gc.freeze()
            if not watching:
                watching.append(asyncio.get_running_loop().create_task(watch(engine, lags)))

        cpu = time.process_time()
        app_class()(window.controller, conversation=conversation, ready=ready).run()
        engine.close()
        return {"lags": lags, "tok/s": engine.rate, "cpu s": time.process_time() - cpu}


class Switched:
    """An `Engine` between an app and the real one.

    Attributes:
        on: what the engine says is passed on; else it is held back.
        pieces: of text that the engine has given: about as many as tokens.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._held: list[Event] = []
        self.on = True
        self.pieces = 0
        self.start, self.ask = engine.start, engine.ask
        self.cancel, self.close = engine.cancel, engine.close

    def take(self) -> None:
        """Take what the engine has to say, as a bare loop does."""
        events = self._engine.poll()
        self.pieces += sum(isinstance(event, Answer | Thinking) for event in events)
        self._held += events

    def poll(self) -> list[Event]:
        self.take()
        events, self._held = self._held, []
        return events


def decode(windows: int) -> dict[str, Any]:
    """Tokens a second of the demo model in stretches of time, in which the screen draws or not.

    One reply in one process, so that all else is the same: what the machine does besides, and how
    long the conversation is.
    """
    with Window(Options(model="demo", turn={"seed": 1})) as window:
        engine = window.controller.engine = Switched(window.controller.engine)
        tasks: list[asyncio.Task[list[float]]] = []

        def ready() -> None:
            gc.freeze()
            if window.controller.loaded and not tasks:
                tasks.append(asyncio.get_running_loop().create_task(measure()))

        async def measure() -> list[float]:
            app.chat.show(window.controller.send(COUNTING))
            while engine.pieces < 20:
                await asyncio.sleep(0.1)
            rates: list[float] = []
            for number in range(windows):
                engine.on = number % 2 == 0
                await asyncio.sleep(SETTLE_SECONDS)
                engine.take()
                before, started = engine.pieces, time.perf_counter()
                await asyncio.sleep(WINDOW_SECONDS)
                engine.take()
                rates.append((engine.pieces - before) / (time.perf_counter() - started))
            engine.on = True
            app.exit()
            return rates

        app = app_class()(window.controller, ready=ready)
        draw = app.chat._drain

        async def draw_or_rest() -> None:
            if engine.on:
                await draw()
            else:
                engine.take()

        app.chat._drain = draw_or_rest
        app.run()
        rates = tasks[0].result()
        return {"on": rates[::2], "off": rates[1::2]}


def run(args: argparse.Namespace) -> None:
    """One process; what it found is written into its folder."""
    found = stream(args.conversation) if args.step == "stream" else decode(args.windows)
    (args.folder / "found.json").write_text(json.dumps(found))
