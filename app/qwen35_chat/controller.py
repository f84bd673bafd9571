"""What the screen and plain mode have in common: an engine, the library and the settings.

The controller passes requests to the engine and turns its events into transitions, which a view
renders. It imports neither Textual nor MLX. All calls come from one thread. Methods that need the
library or a file are coroutines, which wait for it in `Controller.calls`.
"""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from qwen35_chat import message_tree
from qwen35_chat.look_up import Found, look_up, look_up_thinking
from qwen35_chat.merging import merged
from qwen35_chat.model_window import ModelWindow
from qwen35_chat.running_turn import RunningTurn
from qwen35_chat.transitions import (
    END_NOTES,
    ConversationShown,
    LoadFailed,
    MessagePutOff,
    Problem,
    ReplyStarted,
    RequestCancelled,
    Transition,
    TurnEnded,
    TurnRequested,
    TurnTakenBack,
)
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message, Role
from qwen35_mlx.session import events, requests


class Controller(ModelWindow):
    """Requests to the engine and its events, for one window."""

    # Events into transitions

    def start(self, conversation: int | None = None, settings: ChatSettings | None = None) -> None:
        """Load the model, and open a conversation if one is named.

        Args:
            settings: of the command line; they replace those of the first stored conversation that
                is opened.
        """
        self._configure()
        self._given = settings
        if conversation is not None:
            self._open(conversation)
        self.engine.start()
        if self.toolbox is not None:
            self.toolbox.start()

    async def poll(self) -> AsyncIterator[Transition]:
        """What has changed since the last call.

        Render each transition before the next is taken: nothing else runs in between.
        """
        if self.stopping:
            # A turn that had not begun at the first cancel has not seen it.
            self.engine.cancel()
        raw = [*self.engine.poll(), *self._release_turn()]
        if self.turn is not None:
            self.turn.pieces += sum(isinstance(e, events.Answer | events.Thinking) for e in raw)
        for event in merged(raw):
            found = await self._look_up(event)
            for transition in self.take(event, found):
                yield transition
            if isinstance(event, events.Loaded) and (problem := await self._keep_model()):
                yield problem
        for transition in [*self._watch_tools(), *self._step_calls()]:
            yield transition
        for line in self.calls.take_errors():
            yield Problem(line)

    async def _look_up(self, event: events.Event) -> Found:
        """Read what the library has on an event, before it is taken in."""
        conversation, turn = self.conversation, self.turn
        match event:
            case events.Opened(opened):
                conversation = opened
            case events.TurnStarted():
                pass
            case events.Cancelled() | events.Failed() if turn is not None and turn.blank:
                pass
            case events.Done() | events.Cancelled() | events.Failed() if turn and turn.thought_of:
                call = partial(look_up_thinking, self.library, turn.thought_of)
                return await self.calls.run("reads", call)
            case _:
                return Found()
        folder = self.settings_file.persona_folder
        return await self.calls.run("reads", look_up, self.library, event, conversation, folder)

    def take(self, event: events.Event, found: Found | None = None) -> list[Transition]:
        """Take in an event of the engine. Without a turn, what belongs to one is ignored.

        Args:
            found: what the library has on it; None for nothing.
        """
        found = found or Found()
        if isinstance(event, self._awaited):
            self._awaited = ()
        match event:
            case events.Loading():
                self.model_status, self.load_progress = "loading", event
                return [event]
            case events.Loaded(model, context, arguments):
                self.model, self.context, self.model_status = model, context, "loaded"
                self.template_arguments = arguments
                self.calls.start("models", self.tokens.use_model, model)
                self._model_before = ""
                return [event]
            case events.Unloaded():
                self.model_status = "absent"
                return [event]
            case events.ProcessesJoined():
                self.processes = event
            case events.ProcessesLost():
                self.lost = True
                return [event]
            case events.Notice():
                return [event]
            case events.Opened():
                return self._opened(event, found)
            case events.Measured(conversation, used, cached) if conversation == self.conversation:
                self.used, self.cached = used, cached
            case events.Titled(conversation, title) if conversation == self.conversation:
                self.title = title
            case events.TurnStarted():
                return self._started(event, found)
            case events.Cancelled():
                return self._cancelled(found)
            case events.Failed():
                return self._failed(event, found)
            case _ if self.turn is not None:
                return self._take_turn(event, self.turn, found)
            case _:
                pass
        return []

    def _take_turn(self, event: events.Event, turn: RunningTurn, found: Found) -> list[Transition]:
        match event:
            case events.PrefillProgress(_, total, cached):
                if not turn.summary:
                    self.used, self.cached = total, cached
                return turn.read(event)
            case events.Written(tokens):
                turn.written = tokens
                return []
            case events.Thinking(text):
                return turn.think(text)
            case events.Answer(text):
                return turn.answer(text)
            case events.ToolCall():
                return turn.call(event)
            case events.Done(reason, usage, drafts=drafts):
                self.usage, self.accepted = usage, drafts
                self.totals = self.totals.plus(usage, drafts)
                self.used = usage.prompt_tokens + usage.reply_tokens
                self.turn = None
                calls = reason == "tool_calls" and self._begin_calls(turn)
                note = "" if calls else END_NOTES[reason]
                if reason == "length" and self.context and self.used >= self.context:
                    note = f"Cut short: the context is full. {self._ways_to_room()}"
                ended = TurnEnded(note, usage=usage, accepted=drafts)
                return [
                    *turn.end_thinking(found.thinking_seconds),
                    ended,
                    *([] if calls else self._send_next()),
                ]
            case _:
                return []

    def _opened(self, event: events.Opened, found: Found) -> list[Transition]:
        if event.conversation != self.conversation:
            self.usage = self.accepted = None
            self._hold_own_prompt(found.stored, found.persona)
        self.conversation, self.title = event.conversation, event.title
        self.read_only = event.read_only
        self.used = self.cached = 0
        shown = ConversationShown(found.stored, event.read_only, self._selected)
        problem: list[Transition] = [Problem(found.error)] if found.error else []
        self._selected = None
        if self.turn is None or not self.turn.summary:
            return [shown, *problem]
        automatic, self.turn = self.turn.automatic, None
        return [shown, *problem, *self._send_next(made_room=automatic)]

    def _started(self, event: events.TurnStarted, found: Found) -> list[Transition]:
        self.conversation = event.conversation
        if self.turn is None:
            return []
        self.turn.reply = event.reply
        return [ReplyStarted(event.user, event.reply, found.user_version, found.reply_version)]

    def _cancelled(self, found: Found) -> list[Transition]:
        self._end_load("absent")
        turn, self.turn = self.turn, None
        if turn is None:
            return [RequestCancelled()]
        if turn.summary:
            return [*self._return_queue(), RequestCancelled()]
        if turn.absent and turn.results:
            return self._keep_results(turn.results)
        if turn.left_out(found.stored):
            self.used = turn.used_before
            return [*self._return_queue(), TurnTakenBack(turn.text, stored=found.stored)]
        ended = TurnEnded("Stopped.", offer_retry=turn.blank)
        return [*turn.end_thinking(found.thinking_seconds), ended, *self._return_queue()]

    def _failed(self, failed: events.Failed, found: Found) -> list[Transition]:
        message = failed.message
        if failed.kind == "too_long":
            message = f"{message.rstrip('.')}. {self._ways_to_room()}"
        load_failed = self._end_load("failed")
        turn, self.turn = self.turn, None
        if turn is None:
            return [LoadFailed(message) if load_failed else Problem(message)]
        if turn.automatic:
            return [Problem(message), *self._send_next(made_room=True)]
        if turn.summary:
            return [*self._return_queue(), Problem(message)]
        if failed.kind == "too_long" and turn.makes_room and turn.left_out(found.stored):
            self.used = turn.used_before
            return [self._put_off(turn.text or "", TurnTakenBack(None, stored=found.stored))]
        if turn.absent and turn.results:
            self.engine.submit(requests.AddResults(turn.results))
        elif turn.left_out(found.stored):
            self.used = turn.used_before
            taken_back = TurnTakenBack(turn.text, message, load_failed, found.stored)
            return [*self._return_queue(), taken_back]
        ended = TurnEnded(f"Error: {message}", error=True, offer_retry=True)
        return [*turn.end_thinking(found.thinking_seconds), ended, *self._return_queue()]

    def _send_next(self, *, made_room: bool = False) -> list[Transition]:
        return [self.send(self.queue.pop(0), made_room=made_room)] if self.queue else []

    # Turns

    def send(self, text: str, *, made_room: bool = False) -> TurnRequested | MessagePutOff:
        """Send a message, after a summary of the oldest turns if that is to make room for it.

        Args:
            made_room: the summary was just written, or could not be.
        """
        may_compact = self.may_compact and not made_room
        if may_compact and self.crowded:
            return self._put_off(text)
        requested = self._begin(requests.Send(text), TurnRequested(text))
        assert self.turn is not None
        self.turn.makes_room = may_compact
        return requested

    def _put_off(self, text: str, taken_back: TurnTakenBack | None = None) -> MessagePutOff:
        """Let a message wait for a summary of the oldest turns."""
        self.compact(automatic=True)
        self.queue.insert(0, text)
        return MessagePutOff(taken_back)

    def enqueue(self, text: str) -> None:
        """Send a message after the turn that is running."""
        self.queue.append(text)

    async def retry(
        self, message: int | None = None, options: Mapping[str, Any] | None = None
    ) -> TurnRequested:
        """Request another reply instead of this reply, or to this user message.

        Args:
            message: None for the last one.
            options: for this reply alone, as `Chat.retry` takes them.
        """
        found = message_tree.reply_to_replace(await self.stored_with_messages(), message)
        after = found.id if found.role == "tool" else found.parent
        requested = TurnRequested(None, drop_after=after)
        return self._begin(requests.Retry(found.id, options or {}), requested)

    def edit(self, message: int, text: str) -> TurnRequested:
        """Send another version of a user message; the old one stays."""
        requested = TurnRequested(text, drop_from=message)
        return self._begin(requests.Edit(message, text), requested)

    async def continue_reply(self, message: int | None = None) -> TurnRequested:
        """Let the model go on from a reply that was cut short; None for the last one."""
        stored = await self.stored_with_messages()
        return self._continue(message_tree.reply_to_continue(stored, message, cut=True))

    def amend(self, reply: Message, text: str) -> TurnRequested:
        """Let the model go on from `text` in place of a reply's answer; the old one stays."""
        return self._continue(reply, text)

    def _continue(self, reply: Message, text: str | None = None) -> TurnRequested:
        requested = TurnRequested(None, drop_after=reply.parent)
        begun = self._begin(requests.Continue(reply.id, text), requested)
        assert self.turn is not None
        self.turn.thought = reply.thinking_seconds
        return begun

    def stop(self) -> None:
        """Stop the turn, however far it is, or the load."""
        if self.turn is not None:
            self.turn.stopping = True
            if self.turn.calling is not None:
                self.turn.calling.stop()
        if self.busy or self.loading:
            self.engine.cancel()

    def _begin(self, request: requests.Request, requested: TurnRequested) -> TurnRequested:
        self.require_writable()
        self.require_idle()
        self.turn = RunningTurn(self._clock, requested.text, used_before=self.used)
        self._submit_turn(request)
        return requested

    # Conversations

    def open(self, conversation: int | None) -> None:
        self.require_idle()
        self._open(conversation)
        if conversation is None:
            self._hold_own_prompt(None, None)
            if self.settings.chat_settings(self._seed) != self._configured:
                self._configure()

    def _open(self, conversation: int | None) -> None:
        given = None if conversation is None else self._given
        self._request(requests.Open(conversation, given), events.Opened)
        if conversation is not None:
            self._given = None

    async def stored_with_messages(self) -> Conversation:
        """The conversation as the library has it, which must have a message."""
        if self.conversation is not None:
            stored = await self.calls.run("reads", self.library.conversation, self.conversation)
            if stored.leaf is not None:
                return stored
        raise Qwen35Error("this conversation has no message yet")

    async def select_version(self, step: int, message: int | None = None) -> tuple[int, int, Role]:
        """Go to the version before (-1) or after (1), as `message_tree.version_beside` finds it.

        Returns:
            which of how many versions it is, and its role.
        """
        self.require_idle()
        stored = await self.stored_with_messages()
        to = message_tree.version_beside(stored, step, message)
        self._select(to, to)
        return *stored.position(to), stored.message(to).role

    async def select_summary(self, *, back: bool) -> None:
        """Go to the path before the last compaction, or forward to that after it."""
        self.require_idle()
        self._select(message_tree.beside_summary(await self.stored_with_messages(), back=back))

    def _select(self, message: int, shown: int | None = None) -> None:
        self.require_idle()
        self._selected = shown
        self._request(requests.Select(message), events.Opened)
