"""`Chat`: a conversation in which each turn costs only its own tokens, stored in a library."""

import weakref
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from qwen35_mlx.arguments import checked
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.drafts import CopyDrafts
from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message
from qwen35_mlx.library.library import Library
from qwen35_mlx.library.transcript import Transcript
from qwen35_mlx.lifetime import close_at_exit
from qwen35_mlx.prompt_cache.snapshots import SnapshotCache
from qwen35_mlx.session import compaction
from qwen35_mlx.session.cached_turn import CachedTurn
from qwen35_mlx.session.chat_prompts import messages_before, prompt_anchors, tokens_so_far
from qwen35_mlx.session.chat_settings import (
    checked_settings,
    merged_settings,
    readable_settings,
    settings_of,
    turn_options,
)
from qwen35_mlx.session.events import Notice, PrefillProgress, TurnEvent, Written
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.new_messages import as_stored, new_messages, placed, question, retried
from qwen35_mlx.session.recorder import TurnRecorder
from qwen35_mlx.session.reply_options import ChatArguments, ReplyArguments, ReplyOptions
from qwen35_mlx.session.reply_start import ReplyStart, reply_to_continue, start_of
from qwen35_mlx.session.turn_events import LastTurn, TurnEvents
from qwen35_mlx.text.messages import plain_tools


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
        title: of a new one; by default its first question.
        system: the system prompt.
        snapshots: the prompt cache that it shares with other chats of the model; None for its own.
        options: of all replies, see `qwen35_mlx.ReplyArguments`. A stored conversation has its own;
            those given here replace them. Tools are not stored. Stored template arguments that this
            model does not read are left out, with a `Notice`.

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
        title: str = "",
        system: str | None = None,
        snapshots: SnapshotCache | None = None,
        **options: Unpack[ChatArguments],
    ):
        model.owner.check("this model")
        kept = ReplyOptions.of(options, ChatArguments)
        if model.template is not None:
            model.template.check_arguments(kept.template_arguments)
        self.model = model
        self.tools = None if kept.tools is None else plain_tools(kept.tools)
        given = checked_settings(settings_of(kept, system), model.sampling)
        self._transcript = Transcript(library, conversation, given, title)
        settings = merged_settings(self.settings, given)
        if settings != self.settings and not self.read_only:
            self.configure(settings)
        self._library = library
        self._own_library = False
        self._own_snapshots = snapshots is None
        states = None if library is None else model.open_states(library.folder)
        self._snapshots = snapshots or SnapshotCache(states)
        self._copies = CopyDrafts()
        self._notices: list[str] = []
        self._closed = False
        self._last = LastTurn()
        self._recorder: weakref.ref[TurnRecorder] | None = None
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
        system: str | None = None,
        **options: Unpack[ChatArguments],
    ) -> "Chat":
        """Open a stored conversation.

        Args:
            name: its id, its title or the start of its title; None for a new conversation.
            library: None for the user's own, which is closed with the chat.
            system, options: as for `Chat`.

        Raises:
            Qwen35Error: there is no such conversation.
        """
        own = library is None
        library = library or Library()
        try:
            number = None if name is None else library.resolve(str(name))
            chat = cls(model, library=library, conversation=number, system=system, **options)
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
    def read_only(self) -> bool:
        """Whether another window has the conversation open, and turns are refused."""
        return self._transcript.read_only

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
        number, ids = tokens_so_far(self.model, self.conversation, self._options({}))
        return number, self._snapshots.longest_prefix(ids)

    def configure(self, settings: ChatSettings) -> None:
        """Change the settings of the next turns."""
        self._transcript.configure(checked_settings(settings, self.model.sampling))

    def send(
        self, content: str | Sequence[Mapping[str, Any]], **options: Unpack[ReplyArguments]
    ) -> Generator[TurnEvent]:
        """Add a message and stream the reply to it.

        Close the iterator, or drop it, to cancel. The reply so far stays in the conversation; if it
        is empty, the message is taken back.

        Args:
            content: the user's text; or messages of role "tool", the results of tool calls.
            options: for this turn, in place of the chat's: see `qwen35_mlx.ReplyArguments`.

        Raises:
            Qwen35Error: the message is empty or does not fit the context, or another reply is
                still being written; nothing is added then.
        """
        self._check_writable()
        return self._turn(self.conversation.leaf, new_messages(content), options)

    def reply_to(
        self, messages: Sequence[Mapping[str, Any]], **options: Unpack[ReplyArguments]
    ) -> TurnEvents[TurnEvent]:
        """Stream the reply to messages of a program that may send the whole history every time.

        If one of the assistant is among them, they are a history: the turn goes on from the last
        message that the conversation has of it, and adds the rest, on a path of its own where they
        differ. Otherwise all of them are new. System messages become the system prompt. Options and
        errors are those of `send`.
        """
        self._check_writable()
        place = placed(self.conversation, messages)
        return self._turn(place.parent, place.added, options, place.settings)

    def add_results(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Add the results of tool calls at the end of the path, without a reply.

        Messages and errors are those of `send`.
        """
        self._check_writable()
        transcript, parent = self._transcript, self.conversation.leaf
        with transcript.transaction():
            for message in new_messages(messages):
                parent = transcript.add(as_stored(message, parent)).id

    def retry(
        self, message: int | None = None, **options: Unpack[ReplyArguments]
    ) -> Generator[TurnEvent]:
        """Write another reply in place of one. The old one stays in the tree.

        Args:
            message: the id of the reply, or of a result of tools that has none; None for the last
                reply.
            options: as for `send`.

        Raises:
            Qwen35Error: there is no such reply.
        """
        self._check_writable()
        return self._turn(retried(self.conversation, message), [], options)

    def continue_reply(
        self, message: int | None = None, text: str | None = None, **options: Unpack[ReplyArguments]
    ) -> Generator[TurnEvent]:
        """Write another version of a reply, which begins with that and goes on. The old one stays.

        The thinking of the reply stays before its answer. Its events begin with what is kept.

        Args:
            message: the id of the reply; None for the last one.
            text: the answer to go on from in place of the reply's; None for that.
            options: as for `send`, without those that bind the reply to a grammar.

        Raises:
            Qwen35Error: there is no such reply, it calls tools, or there is nothing to go on from.
        """
        self._check_writable()
        reply, parent = reply_to_continue(self.conversation, message)
        start = start_of(reply, text)
        if reply.thinking and options.get("thinking") is None:
            options["thinking"] = True
        return self._turn(parent, [], options, start=start)

    def edit(
        self, message: int, text: str, **options: Unpack[ReplyArguments]
    ) -> Generator[TurnEvent]:
        """Add another version of a user message, and reply to it. The old path stays in the tree.

        Args:
            options: as for `send`.

        Raises:
            Qwen35Error: there is no such message, or the text is empty or too long.
        """
        self._check_writable()
        edited = self.conversation.message(message)
        if edited.role != "user":
            raise Qwen35Error(f"message {message} is not yours to edit: choose one that you sent")
        return self._turn(edited.parent, question(text), options)

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
        self._transcript.select(leaf)

    def compact(self) -> Generator[PrefillProgress | Written]:
        """Let the model summarise the oldest turns, and go on from the summary.

        The summary and the newest turns become a new path; the old one stays in the tree. A history
        that is longer than the context is read in parts. Nothing changes before the summary is
        complete.

        Raises:
            Qwen35Error: at once, there is no message; while iterating, there is nothing to
                summarise, or no room for the summary.
        """
        self._check_writable()
        events = compaction.compact(self.model, self._transcript, self._snapshots, self.tools)
        return self._last.begin(events, self.model.owner)

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
        self._last.close()
        self._closed = True
        if self._own_snapshots and self._snapshots.disk is not None:
            self._snapshots.disk.flush()
        self._transcript.close()
        if self._own_library and self._library is not None:
            self._library.close()

    def _check_idle(self) -> None:
        self.model.owner.check("this chat")
        if self._closed:
            raise Qwen35Error("this chat is closed: open the conversation again")
        self._last.check_over()

    def _check_writable(self) -> None:
        self._check_idle()
        self._transcript.check_writable()

    def _options(self, given: Mapping[str, Any]) -> ReplyOptions:
        """The options of a turn for which these are given."""
        settings, lines = readable_settings(self.settings, self.model)
        self._notices += lines
        return turn_options(settings, self.tools, ReplyOptions.of(given))

    def _turn(
        self,
        parent: int | None,
        added: Sequence[Mapping[str, Any]],
        given: Mapping[str, Any],
        settings: ChatSettings | None = None,
        start: ReplyStart | None = None,
    ) -> TurnEvents[TurnEvent]:
        """The events of a reply to the path that ends at `parent`, followed by `added`.

        Args:
            settings: the new ones of the conversation; None to keep them.
            start: of the reply, for the model to go on from.
        """
        options = self._options(given)
        tree = replace(self.conversation, settings=settings or self.settings)
        messages = [*messages_before(tree, parent), *added]
        cache = self.model.make_cache()
        turn = self.model.turn(messages, cache, options, copies=self._copies, start=start)
        if tree.settings != self.settings:
            self._transcript.configure(tree.settings)
        anchors, keep = prompt_anchors(self.model, options), self._transcript.keep_states
        cached = CachedTurn(turn, self._snapshots, messages, anchors, keep)
        recorder = TurnRecorder(cached, self._transcript, self._notices, start)
        self._recorder = weakref.ref(recorder)
        events = self._run(recorder, parent, added)
        return self._last.begin(events, self.model.owner, turn)

    @property
    def recorder(self) -> TurnRecorder | None:
        """That of the newest turn; None if its events were dropped."""
        return None if self._recorder is None else self._recorder()

    def _run(
        self, recorder: TurnRecorder, parent: int | None, added: Sequence[Mapping[str, Any]]
    ) -> Generator[TurnEvent]:
        done = yield from recorder.run(parent, added, self.model.name)
        for line in self.notices():
            yield Notice(line)
        yield done
