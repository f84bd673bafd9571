"""The one thread that MLX lives on.

MLX arrays, random state and compiled functions belong to the thread that made them. So one
thread loads the model and runs every turn; what leaves it are events.
"""

import gc
import queue
import sys
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.session.events import (
    Cancelled,
    Done,
    Event,
    Failed,
    Loaded,
    Loading,
    Measured,
    Notice,
    Opened,
    Unloaded,
)
from qwen35_mlx.session.requests import (
    Compact,
    Configure,
    Edit,
    Open,
    Request,
    Retry,
    Select,
    Send,
    Unload,
    UseModel,
)

if TYPE_CHECKING:
    from qwen35_mlx.library.library import Library
    from qwen35_mlx.session.chat import Chat
    from qwen35_mlx.session.model import Model

CLOSE_SECONDS = 5.0
# A long conversation takes a second to measure, and the interpreter from a screen that shows it.
QUIET_SECONDS = 0.3


class Engine(Protocol):
    """What a screen needs of an engine. No call blocks but `close`."""

    def start(self) -> None:
        """Begin to load the model: `Loading` events, then `Loaded` or `Failed`."""
        ...

    def ask(self, request: Request) -> None:
        """Ask for something; requests queue up. See `session.requests` for what they end in;
        a turn ends in `Done`, `Cancelled` or `Failed`."""
        ...

    def cancel(self) -> None:
        """Stop the turns and loads asked for so far: the one that is running within one chunk or
        one token."""
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
        model: as for `qwen35_mlx.load`; None to wait for `UseModel`.
        settings: of new conversations, until `Configure` changes them.
        library: where conversations are kept, their states beside it; None for memory only. It is
            the caller's to close, after the engine.
        budget: bytes of states on disk; None for the usual.
        context, kv_bits: as for `qwen35_mlx.load`.
    """

    def __init__(
        self,
        model: str | None,
        *,
        revision: str | None = None,
        settings: ChatSettings | None = None,
        library: "Library | None" = None,
        budget: int | None = None,
        context: int | None = None,
        kv_bits: int | None = None,
    ):
        self._wanted = UseModel(model, revision) if model is not None else None
        self._settings = settings or ChatSettings()
        self._library = library
        self._budget = budget
        self._context = context
        self._kv_bits = kv_bits
        self._requests: queue.SimpleQueue[tuple[int, Request] | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._asked = 0
        self._cancelled = 0  # of these, so many are not wanted any more
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)
        # The engine's thread's own:
        self._now = 0  # the number of the request that is being answered
        self._model: Model | None = None
        self._chat: Chat | None = None
        self._current: int | None = None  # the conversation that the next turn belongs to
        self._unmeasured = False  # and nobody was told how long it is

    def start(self) -> None:
        if self._wanted is not None:
            self.ask(self._wanted)
        self._thread.start()

    def ask(self, request: Request) -> None:
        self._asked += 1
        self._requests.put((self._asked, request))

    def cancel(self) -> None:
        self._cancelled = self._asked

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
            # A load cannot be told; the thread dies with the process then.
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            while (asked := self._next()) is not None and not self._closed:
                self._now, request = asked
                self._answer(request)
        finally:
            self._free()
            if "mlx.core" in sys.modules:
                sys.modules["mlx.core"].clear_streams()

    def _next(self) -> tuple[int, Request] | None:
        """Wait for a request; None at the end."""
        if self._unmeasured and self._model is not None:
            try:
                return self._requests.get(timeout=QUIET_SECONDS)
            except queue.Empty:
                self._measure()
        return self._requests.get()

    def _answer(self, request: Request) -> None:
        """Whatever goes wrong ends the request, not the thread."""
        try:
            self._check_cancelled(request)
            match request:
                case UseModel():
                    self._use(request)
                case Unload():
                    self._free()
                    self._events.put(Unloaded())
                case Configure(settings):
                    self._configure(settings)
                case Open(conversation):
                    self._open(conversation)
                case Select(message):
                    self._here().select(message)
                    self._tell_opened()
                case Compact():
                    self._stream(self._here().compact())
                    self._tell_opened()
                case Send(text):
                    self._stream(self._here().send(text))
                case Retry(message):
                    self._stream(self._here().retry(message))
                case Edit(message, text):
                    self._stream(self._here().edit(message, text))
        except _CancelledError:
            self._events.put(Cancelled())
        except Exception as error:
            self._events.put(Failed(_one_line(error)))
        if self._chat is not None:
            self._current = self._chat.conversation.id or None
            for line in self._chat.notices():
                self._events.put(Notice(line))

    def _check_cancelled(self, request: Request | None = None) -> None:
        """Only what takes long can be cancelled."""
        quick = isinstance(request, Unload | Configure | Open | Select)
        if self._now <= self._cancelled and not quick:
            raise _CancelledError

    def _stream(self, events: Generator[Event]) -> None:
        """Pass a turn's events on, until it ends or is cancelled."""
        self._unmeasured = False  # the turn says how long the conversation is
        for event in events:
            self._events.put(event)
            if self._now <= self._cancelled and not isinstance(event, Done):
                events.close()
                raise _CancelledError

    def _use(self, request: UseModel) -> None:
        """Load a model in place of the one that is there; which stays if this one is not found."""
        self._events.put(Loading(request.model))
        try:
            import mlx.core  # noqa: F401
        except ImportError as error:
            raise Qwen35Error(
                f"MLX does not start ({error}): on Linux, install the extra for your machine, "
                "qwen35-mlx[cpu] or qwen35-mlx[cuda]"
            ) from None
        from qwen35_mlx.checkpoint.hub import resolve_checkpoint
        from qwen35_mlx.generation.sampler import make_sampler
        from qwen35_mlx.session.model import load

        resolve_checkpoint(request.model, revision=request.revision, progress=self._downloading)
        self._check_cancelled()
        self._free()
        self._wanted = request
        self._model = load(
            request.model,
            revision=request.revision,
            context=self._context,
            kv_bits=self._kv_bits,
            progress=self._downloading,
            notice=self._tell,
        )
        if self._library is not None:
            self._model.open_states(self._library.folder, budget=self._budget, tell=self._tell)
        # May import mlx-lm, which a first turn need not wait for.
        sampling = self._model.sampling.updated(self._settings.sampling)
        make_sampler(sampling, self._model.network.config.vocab_size)
        self._events.put(Loaded(self._model.name, self._model.context))

    def _downloading(self, done: int, total: int, what: str) -> None:
        self._check_cancelled()
        self._events.put(Loading(what, done / total if total else None))

    def _tell(self, line: str) -> None:
        self._events.put(Notice(line))

    def _free(self) -> None:
        """Give the model's memory back."""
        if self._chat is not None:
            self._chat.close()
        model, self._model, self._chat = self._model, None, None
        if model is None:
            return
        import mlx.core as mx

        if model.states is not None:
            model.states.close(CLOSE_SECONDS)
        del model
        gc.unfreeze()  # whoever keeps the collector from what stays did not mean the model
        gc.collect()
        mx.clear_cache()

    def _ready(self) -> "Model":
        """The model, loaded (again) if need be."""
        if self._model is None:
            if self._wanted is None:
                raise Qwen35Error("no model is loaded: choose one first")
            self._use(self._wanted)
        assert self._model is not None
        return self._model

    def _here(self) -> "Chat":
        """The current conversation."""
        if self._chat is None:
            self._chat = self._made(self._current)
        return self._chat

    def _measure(self) -> None:
        """Tell how long the current conversation is; what is wrong with it is for a turn to say."""
        self._unmeasured = False
        with suppress(Exception):
            chat = self._here()
            self._events.put(Measured(chat.conversation.id or None, *chat.measured()))

    def _made(self, conversation: int | None) -> "Chat":
        from qwen35_mlx.session.chat import Chat

        chat = Chat(self._ready(), library=self._library, conversation=conversation)
        if conversation is None:
            chat.configure(self._settings)
        return chat

    def _open(self, conversation: int | None) -> None:
        """Its state is restored with the next turn, so that leafing through them is quick."""
        if conversation is not None and self._library is None:
            raise Qwen35Error("conversations are not kept here: give the engine a library")
        if conversation is not None and conversation == self._current and self._chat is not None:
            self._tell_opened()
            return
        chat = self._made(conversation) if self._model is not None else None
        title = ""
        if chat is None and conversation is not None:
            assert self._library is not None
            title = self._library.conversation(conversation).title
        if self._chat is not None:
            self._chat.close()
        elif self._current is not None and self._library is not None:
            self._library.release(self._current)
        self._chat, self._current = chat, conversation
        self._tell_opened(title)

    def _tell_opened(self, title: str = "") -> None:
        """Args: title: of the current conversation, while there is no model and so no chat."""
        self._unmeasured = True
        if self._chat is None:
            self._events.put(Opened(self._current, title, read_only=not self._claimed()))
            return
        tree = self._chat.conversation
        self._events.put(Opened(tree.id or None, tree.title, read_only=self._chat.read_only))

    def _claimed(self) -> bool:
        """Whether no other window has the current conversation: none gets it from now on."""
        if self._library is None or self._current is None:
            return True
        return self._library.claim(self._current)

    def _configure(self, settings: ChatSettings) -> None:
        """For new conversations, and for this one unless another window has it."""
        self._settings = settings
        if self._chat is not None:
            if not self._chat.read_only:
                self._chat.configure(settings)
        elif self._current is not None and self._library is not None and self._claimed():
            self._library.configure(self._current, settings)


class _CancelledError(Exception):
    """The request that is being answered is not wanted any more."""


def _one_line(error: Exception) -> str:
    """What the user reads. Errors that are not for users name their type, to be reported."""
    if isinstance(error, Qwen35Error):
        return str(error)
    return f"internal error, please report it: {type(error).__name__}: {error}".replace("\n", " ")
