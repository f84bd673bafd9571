"""The one thread that MLX lives on.

MLX arrays, random state and compiled functions belong to the thread that made them. So one
thread loads the model and runs every turn; what leaves it are events.
"""

import queue
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import Any, Protocol

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.events import Cancelled, Event, Failed, Loaded, Loading


class Engine(Protocol):
    """What a screen needs of an engine. No call blocks but `close`."""

    def start(self) -> None:
        """Begin to load the model: `Loading` events, then `Loaded` or `Failed`."""
        ...

    def send(self, text: str) -> None:
        """Ask for a reply; turns queue up. Each ends in `Done`, `Cancelled` or `Failed`."""
        ...

    def cancel(self) -> None:
        """Stop the turn that is running, within one chunk or one token."""
        ...

    def poll(self) -> list[Event]:
        """Events since the last call, oldest first."""
        ...

    def close(self) -> None:
        """Cancel and wait for the thread to end."""
        ...


class EngineThread:
    """An `Engine` that runs a `Chat` in this process.

    Args:
        model: as for `qwen35_mlx.load`.
        chat: keyword arguments for `Chat`.
        turn: keyword arguments for every `Chat.send`.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        chat: dict[str, Any] | None = None,
        turn: dict[str, Any] | None = None,
    ):
        self._model = model
        self._revision = revision
        self._chat_options = chat or {}
        self._turn_options = turn or {}
        self._requests: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, text: str) -> None:
        self._requests.put(text)

    def cancel(self) -> None:
        self._cancelled.set()

    def poll(self) -> list[Event]:
        events: list[Event] = []
        with suppress(queue.Empty):
            while True:
                events.append(self._events.get_nowait())
        return events

    def close(self) -> None:
        self._closed = True
        self._cancelled.set()
        self._requests.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        # Imported here: the thread that draws the screen need not wait for it.
        import mlx.core as mx

        from qwen35_mlx.session.chat import Chat
        from qwen35_mlx.session.model import load

        try:
            self._events.put(Loading(self._model))
            try:
                model = load(
                    self._model,
                    revision=self._revision,
                    progress=self._downloading,
                )
                chat = Chat(model, **self._chat_options)
            except Exception as error:
                self._events.put(Failed(_one_line(error)))
                return
            self._events.put(Loaded(model.name, model.context))
            while (text := self._requests.get()) is not None and not self._closed:
                self._turn(chat, text)
        finally:
            mx.clear_streams()

    def _downloading(self, done: int, total: int, what: str) -> None:
        self._events.put(Loading(what, done / total if total else None))

    def _turn(self, chat: Any, text: str) -> None:
        """One turn. Whatever goes wrong ends the turn, not the thread."""
        self._cancelled.clear()
        if self._closed:
            return
        try:
            events: Generator[Event] = chat.send(text, **self._turn_options)
            for event in events:
                self._events.put(event)
                if self._cancelled.is_set():
                    events.close()
                    self._events.put(Cancelled())
                    return
        except Exception as error:
            self._events.put(Failed(_one_line(error)))


def _one_line(error: Exception) -> str:
    """What the user reads. Errors that are not for users name their type, to be reported."""
    if isinstance(error, Qwen35Error):
        return str(error)
    return f"internal error, please report it: {type(error).__name__}: {error}".replace("\n", " ")
