"""The engine: one thread that loads the model and runs every turn.

MLX arrays, random state and compiled functions belong to the thread that made them. Requests go in
through a queue, and only events come out.
"""

import gc
import queue
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.lifetime import Owner, close_at_exit
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
    AddResults,
    Compact,
    Configure,
    Edit,
    OfferTools,
    Open,
    Request,
    Retry,
    Select,
    Send,
    SendResults,
    Unload,
    UseModel,
)
from qwen35_mlx.text.messages import plain_tools

if TYPE_CHECKING:
    from qwen35_mlx.library.library import Library
    from qwen35_mlx.session.chat import Chat
    from qwen35_mlx.session.model import Model

CLOSE_SECONDS = 5.0
# Wait for further requests before measuring a conversation: a long one takes about a second and
# holds the GIL.
MEASURE_DELAY_SECONDS = 0.3


class Engine(Protocol):
    """What a user interface needs of an engine. Only `close` blocks."""

    def start(self) -> None:
        """Begin to load the model: `Loading` events, then `Loaded` or `Failed`."""
        ...

    def submit(self, request: Request) -> None:
        """Queue a request. `session.requests` lists the events it ends in; a turn ends in `Done`,
        `Cancelled` or `Failed`."""
        ...

    def cancel(self) -> None:
        """Cancel all turns and loads queued so far. The running one stops within one chunk of the
        prompt or one token."""
        ...

    def poll(self) -> list[Event]:
        """The events since the last call, oldest first."""
        ...

    def close(self) -> None:
        """Cancel, and wait up to `CLOSE_SECONDS` for the thread to end."""
        ...


