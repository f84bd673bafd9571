"""What the screen and the linear mode have in common: an engine, the library, the settings.

Knows neither Textual nor MLX. Calls come from one thread.
"""

from dataclasses import replace

from qwen35_chat.download import Download
from qwen35_chat.history import History
from qwen35_chat.merging import merged
from qwen35_chat.settings import Settings
from qwen35_chat.settings_file import SettingsFile
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Conversation, FinishReason, Message, Usage
from qwen35_mlx.library.library import ConversationSummary, Library
from qwen35_mlx.session.engine import Engine
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Done,
    Event,
    Failed,
    Loaded,
    Loading,
    Measured,
    Opened,
    PrefillProgress,
    Thinking,
    Titled,
    TurnStarted,
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
    UseModel,
)
from qwen35_mlx.session.requests import Unload as UnloadRequest

END_NOTES: dict[FinishReason, str] = {
    "stop": "",
    "length": "Cut short: the reply reached the limit of tokens. Ask it to go on.",
    "tool_calls": "The model asks for a tool; this chat has none.",
}


class Controller:
    """One window: one conversation at a time, one model.

    Args:
        seed: for the same replies again.

    Attributes:
        conversation: its id in the library; None for a new one.
        read_only: another window has the conversation.
        busy: a turn or a summary was asked for and has not ended.
        compacting: it is a summary.
        started: that turn's messages are in the library.
        queue: messages that wait for the turn to end.
        model, context, loading, loaded, failed: the model, and whether it is on its way, there, or
            could not be loaded.
        used: tokens of the conversation; cached: how many of them needed no prefill last time.
        download: of a model, while one runs.
        pieces: of text that the running turn has given: about as many as tokens.
    """

    def __init__(
        self,
        engine: Engine,
        library: Library,
        settings: SettingsFile,
        history: History | None = None,
        *,
        seed: int | None = None,
    ):
        self.engine = engine
        self.library = library
        self.file = settings
        self.past = history or History()
        self.conversation: int | None = None
        self.title = ""
        self.read_only = False
        self.busy = False
        self.compacting = False
        self.started: TurnStarted | None = None
        self.queue: list[str] = []
        self.model = settings.settings.model
        self.context = 0
        self.loading = False
        self.loaded = False
        self.failed = False
        self.used = 0
        self.cached = 0
        self.pieces = 0
        self.usage: Usage | None = None
        self._seed = seed
        self.download: Download | None = None
        self._before = ""  # the model that is there until the next one is
        self._to_keep = ""  # the model that the settings are to name once it is there
        self._deleted: list[int] = []
        self._stopping = False

    @property
    def settings(self) -> Settings:
        return self.file.settings

    @property
    def stopping(self) -> bool:
        return self._stopping

    # The engine

    def start(self, conversation: int | None = None) -> None:
        """Load the model, and open a conversation if one is named."""
        self.engine.submit(Configure(self.settings.chat_settings(self._seed)))
        if conversation is not None:
            self.engine.submit(Open(conversation))
        self.loading = True
        self.engine.start()

    def poll(self) -> list[Event]:
        """What has happened since the last call, merged; this object knows of it then."""
        if self._stopping:
            # Again: a turn that had not begun when it was first told has not heard it.
            self.engine.cancel()
        raw = self.engine.poll()
        self.pieces += sum(isinstance(event, Answer | Thinking) for event in raw)
        return list(merged(raw))

    def take(self, event: Event) -> None:
        """Keep what an event says about the window; call it with each, in order."""
        match event:
            case Loading():
                self.loading, self.failed = True, False
            case Loaded(model, context):
                self.model, self.context = model, context
                self.loading, self.loaded, self.failed = False, True, False
                self._before = ""
            case Unloaded():
                self.loaded = False
            case Opened(conversation, title, read_only):
                if conversation != self.conversation:
                    self.usage = None
                self.conversation, self.title, self.read_only = conversation, title, read_only
                self.used = self.cached = 0
                if self.compacting:
                    self._end()
            case Measured(conversation, used, cached) if conversation == self.conversation:
                self.used, self.cached = used, cached
            case TurnStarted(conversation):
                self.conversation = conversation
                self.started = event
            case Titled(conversation, title) if conversation == self.conversation:
                self.title = title
            case PrefillProgress(_, total, cached):
                self.used, self.cached = total, cached
            case Done(_, usage):
                self.usage = usage
                self.used = usage.prompt_tokens + usage.reply_tokens
                self._end()
            case Cancelled():
                self._not_loaded()
                self._end()
            case Failed(_):
                if self.loading and not self._before:
                    self.failed = True
                self._not_loaded()
                self._end()
            case _:
                pass

    def _not_loaded(self) -> None:
        """A load that has come to nothing leaves the model that was there, if there was one."""
        if self.loading and self._before:
            self.model, self.loaded = self._before, True
        self.loading = False
        self._before = self._to_keep = ""

    def _end(self) -> None:
        self.busy = self.compacting = self._stopping = False
        self.started = None

    def _turn(self, request: Request) -> None:
        if self.read_only:
            raise Qwen35Error(
                "this conversation is open in another window: Ctrl+N begins a new one"
            )
        if self.busy:
            raise Qwen35Error("a reply is being written: Esc stops it")
        self.busy = True
        self.pieces = 0
        self.engine.submit(request)

    def send(self, text: str) -> None:
        self._turn(Send(text))

    def stop(self) -> None:
        """Stop the turn, however far it is; or the model that is being loaded."""
        if self.busy:
            self._stopping = True
        if self.busy or self.loading:
            self.engine.cancel()

    def use_model(self, model: str) -> None:
        """Load a model instead of the present one, which stays if that comes to nothing."""
        self._must_be_idle()
        self._before = self.model if self.loaded else self._before
        self._to_keep = model
        self.model, self.loading, self.loaded, self.failed = model, True, False, False
        self.engine.submit(UseModel(model))

    def keep_model(self) -> None:
        """Begin with this model the next time, too, if it was chosen here and is there now.

        Raises: as `SettingsFile.set`.
        """
        if self._to_keep == self.model and self.loaded:
            self._to_keep = ""
            self.file.set("model", self.model)

    def end_of_download(self) -> Download | None:
        """The download that has ended since; it is told once."""
        ended = self.download
        if ended is None or ended.running:
            return None
        self.download = None
        return ended

    def unload(self) -> None:
        self._must_be_idle()
        self.engine.submit(UnloadRequest())

    def compact(self) -> None:
        self._must_be_idle()
        if self.conversation is None:
            raise Qwen35Error("there is nothing to compact yet")
        self.busy = self.compacting = True
        self.engine.submit(Compact())

    def configure(self, name: str, value: object) -> Settings:
        """Change a setting for good. Errors: `SettingsFile.set`."""
        settings = self.file.set(name, value)
        self.engine.submit(Configure(settings.chat_settings(self._seed)))
        return settings

    def reload(self) -> bool:
        """Read the settings again if the file has changed.

        Raises:
            Qwen35Error: something in it is wrong; the settings stay as they were.
        """
        if not self.file.changed():
            return False
        self.engine.submit(Configure(self.file.load().chat_settings(self._seed)))
        return True

    # Conversations

    def open(self, conversation: int | None) -> None:
        self._must_be_idle()
        self.engine.submit(Open(conversation))

    def stored(self) -> Conversation | None:
        """The conversation as the library has it; None for a new one."""
        if self.conversation is None:
            return None
        return self.library.conversation(self.conversation)

    def retry(self, message: int | None = None) -> Message:
        """Another reply instead of a reply, or to a user message; of None: the last one.

        Returns:
            The user message that is answered.
        """
        stored = self._must_have_messages()
        found = stored.message(message) if message else stored.path()[-1]
        if found.role == "user":
            replies = stored.children(found.id)
            if not replies:
                raise Qwen35Error("this message has no reply yet: send it again")
            found = stored.message(replies[-1])
        self._turn(Retry(found.id))
        assert found.parent is not None
        return stored.message(found.parent)

    def edit(self, message: int, text: str) -> None:
        self._turn(Edit(message, text))

    def last_asked(self, message: int | None = None) -> Message:
        """The last user message up to `message`, or of all."""
        stored = self._must_have_messages()
        for found in reversed(stored.path(message)):
            if found.role == "user":
                return found
        raise Qwen35Error("there is no message of yours yet")

    def after(self, message: int) -> Message | None:
        """What follows a message on the selected path."""
        path = self._must_have_messages().path()
        ids = [found.id for found in path]
        at = ids.index(message) + 1 if message in ids else len(ids)
        return path[at] if at < len(path) else None

    def sibling(self, step: int, message: int | None = None) -> int:
        """Go to another version: of `message`, or of the last that has several; its id."""
        self._must_be_idle()
        stored = self._must_have_messages()
        if message is None:
            several = [m.id for m in stored.path() if len(stored.siblings(m.id)) > 1]
            if not several:
                raise Qwen35Error("there is only one version of every message here")
            message = several[-1]
        versions = stored.siblings(message)
        to = versions.index(message) + step
        if not 0 <= to < len(versions):
            which, total = stored.position(message)
            raise Qwen35Error(f"this is version {which} of {total}")
        self.engine.submit(Select(versions[to]))
        return versions[to]

    def rename(self, title: str, conversation: int | None = None) -> str:
        conversation = conversation or self._must_be_stored()
        given = self.library.rename(conversation, title)
        if conversation == self.conversation:
            self.title = given
        return given

    def delete(self, conversation: int | None = None) -> str:
        """Delete a conversation; its title. If it is the open one, a new one follows."""
        conversation = conversation or self._must_be_stored()
        here = conversation == self.conversation
        if here:
            self._must_be_idle()
            if self.read_only:
                raise Qwen35Error("this conversation is open in another window: delete it there")
        title = self.library.conversation(conversation).title
        self.library.delete(conversation)
        self._deleted.append(conversation)
        if here:
            self.open(None)
        return title

    def undelete(self) -> ConversationSummary:
        """Bring back what was deleted last."""
        found = self.library.deleted()
        mine = [s for wanted in reversed(self._deleted) for s in found if s.id == wanted]
        if not (mine or found):
            raise Qwen35Error("nothing was deleted since the start")
        back = (mine or list(found))[0]
        self.library.undelete(back.id)
        if back.id in self._deleted:
            self._deleted.remove(back.id)
        return replace(back)

    def save_draft(self, text: str) -> None:
        if not self.read_only:
            self.library.save_draft(self.conversation, text)

    def draft(self) -> str:
        return "" if self.read_only else self.library.draft(self.conversation)

    def _must_be_idle(self) -> None:
        if self.busy:
            raise Qwen35Error("a reply is being written: Esc stops it")

    def _must_be_stored(self) -> int:
        if self.conversation is None:
            raise Qwen35Error("this conversation has no message yet")
        return self.conversation

    def _must_have_messages(self) -> Conversation:
        stored = self.stored()
        if stored is None or stored.leaf is None:
            raise Qwen35Error("this conversation has no message yet")
        return stored
