"""A conversation whose turns cost only their own tokens, and which survives its process."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message
from qwen35_mlx.library.library import Library
from qwen35_mlx.library.rows import storable
from qwen35_mlx.library.transcript import Transcript
from qwen35_mlx.prompt_cache.snapshots import SnapshotCache
from qwen35_mlx.session import compaction
from qwen35_mlx.session.anchors import PromptAnchors
from qwen35_mlx.session.events import Notice, PrefillProgress, TurnEvent, Written
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.recorder import TurnRecorder
from qwen35_mlx.session.turn import Turn
from qwen35_mlx.text.reply import message_from


class Chat:
    """A conversation with one model.

    The network's state is kept after each turn under the token ids that led to it. The next
    turn renders the whole conversation, and goes on from the longest of these prefixes, so that
    it equals a fresh prefill by construction.

    Args:
        library: where the conversation is kept, its states beside it; None for memory only.
        conversation: a stored one's id; None for a new one.
        system: the system prompt.
        thinking: whether the model thinks before it answers; None leaves it to its template.
        tools: function descriptions in JSON schema; they are not stored.
        sampling: over the model's defaults. A stored conversation brings its own settings; what
            is given here takes their place.

    Attributes:
        read_only: another window holds the conversation; turns are refused.

    Raises:
        Qwen35Error: the library cannot be used, or has no such conversation.
    """

    def __init__(
        self,
        model: Model,
        *,
        library: Library | None = None,
        conversation: int | None = None,
        system: str | None = None,
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **sampling: float | None,
    ):
        self.model = model
        self.tools = tools
        given = ChatSettings(system=system, thinking=thinking, sampling=sampling)
        # Claimed before it is read: another window may have just ended a turn of it.
        self.read_only = bool(
            library is not None and conversation is not None and not library.claim(conversation)
        )
        try:
            self._record = Transcript(library, conversation, given)
        except BaseException:
            if library is not None and conversation is not None and not self.read_only:
                library.release(conversation)
            raise
        settings = _merged(self.settings, given)
        if settings != self.settings and not self.read_only:
            self.configure(settings)
        self._library = library
        self._own_library = False
        self._kept = SnapshotCache()
        if library is not None:
            self._kept = SnapshotCache(model.open_states(library.folder))
        self._lines: list[str] = []

    @classmethod
    def open(
        cls,
        model: Model,
        name: int | str | None = None,
        *,
        library: Library | None = None,
        **options: Any,
    ) -> "Chat":
        """A stored conversation by its id, its title or how that begins; None: a new one.

        Args:
            library: None for the user's own, which is closed with the chat.
            options: as for `Chat`.

        Raises:
            Qwen35Error: there is no such conversation.
        """
        own = library is None
        library = library or Library()
        try:
            number = library.resolve(str(name)) if name is not None else None
            chat = cls(model, library=library, conversation=number, **options)
        except BaseException:
            if own:
                library.close()
            raise
        chat._own_library = own
        return chat

    @property
    def conversation(self) -> Conversation:
        """The whole tree as it is now; its id is 0 if it is in no library (yet)."""
        return self._record.tree

    @property
    def messages(self) -> tuple[Message, ...]:
        """The selected path, without the system prompt of the settings."""
        return self._record.tree.path()

    @property
    def settings(self) -> ChatSettings:
        return self._record.tree.settings

    @property
    def context_used(self) -> int:
        """Tokens of the conversation so far, of `model.context`."""
        return self.measured()[0]

    @property
    def context_cached(self) -> int:
        """How many of these are in memory or on disk."""
        return self.measured()[1]

    def measured(self) -> tuple[int, int]:
        """`context_used` and `context_cached`, for which the conversation is rendered once."""
        ids = self._ids_so_far()
        return len(ids), self._kept.longest(ids)

    def configure(self, settings: ChatSettings) -> None:
        """Change how the next turns are answered."""
        self._record.configure(settings)

    def send(
        self,
        content: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> Generator[TurnEvent]:
        """Add a message and stream the reply to it.

        Stop iterating (or close the iterator) to cancel: what was said so far stays in the
        conversation; if nothing was, the message is taken back.

        Args:
            content: the user's text; or messages of role "tool", the results of tool calls.
            max_tokens, seed: of this turn, in place of the settings'.

        Raises:
            Qwen35Error: the message is empty or does not fit the context; nothing is added then.
        """
        if isinstance(content, str):
            if not content.strip():
                raise Qwen35Error("the message is empty: write something")
            content = [{"role": "user", "content": content}]
        return self._turn(self.conversation.leaf, content, max_tokens, seed, stop)

    def retry(
        self, message: int | None = None, *, max_tokens: int | None = None, seed: int | None = None
    ) -> Generator[TurnEvent]:
        """Another reply in place of one, by default of the last; the old one stays in the tree.

        Args:
            message: the id of a reply.

        Raises:
            Qwen35Error: there is no such reply.
        """
        self._check_writable()
        tree = self.conversation
        if message is None:
            replies = [m.id for m in tree.path() if m.role == "assistant"]
            if not replies:
                raise Qwen35Error("there is no reply to write again: send a message first")
            message = replies[-1]
        reply = tree.message(message)
        if reply.role != "assistant":
            raise Qwen35Error(f"message {message} is not a reply: retry one that the model wrote")
        if reply.parent is None:
            raise Qwen35Error(f"message {message} answers nothing: send a message first")
        return self._turn(reply.parent, [], max_tokens, seed, ())

    def edit(
        self, message: int, text: str, *, max_tokens: int | None = None, seed: int | None = None
    ) -> Generator[TurnEvent]:
        """Another version of a user message, and a reply to it; the old path stays in the tree.

        Raises:
            Qwen35Error: there is no such message, or the text is empty or too long.
        """
        self._check_writable()
        edited = self.conversation.message(message)
        if edited.role != "user":
            raise Qwen35Error(f"message {message} is not yours to edit: choose one that you sent")
        if not text.strip():
            raise Qwen35Error("the message is empty: write something")
        return self._turn(edited.parent, [{"role": "user", "content": text}], max_tokens, seed, ())

    def branch(self, message: int | None) -> None:
        """Go back: the path ends at this message now, and the next one follows it.

        Args:
            message: None for the very start.

        Raises:
            Qwen35Error: there is no such message.
        """
        self._check_writable()
        if message is not None:
            self.conversation.message(message)
        self._record.select(message)

    def select(self, message: int) -> None:
        """Go to the path through a message, as far as it was last continued.

        Raises:
            Qwen35Error: there is no such message.
        """
        leaf = self.conversation.newest_leaf(self.conversation.message(message).id)
        if self.read_only:
            self._record.tree = self.conversation.with_leaf(leaf)
        else:
            self._record.select(leaf)

    def compact(self) -> Generator[PrefillProgress | Written]:
        """Have the model summarise the oldest turns, and go on from the summary.

        The summary and the newest turns are a path of their own; the old one stays in the tree.
        Nothing changes before the summary is complete.

        Raises:
            Qwen35Error: there is nothing to summarise, or no room for it.
        """
        self._check_writable()
        path = self.conversation.path()
        turn, cut = compaction.begin(self.model, self.conversation, self.tools)
        return self._compact(turn, path, cut)

    def _compact(
        self, turn: Turn, path: Sequence[Message], cut: int
    ) -> Generator[PrefillProgress | Written]:
        self._kept.resume(turn.prompt, turn.cache)
        for event in turn.run():
            # The summary itself shows when it is complete; each token is a chance to stop.
            yield event if isinstance(event, PrefillProgress) else Written(len(turn.reply))
        summary = message_from(turn.parts)["content"]
        if not summary:
            raise Qwen35Error("the model wrote no summary: try again, or start a new conversation")
        self._record.add_all(compaction.summarised(self.settings.system, path, cut, summary))

    def notices(self) -> list[str]:
        """Lines for the user since the last call that no turn has brought."""
        lines = [*self._lines, *(self._kept.states.notices() if self._kept.states else ())]
        self._lines.clear()
        return lines

    def close(self) -> None:
        """Finish writing, and let other windows have the conversation."""
        if self._kept.states is not None:
            self._kept.states.flush()
        if not self.read_only:
            self._record.close()
        if self._own_library and self._library is not None:
            self._library.close()

    def _check_writable(self) -> None:
        if self.read_only:
            raise Qwen35Error(
                "this conversation is open in another window: close it there, or start a new one"
            )

    def _ids_so_far(self) -> list[int]:
        messages = self.conversation.for_template()
        if not messages:
            return []
        try:
            if all(message["role"] == "system" for message in messages):
                return self._prompts().opening(messages)  # templates want a question
            return self.model.ids(
                messages, thinking=self.settings.thinking, tools=self.tools, reply=False
            )
        except Qwen35Error:  # nothing that could be sent: an imported path without a question
            return []

    def _turn(
        self,
        parent: int | None,
        added: Sequence[Mapping[str, Any]],
        max_tokens: int | None,
        seed: int | None,
        stop: str | Sequence[str],
    ) -> Generator[TurnEvent]:
        """A reply to the path that ends at `parent`, and these messages after it."""
        self._check_writable()
        settings = self.settings
        # As the library keeps it, so that a restart reads the same.
        added = [{**message, "content": storable(message["content"])} for message in added]
        before = self._start() if parent is None else self.conversation.for_template(parent)
        messages = [*before, *added]
        turn = self.model.turn(
            messages,
            self.model.make_cache(),
            max_tokens=max_tokens or settings.max_tokens,
            seed=settings.seed if seed is None else seed,
            thinking=settings.thinking,
            tools=self.tools,
            stop=stop,
            sampling=settings.sampling,
        )
        return self._run(turn, messages, parent, added)

    def _start(self) -> list[dict[str, Any]]:
        """What comes before a first message."""
        system = self.settings.system
        return [] if system is None else [{"role": "system", "content": system}]

    def _run(
        self,
        turn: Turn,
        messages: Sequence[Mapping[str, Any]],
        parent: int | None,
        added: Sequence[Mapping[str, Any]],
    ) -> Generator[TurnEvent]:
        answering = TurnRecorder(
            turn, messages, self._record, self._kept, self._prompts(), self._lines
        )
        done = yield from answering.run(parent, added, self.model.name)
        for line in self.notices():
            yield Notice(line)
        yield done

    def _prompts(self) -> PromptAnchors:
        return PromptAnchors(self._probe, bool(self.tools))

    def _probe(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return self.model.ids(messages, thinking=self.settings.thinking, tools=self.tools)


def _merged(stored: ChatSettings, given: ChatSettings) -> ChatSettings:
    """Settings of a conversation, with those that were given in their place."""
    sampling = {**stored.sampling, **{n: v for n, v in given.sampling.items() if v is not None}}
    return ChatSettings(
        system=stored.system if given.system is None else given.system,
        thinking=stored.thinking if given.thinking is None else given.thinking,
        max_tokens=stored.max_tokens,
        seed=stored.seed,
        sampling=sampling,
    )
