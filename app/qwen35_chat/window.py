"""What a window has: an engine, a library, settings, a conversation, a model."""

import time
from collections.abc import Callable
from typing import Literal

from qwen35_chat.commands import keys_for_people, slash_for_people
from qwen35_chat.disk_calls import DiskCalls, InlineCalls
from qwen35_chat.download import Download
from qwen35_chat.drafts import Drafts
from qwen35_chat.history import History
from qwen35_chat.running_turn import RunningTurn
from qwen35_chat.settings import Settings
from qwen35_chat.settings_file import SettingsFile
from qwen35_chat.stats import Totals
from qwen35_chat.tokens import TokenCounter
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings, Usage
from qwen35_mlx.library.library import Library
from qwen35_mlx.session import events, requests
from qwen35_mlx.session.engine_protocol import Engine

# How full the context is when a summary of the oldest turns makes room for a message.
CROWDED = 0.85
ModelStatus = Literal["loading", "loaded", "absent", "failed"]


class Window:
    """One window: one conversation at a time, one model.

    Args:
        seed: makes replies reproducible; None for a random one.
        clock: seconds, for what is timed in a turn.

    Attributes:
        calls: where calls that may wait are made; inline, unless the view replaces it.
        drafts: what is typed and not sent.
        tokens: counts those of texts; for the lane of models alone.
        history: messages sent before.
        conversation: its id in the library; None for a new one.
        read_only: another window holds the conversation.
        turn: the turn or summary that is running; None while there is none.
        queue: messages to send after that turn.
        persona: that holds in the conversation; "" for none.
        model, context, model_status: the model; "absent" is unloaded, or its load was stopped.
        load_progress: the latest of the load that is running or was last.
        used: tokens of the conversation; cached: those of them that need no prefill.
        usage, accepted: of the last turn; totals: of all since the start.
        download: of a model, while one runs.
        deleted: conversations deleted in this window, the last one last.
        deleting: the current conversation is being deleted.
        alone: the chat starts again, without other processes that run the model.
        lost: one of several processes is lost that ran the model.
        processes: that run the model together; None for this one alone, or before they have met.
        has_keys: the view has keys for commands; without, their slash names are named.
    """

    def __init__(
        self,
        engine: Engine,
        library: Library,
        settings: SettingsFile,
        history: History | None = None,
        *,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.engine = engine
        self.library = library
        self.settings_file = settings
        self.history = history or History()
        self.calls: DiskCalls = InlineCalls()
        self.drafts = Drafts(library)
        self.tokens = TokenCounter()
        self.conversation: int | None = None
        self.title = ""
        self.read_only = False
        self.turn: RunningTurn | None = None
        self.queue: list[str] = []
        self.persona = ""
        self.model = settings.settings.model
        self.model_status: ModelStatus = "loading"  # from the start on
        self.load_progress: events.Loading | None = None
        self.context = 0
        self.template_arguments: tuple[str, ...] = ()  # that the loaded model's template reads
        self.used = 0
        self.cached = 0
        self.usage: Usage | None = None
        self.accepted: events.DraftCounts | None = None
        self.totals = Totals()
        self.download: Download | None = None
        self.deleted: list[int] = []
        self.deleting = False
        self.alone = False
        self.lost = False
        self.processes: events.ProcessesJoined | None = None
        self.has_keys = True
        self._seed = seed
        self._clock = clock
        self._given: ChatSettings | None = None  # replaces settings of what is opened next
        self._configured: ChatSettings | None = None  # what the engine was given last
        self._model_before = ""  # stays if the load that is running fails
        self._model_to_keep = ""  # goes into the settings once it is loaded
        self._awaited: tuple[type[events.Event], ...] = ()  # one of these ends a request
        self._selected: int | None = None  # the message that a request goes to

    @property
    def settings(self) -> Settings:
        return self.settings_file.settings

    @property
    def busy(self) -> bool:
        """A turn or a summary is running."""
        return self.turn is not None

    @property
    def compacting(self) -> bool:
        """A summary is running."""
        return self.turn is not None and self.turn.summary

    @property
    def stopping(self) -> bool:
        return self.turn is not None and self.turn.stopping

    @property
    def loading(self) -> bool:
        return self.model_status == "loading"

    @property
    def loaded(self) -> bool:
        return self.model_status == "loaded"

    @property
    def failed(self) -> bool:
        """The model could not be loaded, and there is no other."""
        return self.model_status == "failed"

    @property
    def awaiting(self) -> bool:
        """The engine has yet to end a request that is neither a turn nor a load."""
        return bool(self._awaited)

    @property
    def pending(self) -> bool:
        """The engine has yet to end a turn, a load or another request."""
        return self.busy or self.loading or self.awaiting

    def room(self, *, edit: bool) -> int | None:
        """The tokens that are left in the context; None if that is not known.

        Args:
            edit: for another version of a message, which some of the conversation makes way for.
        """
        if not self.context:
            return None
        return self.context - (0 if edit else self.used)

    @property
    def crowded(self) -> bool:
        """Whether the context has little room for another turn."""
        thinking = self.usage.reasoning_tokens if self.usage is not None else 0
        # The next prompt is without the thinking of the last reply.
        return bool(self.context) and self.used - (thinking or 0) >= CROWDED * self.context

    @property
    def may_compact(self) -> bool:
        """Whether a summary of the oldest turns makes room for a message by itself."""
        return self.settings.auto_compact == "on" and self.conversation is not None

    def compact(self, *, automatic: bool = False) -> None:
        """Replace the oldest turns by a summary.

        Args:
            automatic: for the message that is first in the queue.
        """
        self.require_writable()
        self.require_idle()
        if self.conversation is None:
            raise Qwen35Error("there is nothing to compact yet")
        self.turn = RunningTurn(self._clock, summary=True, automatic=automatic)
        self.engine.submit(requests.Compact())

    def _ways_to_room(self) -> str:
        """The commands that make room in the context."""
        keys = {name: self.key(name) for name in ("compact", "new")}
        compact, new = (f"/{n}" if k == f"/{n}" else f"/{n} ({k})" for n, k in keys.items())
        return f"{compact} sums up the oldest turns, {new} begins another conversation."

    def key(self, name: str, most: int = 1) -> str:
        """The first keys of a command, at most `most`, for people."""
        if not self.has_keys:
            return slash_for_people(name)
        return keys_for_people(name, self.settings.keys, most)

    def _request(self, request: requests.Request, end: type[events.Event]) -> None:
        """Ask the engine for something that is no turn and ends in an event of this type."""
        self._awaited = (end, events.Failed, events.Cancelled)
        self.engine.submit(request)

    def require_idle(self) -> None:
        if self.busy:
            raise Qwen35Error(f"a reply is being written: {self.key('stop')} stops it")

    def require_stored(self) -> int:
        """The id of the conversation, which must have a message."""
        if self.conversation is None:
            raise Qwen35Error("this conversation has no message yet")
        return self.conversation

    def require_writable(self) -> None:
        if self.library.read_only:
            raise Qwen35Error("the library cannot be written: make room, or set QWEN35_HOME")
        if self.read_only:
            new = self.key("new")
            raise Qwen35Error(
                f"this conversation is open in another window: {new} begins a new one"
            )
        if self.deleting:
            new = self.key("new")
            raise Qwen35Error(f"this conversation is being deleted: {new} begins a new one")

    @property
    def own_prompt(self) -> str:
        """What the conversation has instead of the settings' system prompt; "" for nothing."""
        return self.persona or "its own" if self.settings_file.held.get("system") else ""

    def save_draft(self, text: str) -> None:
        """Store the draft of the conversation soon. Errors become a `Problem`."""
        if not self.read_only:
            self.drafts.note(self.conversation, text)
            self.write_drafts()

    def write_drafts(self) -> None:
        """Store the drafts that are not stored yet."""
        self.calls.start("library", self.drafts.write)

    async def draft(self) -> str:
        """What was typed in the conversation and not sent."""
        if self.read_only:
            return ""
        return await self.calls.run("reads", self.drafts.read, self.conversation)

    def remember(self, text: str) -> None:
        """Add a message to the history. Errors become a `Problem`."""
        self.calls.start("files", self.history.add, text)
