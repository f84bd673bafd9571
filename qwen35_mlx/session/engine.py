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
from qwen35_mlx.session.events import Cancelled, Done, Event, Failed, Loaded, Loading
from qwen35_mlx.session.requests import Request, Send

CLOSE_SECONDS = 5.0


class Engine(Protocol):
    """What a screen needs of an engine. No call blocks but `close`."""

    def start(self) -> None:
        """Begin to load the model: `Loading` events, then `Loaded` or `Failed`."""
        ...

    def ask(self, request: Request) -> None:
        """Ask for something; requests queue up. A turn ends in `Done`, `Cancelled` or `Failed`."""
        ...

    def cancel(self) -> None:
        """Stop the turns sent so far: the one that is running within one chunk or one token."""
        ...

    def poll(self) -> list[Event]:
        """Events since the last call, oldest first."""
        ...

    def close(self) -> None:
        """Cancel, and wait a moment for the thread to end."""
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
        self._requests: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._sent = 0  # turns asked for
        self._cancelled = 0  # of these, so many are not wanted any more
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self, request: Request) -> None:
        if isinstance(request, Send):
            self._sent += 1
            self._requests.put((self._sent, request.text))

    def cancel(self) -> None:
        self._cancelled = self._sent

    def poll(self) -> list[Event]:
        events: list[Event] = []
        with suppress(queue.Empty):
            while True:
                events.append(self._events.get_nowait())
        return events

    def close(self) -> None:
        self._closed = True
        self.cancel()
        self._requests.put(None)
        if self._thread.is_alive():
            # A download or a load cannot be told; the thread dies with the process then.
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            chat = self._load()
        except Exception as error:
            self._events.put(Failed(_one_line(error)))
            return
        # Imported by now: the thread that draws the screen need not wait for it.
        import mlx.core as mx

        try:
            while (request := self._requests.get()) is not None and not self._closed:
                self._turn(chat, *request)
        finally:
            mx.clear_streams()

    def _load(self) -> Any:
        """The chat, once everything that a first turn would wait for is there."""
        self._events.put(Loading(self._model))
        try:
            import mlx.core  # noqa: F401
        except ImportError as error:
            raise Qwen35Error(
                f"MLX does not start ({error}): on Linux, install the extra for your machine, "
                "qwen35-mlx[cpu] or qwen35-mlx[cuda]"
            ) from None
        from qwen35_mlx.generation.sampling import make_chooser
        from qwen35_mlx.session.chat import Chat
        from qwen35_mlx.session.model import load

        model = load(self._model, revision=self._revision, progress=self._downloading)
        chat = Chat(model, **self._chat_options)
        make_chooser(model.sampling, model.network.config.vocab_size)  # imports mlx-lm
        self._events.put(Loaded(model.name, model.context))
        return chat

    def _downloading(self, done: int, total: int, what: str) -> None:
        self._events.put(Loading(what, done / total if total else None))

    def _turn(self, chat: Any, number: int, text: str) -> None:
        """One turn. Whatever goes wrong ends the turn, not the thread."""
        try:
            if number <= self._cancelled:
                self._events.put(Cancelled())
                return
            events: Generator[Event] = chat.send(text, **self._turn_options)
            for event in events:
                self._events.put(event)
                if number <= self._cancelled and not isinstance(event, Done):
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