class EngineThread:
    """An `Engine` that runs a `Chat` in this process.

    No error ends the thread without a word: whatever a request raises becomes its `Failed`. Should
    the thread end all the same, `poll` reports that and starts another, which loads the model again
    at the next turn.

    Args:
        model, revision: as for `qwen35_mlx.load`; None to wait for `UseModel`.
        settings: of new conversations, until `Configure` changes them.
        library: where conversations and model states are stored; None for memory only. The caller
            closes it, after the engine.
        budget: bytes of model states on disk; None for the default.
        context, kv_bits, mtp: as for `qwen35_mlx.load`.
        adapter_path: likewise, of the first model alone.
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
        mtp: str | int = "auto",
        adapter_path: str | None = None,
    ):
        self._model_request = UseModel(model, revision) if model is not None else None
        self._settings = settings or ChatSettings()
        self._library = library
        self._budget = budget
        self._context = context
        self._kv_bits = kv_bits
        self._mtp = mtp
        self._adapter_path = adapter_path
        self._adapted = model  # the model that the adapter is for
        self._requests: queue.SimpleQueue[tuple[int, Request] | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        if library is not None:
            library.report_to(self._emit_notice)
        self._submitted = 0  # requests are numbered from 1
        self._cancelled = 0  # requests up to this number are cancelled
        self._with_closed_fence = False
        self._owner = Owner()
        self._thread = self._new_thread()
        self._started = False
        # Used by the engine's thread only:
        self._request_number = 0  # of the running request
        self._model: Model | None = None
        self._chat: Chat | None = None
        self._conversation: int | None = None  # the current one, also without a chat
        self._tools: Sequence[Mapping[str, Any]] = ()  # that are offered to the model
        self._measure_due = False  # a conversation was opened and not measured yet
        self._end = ""  # why the thread ended

    def start(self) -> None:
        if self._model_request is not None:
            self.submit(self._model_request)
        self._thread.start()
        self._started = True
        close_at_exit(self)

    def submit(self, request: Request) -> None:
        self._owner.check_process("this engine")
        self._submitted += 1
        self._requests.put((self._submitted, request))

    def cancel(self) -> None:
        self._cancelled = self._submitted

    def poll(self) -> list[Event]:
        events: list[Event] = []
        if self._started and not self._with_closed_fence and not self._thread.is_alive():
            self._owner.check_process("this engine")
            self._restart()
        with suppress(queue.Empty):
            while True:
                events.append(self._events.get_nowait())
        return events

    def close(self) -> None:
        if self._with_closed_fence:
            return
        self._with_closed_fence = True
        self.cancel()
        self._requests.put(None)
        if self._thread.is_alive():
            # A load cannot be interrupted: the thread then ends with the process.
            self._thread.join(CLOSE_SECONDS)

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="mlx", daemon=True)

    def _restart(self) -> None:
        """Start another thread in place of one that has ended; what it held is gone with it."""
        self._model = self._chat = None
        self._events.put(Failed(f"the engine ended and was started again: try again ({self._end})"))
        self._thread = self._new_thread()
        self._thread.start()

    def _run(self) -> None:
        try:
            while (entry := self._next()) is not None and not self._with_closed_fence:
                self._request_number, request = entry
                self._handle(request)
        except BaseException as error:
            self._end = _user_message(error)
        finally:
            with suppress(BaseException):
                self._unload()
            if "mlx.core" in sys.modules:
                sys.modules["mlx.core"].clear_streams()

    def _next(self) -> tuple[int, Request] | None:
        """Wait for a request and its number; None at the end."""
        if self._measure_due and self._model is not None:
            try:
                return self._requests.get(timeout=MEASURE_DELAY_SECONDS)
            except queue.Empty:
                self._measure()
        return self._requests.get()

    def _handle(self, request: Request) -> None:
        """Run a request. An error of any kind ends the request, not the thread."""
        try:
            self._check_cancelled(request)
            match request:
                case UseModel():
                    self._load(request)
                case Unload():
                    self._unload()
                    self._events.put(Unloaded())
                case Configure(settings):
                    self._configure(settings)
                case OfferTools(tools):
                    self._tools = plain_tools(tools)
                    if self._chat is not None:
                        self._chat.tools = self._tools or None
                case Open(conversation):
                    self._open(conversation)
                case Select(message):
                    self._current_chat().select(message)
                    self._emit_opened()
                case Compact():
                    self._stream(self._current_chat().compact())
                    self._emit_opened()
                case Send(text):
                    self._stream(self._current_chat().send(text))
                case SendResults(results):
                    chat = self._current_chat()
                    self._stream(chat.send(self._tool_messages(results)))
                case AddResults(results):
                    self._current_chat().add_results(self._tool_messages(results))
                case Retry(message):
                    self._stream(self._current_chat().retry(message))
                case Edit(message, text):
                    self._stream(self._current_chat().edit(message, text))
        except _CancelledError:
            self._events.put(Cancelled())
        # Foreign code raises more than `Exception`: a panic of a Rust library is none.
        except BaseException as error:
            self._events.put(Failed(_user_message(error)))
        if self._chat is not None:
            self._conversation = self._chat.conversation.id or None
            for line in self._chat.notices():
                self._events.put(Notice(line))

    def _check_cancelled(self, request: Request | None = None) -> None:
        """Raise `_CancelledError` if the running request is cancelled. Quick requests never are."""
        quick = isinstance(request, Unload | Configure | OfferTools | AddResults | Open | Select)
        if self._request_number <= self._cancelled and not quick:
            raise _CancelledError

    def _stream(self, events: Generator[Event]) -> None:
        """Emit a turn's events until it ends or is cancelled."""
        self._measure_due = False  # the turn's usage has the length of the conversation
        for event in events:
            self._events.put(event)
            if self._request_number <= self._cancelled and not isinstance(event, Done):
                events.close()
                raise _CancelledError

    def _load(self, request: UseModel) -> None:
        """Load a model in place of the loaded one, which stays if the new one is not found."""
        self._events.put(Loading(request.model))
        try:
            import mlx.core  # noqa: F401
        except ImportError as error:
            raise Qwen35Error(
                f"MLX does not start ({error}): on Linux, install the extra for your machine, "
                "qwen35-mlx[cpu] or qwen35-mlx[cuda]"
            ) from None
        from qwen35_mlx.checkpoint.hub import resolve_checkpoint
        from qwen35_mlx.session.load import load

        resolve_checkpoint(request.model, revision=request.revision, progress=self._report_download)
        self._check_cancelled()
        self._unload()
        self._model_request = request
        self._adapted = self._adapted or request.model
        self._model = load(
            request.model,
            revision=request.revision,
            context=self._context,
            kv_bits=self._kv_bits,
            mtp=self._mtp,
            adapter_path=self._adapter_path if request.model == self._adapted else None,
            progress=self._report_download,
            notice=self._emit_notice,
        )
        if self._library is not None:
            self._model.open_states(
                self._library.folder, budget=self._budget, notice=self._emit_notice
            )
        self._events.put(Loaded(self._model.name, self._model.context))

    def _report_download(self, done: int, total: int, what: str) -> None:
        self._check_cancelled()
        self._events.put(Loading(what, done / total if total else None))

    def _emit_notice(self, line: str) -> None:
        self._events.put(Notice(line))

    def _unload(self) -> None:
        """Free the model's memory."""
        if self._chat is not None:
            self._chat.close()
        model, self._model, self._chat = self._model, None, None
        if model is None:
            return
        import mlx.core as mx

        if model.states is not None:
            model.states.close(CLOSE_SECONDS)
        del model
        gc.unfreeze()  # an application may have frozen the collector while the model was loaded
        gc.collect()
        mx.clear_cache()

    def _loaded_model(self) -> "Model":
        """The model, loaded (again) if necessary."""
        if self._model is None:
            if self._model_request is None:
                raise Qwen35Error("no model is loaded: choose one first")
            self._load(self._model_request)
        assert self._model is not None
        return self._model

    def _current_chat(self) -> "Chat":
        """The current conversation."""
        if self._chat is None:
            self._chat = self._make_chat(self._conversation)
        return self._chat

    def _measure(self) -> None:
        """Emit the length of the current conversation. Errors are left for a turn to report."""
        self._measure_due = False
        with suppress(BaseException):
            chat = self._current_chat()
            self._events.put(Measured(chat.conversation.id or None, *chat.measured()))

    def _make_chat(self, conversation: int | None) -> "Chat":
        from qwen35_mlx.session.chat import Chat

        chat = Chat(
            self._loaded_model(),
            library=self._library,
            conversation=conversation,
            tools=self._tools or None,
        )
        if conversation is None:
            chat.configure(self._settings)
        return chat

    def _tool_messages(self, results: Sequence[str]) -> list[dict[str, str]]:
        """The messages of role "tool" for some results, cut to what the context can hold."""
        from qwen35_mlx.session.results import within_context

        texts = within_context(self._loaded_model(), results)
        return [{"role": "tool", "content": text} for text in texts]

    def _open(self, conversation: int | None) -> None:
        """Open a conversation. Its snapshot is restored at the next turn, so opening is quick."""
        if conversation is not None and self._library is None:
            raise Qwen35Error("conversations are not kept here: give the engine a library")
        if (
            conversation is not None
            and conversation == self._conversation
            and self._chat is not None
        ):
            self._emit_opened()
            return
        chat = self._make_chat(conversation) if self._model is not None else None
        title = ""
        if chat is None and conversation is not None:
            assert self._library is not None
            title = self._library.conversation(conversation).title
        if self._chat is not None:
            self._chat.close()
        elif self._conversation is not None and self._library is not None:
            self._library.release(self._conversation)
        self._chat, self._conversation = chat, conversation
        self._emit_opened(title)

    def _emit_opened(self, title: str = "") -> None:
        """Emit `Opened` for the current conversation.

        Args:
            title: its title, needed only while there is no model and so no chat.
        """
        self._measure_due = True
        if self._chat is None:
            self._events.put(Opened(self._conversation, title, read_only=not self._claim()))
            return
        tree = self._chat.conversation
        self._events.put(Opened(tree.id or None, tree.title, read_only=self._chat.read_only))

    def _claim(self) -> bool:
        """Claim the current conversation for this window; False if another one has it."""
        if self._library is None or self._conversation is None:
            return True
        return self._library.claim(self._conversation)

    def _configure(self, settings: ChatSettings) -> None:
        """Set the settings of new conversations, and of the current one if it can be written."""
        self._settings = settings
        if self._chat is not None:
            if not self._chat.read_only:
                self._chat.configure(settings)
        elif self._conversation is not None and self._library is not None and self._claim():
            self._library.configure(self._conversation, settings)


class _CancelledError(Exception):
    """The running request is cancelled."""


def _user_message(error: BaseException) -> str:
    """The line for the user. An internal error names its type, for a bug report."""
    if isinstance(error, Qwen35Error):
        return str(error)
    if isinstance(error, MemoryError):
        return "the memory is used up: close other programs or start a new conversation"
    return f"internal error, please report it: {type(error).__name__}: {one_line(error)}"
