"""The engine: one thread that loads the model and runs every turn.

MLX arrays, random state and compiled functions belong to the thread that made them. Requests go in
through a queue, and only events come out.
"""

import queue
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.lifetime import Owner, close_at_exit
from qwen35_mlx.session.blas import BlasHint
from qwen35_mlx.session.chat_settings import merged_settings
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
from qwen35_mlx.session.job import failure
from qwen35_mlx.session.loaded_model import LoadedModel, LoadOptions
from qwen35_mlx.session.lost_processes import LossWatch
from qwen35_mlx.session.mlx_thread import CLOSE_SECONDS, mlx_thread
from qwen35_mlx.session.requests import (
    AddResults,
    Compact,
    Configure,
    Continue,
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
    from qwen35_mlx.distributed.place import Place
    from qwen35_mlx.library.library import Library
    from qwen35_mlx.session.chat import Chat
    from qwen35_mlx.session.model import Model

# Wait for further requests before measuring a conversation: a long one takes about a second and
# holds the GIL.
MEASURE_DELAY_SECONDS = 0.3


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
        context, kv_bits, mtp, adapter_path, place: see `LoadOptions`.
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
        place: "Place | None" = None,
    ):
        self._first = UseModel(model, revision) if model is not None else None
        self._settings = settings or ChatSettings()
        self._library = library
        self._requests: queue.SimpleQueue[tuple[int, Request] | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        if library is not None:
            library.report_to(self._emit_notice)
        self._submitted = 0  # requests are numbered from 1
        self._cancelled = 0  # requests up to this number are cancelled
        self._closed = False
        self._owner = Owner()
        self._started = False
        self._watch = LossWatch(self._abandon, self._events.put)
        # Used by the engine's thread only:
        self._request_number = 0  # of the running request
        self._loaded = LoadedModel(
            LoadOptions(budget, context, kv_bits, mtp, adapter_path, place),
            self._first,
            library,
            self._report_loading,
            self._emit_notice,
            self._watch.lost,
        )
        self._chat: Chat | None = None
        self._conversation: int | None = None  # the current one, also without a chat
        self._tools: Sequence[Mapping[str, Any]] = ()  # that are offered to the model
        self._blas_hint = BlasHint()
        self._measure_due = False  # a conversation was opened and not measured yet
        self._end = ""  # why the thread ended
        self._thread = self._new_thread()

    def start(self) -> None:
        if self._first is not None:
            self.submit(self._first)
        self._thread.start()
        self._started = True
        close_at_exit(self)

    def submit(self, request: Request) -> None:
        if not isinstance(request, Request):  # the thread would pass over it without a word
            raise TypeError(f"{type(request).__name__} is no request")
        self._owner.check_process("this engine")
        if self._watch.abandoned:
            self._events.put(Failed(self._watch.abandoned))
            return
        self._submitted += 1
        self._requests.put((self._submitted, request))

    def cancel(self) -> None:
        self._cancelled = self._submitted
        self._loaded.give_up_stalled()

    def poll(self) -> list[Event]:
        events: list[Event] = []
        if self._started and not self._finished and not self._thread.is_alive():
            self._owner.check_process("this engine")
            self._restart()
        with suppress(queue.Empty):
            while True:
                events.append(self._events.get_nowait())
        return events

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.cancel()
        self._requests.put(None)
        if self._thread.is_alive() and not self._watch.abandoned:
            # A load cannot be interrupted: the thread then ends with the process.
            self._thread.join(CLOSE_SECONDS)

    @property
    def _finished(self) -> bool:
        """Whether no thread should take requests any more."""
        return self._closed or bool(self._watch.abandoned)

    def _new_thread(self) -> threading.Thread:
        return mlx_thread(self._run, self._end_thread, lambda line: setattr(self, "_end", line))

    def _restart(self) -> None:
        """Start another thread in place of one that has ended; what it held is gone with it."""
        self._loaded.model = self._chat = None
        self._events.put(Failed(f"the engine ended and was started again: try again ({self._end})"))
        self._thread = self._new_thread()
        self._thread.start()

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            self._request_number, request = entry
            # Results of tools are stored, however late: what a tool has done is done.
            if not self._closed or isinstance(request, AddResults):
                with self._watch.request():
                    self._handle(request)

    def _next(self) -> tuple[int, Request] | None:
        """Wait for a request and its number; None at the end."""
        if self._measure_due and self._loaded.model is not None:
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
                case Open(conversation, settings):
                    self._open(conversation, settings)
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
                case Retry(message, options):
                    self._stream(self._current_chat().retry(message, **options))
                case Continue(message, text):
                    self._stream(self._current_chat().continue_reply(message, text))
                case Edit(message, text):
                    self._stream(self._current_chat().edit(message, text))
        except _CancelledError:
            self._watch.emit(Cancelled())
        # Foreign code raises more than `Exception`: a panic of a Rust library is none.
        except BaseException as error:
            self._watch.emit(failure(error, "internal"))
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
            if hint := self._blas_hint.after(event):
                self._events.put(hint)
            self._events.put(event)
            if self._request_number <= self._cancelled and not isinstance(event, Done):
                events.close()
                raise _CancelledError

    def _load(self, request: UseModel) -> None:
        """Load a model in place of the loaded one, which stays if the new one is not found."""
        self._loaded.find(request)
        self._check_cancelled()
        self._unload()
        model = self._loaded.load(request)
        self._watch.fits = self._loaded.fits
        if self._loaded.joined is not None:
            self._events.put(self._loaded.joined)
        self._events.put(Loaded(model.name, model.context, model.template_arguments))

    def _report_loading(self, event: Loading) -> None:
        self._check_cancelled()
        self._events.put(event)

    def _emit_notice(self, line: str) -> None:
        self._events.put(Notice(line))

    def _unload(self) -> None:
        """Free the model's memory."""
        self._close_chat()
        self._loaded.unload()

    def _end_thread(self) -> None:
        """Free the model's memory, and end the other processes that run it."""
        self._close_chat()
        self._loaded.close()

    def _close_chat(self) -> None:
        if self._chat is not None:
            self._chat.close()
            self._chat = None

    def _abandon(self, line: str) -> None:
        """Save the running reply while the engine's thread hangs; see `LossWatch`."""
        if (chat := self._chat) is not None and (recorder := chat.recorder) is not None:
            recorder.abandon(line)

    def _loaded_model(self) -> "Model":
        """The model, loaded (again) if necessary."""
        if self._loaded.model is None:
            if self._loaded.wanted is None:
                raise Qwen35Error("no model is loaded: choose one first")
            self._load(self._loaded.wanted)
        assert self._loaded.model is not None
        return self._loaded.model

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

    def _tool_messages(self, results: Sequence[str]) -> list[dict[str, Any]]:
        from qwen35_mlx.session.results import tool_messages

        return tool_messages(self._loaded_model(), results)

    def _open(self, conversation: int | None, given: ChatSettings | None = None) -> None:
        """Open a conversation. Its snapshot is restored at the next turn, so opening is quick.

        Args:
            given: settings that replace its own, but for those that are None.
        """
        if conversation is not None and self._library is None:
            raise Qwen35Error("conversations are not kept here: give the engine a library")
        if (
            conversation is not None
            and conversation == self._conversation
            and self._chat is not None
        ):
            self._replace_settings(given)
            self._emit_opened()
            return
        chat = self._make_chat(conversation) if self._loaded.model is not None else None
        title = ""
        if chat is None and conversation is not None:
            assert self._library is not None
            title = self._library.conversation(conversation).title
        if self._chat is not None:
            self._chat.close()
        elif self._conversation is not None and self._library is not None:
            self._library.release(self._conversation)
        self._chat, self._conversation = chat, conversation
        self._replace_settings(given)
        self._emit_opened(title, read=True)

    def _emit_opened(self, title: str = "", *, read: bool = False) -> None:
        """Emit `Opened` for the current conversation.

        Args:
            title: its title, needed only while there is no model and so no chat.
            read: whether the chat has just read it. Later, its draft may be an older one.
        """
        self._measure_due = True
        if self._chat is None:
            self._events.put(Opened(self._conversation, title, read_only=not self._claim()))
            return
        tree = self._chat.conversation
        stored = tree if read and tree.id else None
        self._events.put(Opened(tree.id or None, tree.title, self._chat.read_only, stored))

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

    def _replace_settings(self, given: ChatSettings | None) -> None:
        """Replace those of the current conversation, if it is stored and can be written."""
        if given is None:
            return
        if self._chat is not None:
            if not self._chat.read_only:
                self._chat.configure(merged_settings(self._chat.settings, given))
        elif self._conversation is not None and self._library is not None and self._claim():
            stored = self._library.conversation(self._conversation).settings
            self._library.configure(self._conversation, merged_settings(stored, given))


class _CancelledError(Exception):
    """The running request is cancelled."""
