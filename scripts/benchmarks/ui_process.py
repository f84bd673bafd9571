"""Processes of `scripts.benchmarks.ui` that run the app with instruments inside.

The other measurements run the installed command and watch it from outside.
"""

import argparse
import asyncio
import gc
import json
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from qwen35_chat.options import CommandOptions, Start
from qwen35_chat.runtime import ChatRuntime, app_class

from qwen35_mlx.library.conversation import Message, Usage
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.engine_protocol import Engine
from qwen35_mlx.session.events import Answer, Done, Event, Loaded, Opened, Thinking, TurnStarted
from qwen35_mlx.session.requests import Open, Request, Send

RATE = 150.0  # tokens per second
CODE_LINES = 300
TICK = 0.005  # seconds between two probes of the event loop
SAVE_SECONDS = 0.5
COUNTING = "Count from one to one hundred."  # the longest reply of the demo model
WINDOW_SECONDS, SETTLE_SECONDS = 1.5, 0.2
PROCESSES = ("stream", "decode")
RESULT = "result.json"  # file with the result of a process


def code() -> str:
    """A reply of one code block of `CODE_LINES` lines."""
    lines = [
        f"    total = combine(total, measure(step={n}, scale={n * 7 % 13}))  # part {n}"
        for n in range(CODE_LINES - 1)
    ]
    return "```python\ndef run(total: int) -> int:\n" + "\n".join(lines) + "\n```\n"


def chinese() -> str:
    """A reply of Chinese paragraphs without spaces, with bold text and code: 12,000 characters."""
    sentence = "模型在**每一层**里先计算注意力，再把结果交给`前馈网络`，然后继续向下传递；"
    return "\n\n".join(sentence * 20 for _ in range(16)) + "\n"


REPLIES = {"code": (code, 4), "chinese": (chinese, 2)}  # and the characters of a token


def tokens(text: str, size: int) -> list[str]:
    """Split a text into pieces of `size` characters."""
    return [text[at : at + size] for at in range(0, len(text), size)]


class Producer:
    """An `Engine` whose thread emits one fixed reply at `RATE`.

    Attributes:
        writing: whether the reply is in progress.
        rate: measured tokens per second of the last reply.
    """

    def __init__(self, library: Library, pieces: Sequence[str]):
        self._library = library
        self._pieces = pieces
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._conversation: int | None = None
        self._closed = threading.Event()
        self.writing = False
        self.rate = 0.0

    def start(self) -> None:
        self._events.put(Loaded("producer", 262_144))

    def submit(self, request: Request) -> None:
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
        user = library.add_message(here, Message(0, leaf, "user", text))
        reply = library.add_message(here, Message(0, user.id, "assistant", "", state="partial"))
        self._events.put(TurnStarted(here, user.id, reply.id))
        content, count = "", 0
        started = saved = time.monotonic()
        self.writing = True
        for count, piece in enumerate(self._pieces, 1):
            if self._closed.wait(max(started + count / RATE - time.monotonic(), 0)):
                break
            content += piece
            self._events.put(Answer(piece))
            if time.monotonic() - saved > SAVE_SECONDS:
                library.save(replace(reply, content=content), durable=False)
                saved = time.monotonic()
        self.writing = False
        seconds = time.monotonic() - started
        self.rate = count / seconds
        library.save(replace(reply, content=content, state="complete"))
        usage = Usage(20_100, 20_000, count, 0.1, seconds, 1 << 30)
        self._events.put(Done("stop", usage, {"role": "assistant", "content": content}))


async def measure_lag(engine: Producer, lags: list[float]) -> None:
    """Append the delay in seconds of a callback due every `TICK`, while a reply is in progress."""
    due = time.perf_counter()
    while True:
        due += TICK
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        now = time.perf_counter()
        # Callbacks that were due in the meantime waited as well.
        while due <= now:
            if engine.writing:
                lags.append(now - due)
            due += TICK
        due -= TICK


def stream(conversation: int, reply: str) -> dict[str, Any]:
    """Run the app with a `Producer` of the reply of this name until it is quit."""
    text, size = REPLIES[reply]
    pieces = tokens(text(), size)
    with ChatRuntime(CommandOptions(model="demo")) as window:
        engine = window.controller.engine = Producer(window.controller.library, pieces)
        lags: list[float] = []
        tasks: list[asyncio.Task[None]] = []

        def ready() -> None:
            gc.freeze()
            if not tasks:
                tasks.append(asyncio.get_running_loop().create_task(measure_lag(engine, lags)))

        cpu = time.process_time()
        app_class()(window.controller, start=Start(conversation), ready=ready).run()
        engine.close()
        return {"lags": lags, "tok/s": engine.rate, "cpu s": time.process_time() - cpu}


class SwitchedEngine:
    """An `Engine` that passes on the events of another, or holds them back.

    Attributes:
        on: whether the app draws; `take` is called in its place otherwise.
        pieces: text events so far, about one per token.
        writing: whether there is text of a reply that has not ended.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._held: list[Event] = []
        self.on = True
        self.pieces = 0
        self.writing = False
        self.start, self.submit = engine.start, engine.submit
        self.cancel, self.close = engine.cancel, engine.close

    def take(self) -> None:
        """Take the events of the engine and keep them for `poll`, as a bare loop would."""
        events = self._engine.poll()
        for event in events:
            if isinstance(event, Answer | Thinking):
                self.pieces += 1
                self.writing = True
            elif isinstance(event, Done):
                self.writing = False
        self._held += events

    def poll(self) -> list[Event]:
        self.take()
        events, self._held = self._held, []
        return events


def decode(windows: int) -> dict[str, Any]:
    """Tokens per second of the demo model in windows of time, alternately with and without drawing.

    All windows are of one process and one conversation, so that everything else is the same. A
    window in which a reply ends is repeated in the next one.
    """
    with ChatRuntime(CommandOptions(model="demo", turn={"seed": 1})) as window:
        engine = window.controller.engine = SwitchedEngine(window.controller.engine)
        tasks: list[asyncio.Task[list[float]]] = []

        def ready() -> None:
            gc.freeze()
            if window.controller.loaded and not tasks:
                tasks.append(asyncio.get_running_loop().create_task(measure()))

        async def reply() -> None:
            """Begin a reply, and wait until it is being written."""
            engine.on = True
            while window.controller.busy:
                await asyncio.sleep(0.1)
            app.chat.show(window.controller.send(COUNTING))
            while not engine.writing:
                await asyncio.sleep(0.1)

        async def measure() -> list[float]:
            rates: list[float] = []
            while len(rates) < windows:
                if not engine.writing:
                    await reply()
                engine.on = len(rates) % 2 == 0
                await asyncio.sleep(SETTLE_SECONDS)
                engine.take()
                before, started = engine.pieces, time.perf_counter()
                await asyncio.sleep(WINDOW_SECONDS)
                engine.take()
                if engine.writing:
                    rates.append((engine.pieces - before) / (time.perf_counter() - started))
            engine.on = True
            app.exit()
            return rates

        app = app_class()(window.controller, ready=ready)
        draw = app.chat._drain

        async def draw_or_take() -> None:
            if engine.on:
                await draw()
            else:
                engine.take()

        app.chat._drain = draw_or_take
        app.run()
        rates = tasks[0].result()
        return {"on": rates[::2], "off": rates[1::2]}


def run(args: argparse.Namespace) -> None:
    """Run the process named `args.process` and write its result to `args.folder`."""
    stream_only = args.process == "stream"
    result = stream(args.conversation, args.reply) if stream_only else decode(args.windows)
    (args.folder / RESULT).write_text(json.dumps(result))
