"""`Chat`: a conversation in which each turn costs only its own tokens, stored in a library."""

import weakref
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

from qwen35_mlx.arguments import checked
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.drafts import CopyDrafts
from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message
from qwen35_mlx.library.library import Library
from qwen35_mlx.library.rows import replace_surrogates
from qwen35_mlx.library.transcript import Transcript
from qwen35_mlx.lifetime import close_at_exit
from qwen35_mlx.prompt_cache.snapshots import SnapshotCache
from qwen35_mlx.session import compaction
from qwen35_mlx.session.anchors import PromptAnchors
from qwen35_mlx.session.chat_settings import checked_settings, merged_settings
from qwen35_mlx.session.events import Notice, PrefillProgress, TurnEvent, Written
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.recorder import TurnRecorder
from qwen35_mlx.session.turn import Turn
from qwen35_mlx.session.turn_events import TurnEvents
from qwen35_mlx.text.messages import plain_message, plain_tools

_Event = TypeVar("_Event")


@checked
class Chat:
    """A conversation with one model.

        chat = qwen35_mlx.Chat(qwen35_mlx.load("demo"))
        for event in chat.send("My name is Ada."):
            if isinstance(event, qwen35_mlx.Answer):
                print(event.text, end="")

    A snapshot of the network's cache is stored after each turn, under the token ids that led to
    it. The next turn renders the whole conversation, restores the snapshot of the longest prefix
    and prefills the rest, so it equals a fresh prefill by construction.

    It belongs to the thread of its model. One reply is written at a time: take the events of a turn
    to the end, or close them, before the next. `close` the chat after use, or use it in a `with`
    statement; what is still open when Python exits is closed then.

    Args:
        library: where the conversation and its snapshots are stored; None for memory only.
        conversation: the id of a stored one; None for a new one.
        system: the system prompt.
        thinking: whether the model thinks before it answers; None leaves it to the template.
        tools: function descriptions in JSON schema; they are not stored.
        sampling: in place of the model's defaults. A stored conversation has its own settings;
            those given here replace them.

    Attributes:
        read_only: another window has the conversation open, and turns are refused.

    Raises:
        Qwen35Error: the library cannot be used, or has no such conversation; from every method, an
            argument does not fit, or the caller is in another thread or a forked process.
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
        model.owner.check("this model")
        if conversation is not None and library is None:
            raise Qwen35Error(f"conversation {conversation} is in a library: give that, too")
        self.model = model
        self.tools = None if tools is None else plain_tools(tools)
        given = ChatSettings(system=system, thinking=thinking, sampling=sampling)
        given = checked_settings(given, model.sampling)
        # Claimed before it is read: another window may have finished a turn of it just now.
        self.read_only = bool(
            library is not None and conversation is not None and not library.claim(conversation)
        )
        try:
            self._transcript = Transcript(library, conversation, given)
        except BaseException:
            if library is not None and conversation is not None and not self.read_only:
                library.release(conversation)
            raise
        settings = merged_settings(self.settings, given)
        if settings != self.settings and not self.read_only:
            self.configure(settings)
        self._library = library
        self._own_library = False
        self._snapshots = SnapshotCache()
        if library is not None:
            self._snapshots = SnapshotCache(model.open_states(library.folder))
        self._copies = CopyDrafts()
        self._notices: list[str] = []
        self._closed = False
        self._events: weakref.ref[TurnEvents[Any]] | None = None  # of the last turn
        close_at_exit(self)

    def __enter__(self) -> "Chat":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def open(
        cls,
        model: Model,
        name: int | str | None = None,
        *,
        library: Library | None = None,
        **options: Any,
    ) -> "Chat":
        """Open a stored conversation.

        Args:
            name: its id, its title or the start of its title; None for a new conversation.
            library: None for the user's own, which is closed with the chat.
            options: as for `Chat`.

        Raises:
            Qwen35Error: there is no such conversation.
        """
        own = library is None
        library = library or Library()
        try:
            number = None if name is None else library.resolve(str(name))
            chat = cls(model, library=library, conversation=number, **options)
        except BaseException:
            if own:
                library.close()
            raise
        chat._own_library = own
        return chat

    @property
    def conversation(self) -> Conversation:
        """The whole tree as it is now. Its id is 0 if it is not in a library (yet)."""
        return self._transcript.tree

    @property
    def messages(self) -> tuple[Message, ...]:
        """The selected path, without the system prompt of the settings."""
        return self._transcript.tree.path()

    @property
    def settings(self) -> ChatSettings:
        return self._transcript.tree.settings

    @property
    def context_used(self) -> int:
        """Number of tokens of the conversation so far; at most `model.context` fit."""
        return self.measured()[0]

    @property
    def context_cached(self) -> int:
        """How many of these are in the prompt cache, in memory or on disk."""
        return self.measured()[1]

    def measured(self) -> tuple[int, int]:
        """`context_used` and `context_cached`, with a single rendering."""
        self.model.owner.check("this chat")
        ids = self._ids_so_far()
        return len(ids), self._snapshots.longest_prefix(ids)

    def configure(self, settings: ChatSettings) -> None:
        """Change the settings of the next turns."""
        self._transcript.configure(checked_settings(settings, self.model.sampling))

    def send(
        self,
        content: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> Generator[TurnEvent]:
        """Add a message and stream the reply to it.

        Close the iterator, or drop it, to cancel. The reply so far stays in the conversation; if it
        is empty, the message is taken back.

        Args:
            content: the user's text; or messages of role "tool", the results of tool calls.
            max_tokens, seed: for this turn, in place of the settings'.
            stop: strings that end the reply; they do not appear in it.

        Raises:
            Qwen35Error: the message is empty or does not fit the context, or another reply is
                still being written; nothing is added then.
        """
        self._check_writable()
        if isinstance(content, str):
            if not content.strip():
                raise Qwen35Error("the message is empty: write something")
            content = [{"role": "user", "content": content}]
        _check_results(content)
        return self._turn(self.conversation.leaf, content, max_tokens, seed, stop)

    def add_results(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Add the results of tool calls at the end of the path, without a reply.

        Args:
            messages: as `send` takes them.

        Raises:
            Qwen35Error: a message does not fit, or a reply is still being written; nothing is
                added then.
        """
        self._check_writable()
        _check_results(messages)
        transcript, parent = self._transcript, self.conversation.leaf
        with transcript.transaction():
            for message in messages:
                content = replace_surrogates(message["content"])
                parent = transcript.add(Message(0, parent, message["role"], content)).id

    def retry(
        self, message: int | None = None, *, max_tokens: int | None = None, seed: int | None = None
    ) -> Generator[TurnEvent]:
        """Write another reply in place of one. The old one stays in the tree.

        Args:
            message: the id of the reply, or of a result of tools that has none; None for the last
                reply.

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
        if reply.role == "tool":
            return self._turn(reply.id, [], max_tokens, seed, ())
        if reply.role != "assistant":
            raise Qwen35Error(f"message {message} is not a reply: retry one that the model wrote")
        if reply.parent is None:
            raise Qwen35Error(f"message {message} answers nothing: send a message first")
        return self._turn(reply.parent, [], max_tokens, seed, ())

    def edit(
        self, message: int, text: str, *, max_tokens: int | None = None, seed: int | None = None
    ) -> Generator[TurnEvent]:
        """Add another version of a user message, and reply to it. The old path stays in the tree.

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
        """Go back to a message: the next one sent will follow it.

        Args:
            message: its id; None for the start of the conversation.

        Raises:
            Qwen35Error: there is no such message.
        """
        self._check_writable()
        if message is not None:
            self.conversation.message(message)
        self._transcript.select(message)

    def select(self, message: int) -> None:
        """Go to the path through a message, down to its newest leaf.

        Raises:
            Qwen35Error: there is no such message.
        """
        self._check_idle()
        leaf = self.conversation.newest_leaf(self.conversation.message(message).id)
        if self.read_only:
            self._transcript.tree = self.conversation.with_leaf(leaf)
        else:
            self._transcript.select(leaf)

    def compact(self) -> Generator[PrefillProgress | Written]:
        """Let the model summarise the oldest turns, and go on from the summary.

        The summary and the newest turns become a new path; the old one stays in the tree. Nothing
        changes before the summary is complete.

        Raises:
            Qwen35Error: there is nothing to summarise, or no room for the summary.
        """
        self._check_writable()
        return self._begin(
            compaction.compact(self.model, self._transcript, self._snapshots, self.tools)
        )

    def notices(self) -> list[str]:
        """Lines for the user that no turn has returned as `Notice`, since the last call."""
        lines = [*self._notices, *self._transcript.notices()]
        self._notices.clear()
        if self._snapshots.disk is not None:
            lines += self._snapshots.disk.notices()
        return lines

    def close(self) -> None:
        """End the open turn, finish writing snapshots, and release the conversation.

        A second call does nothing, nor does one in a forked process: all of this is its parent's.
        """
        if self._closed or not self.model.owner.in_process:
            return
        if (events := self._open_events()) is not None:
            events.close()
        self._closed = True
        if self._snapshots.disk is not None:
            self._snapshots.disk.flush()
        if not self.read_only:
            self._transcript.close()
        if self._own_library and self._library is not None:
            self._library.close()

    def _open_events(self) -> TurnEvents[Any] | None:
        """The events of a turn that is neither complete nor closed nor dropped."""
        events = self._events and self._events()
        return events if events is not None and events.open else None

    def _begin(self, events: Generator[_Event]) -> TurnEvents[_Event]:
        """The events of the turn that is open from now on."""
        begun = TurnEvents(events, self.model.owner)
        self._events = weakref.ref(begun)
        return begun

    def _check_idle(self) -> None:
        self.model.owner.check("this chat")
        if self._closed:
            raise Qwen35Error("this chat is closed: open the conversation again")
        if self._open_events() is not None:
            raise Qwen35Error(
                "the last reply of this chat is still being written: take its events to the end, "
                "or close() them"
            )

    def _check_writable(self) -> None:
        self._check_idle()
        if self._library is not None and self._library.read_only:
            raise Qwen35Error(
                f"{self._library.file} cannot be written: make room, or set QWEN35_HOME"
            )
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
                # Templates reject a conversation without a question.
                return self._anchors().system_prefix(messages)
            return self.model.ids(
                messages, thinking=self.settings.thinking, tools=self.tools, reply=False
            )
        except Qwen35Error:  # an imported path without a question: nothing could be sent
            return []

    def _turn(
        self,
        parent: int | None,
        added: Sequence[Mapping[str, Any]],
        max_tokens: int | None,
        seed: int | None,
        stop: str | Sequence[str],
    ) -> Generator[TurnEvent]:
        """The events of a reply to the path that ends at `parent`, followed by `added`."""
        settings = self.settings
        # The text as the library stores it, so that the tokens are the same after a restart.
        added = [
            {**message, "content": replace_surrogates(message["content"])} for message in added
        ]
        before = (
            self._system_messages() if parent is None else self.conversation.for_template(parent)
        )
        messages = [*before, *added]
        turn = self.model.turn(
            messages,
            self.model.make_cache(),
            max_tokens=settings.max_tokens if max_tokens is None else max_tokens,
            seed=settings.seed if seed is None else seed,
            thinking=settings.thinking,
            tools=self.tools,
            stop=stop,
            sampling=settings.sampling,
            copies=self._copies,
        )
        return self._begin(self._run(turn, messages, parent, added))

    def _system_messages(self) -> list[dict[str, Any]]:
        """The messages before the first one of the path."""
        system = self.settings.system
        return [] if system is None else [{"role": "system", "content": system}]

    def _run(
        self,
        turn: Turn,
        messages: Sequence[Mapping[str, Any]],
        parent: int | None,
        added: Sequence[Mapping[str, Any]],
    ) -> Generator[TurnEvent]:
        recorder = TurnRecorder(
            turn, messages, self._transcript, self._snapshots, self._anchors(), self._notices
        )
        done = yield from recorder.run(parent, added, self.model.name)
        for line in self.notices():
            yield Notice(line)
        yield done

    def _anchors(self) -> PromptAnchors:
        return PromptAnchors(self._render, bool(self.tools))

    def _render(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return self.model.ids(messages, thinking=self.settings.thinking, tools=self.tools)


def _check_results(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse messages that cannot be stored: only text of the user and of tools can."""
    if not messages:
        raise Qwen35Error("there is no message to send: give at least one")
    for index, message in enumerate(messages):
        plain = plain_message(message, index)
        if plain["role"] not in ("user", "tool") or not isinstance(plain["content"], str):
            raise Qwen35Error(
                f"messages[{index}] cannot be sent: give {{'role': 'tool', 'content': TEXT}}"
            )
