"""Records a turn: the question, the growing reply, and snapshots of the cache."""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line
from qwen35_mlx.library.conversation import Message, MessageState, Role
from qwen35_mlx.library.transcript import Transcript
from qwen35_mlx.model.cache import Snapshot
from qwen35_mlx.prompt_cache.snapshots import CHECKPOINT_TOKENS, MIN_SHARED_TOKENS, SnapshotCache
from qwen35_mlx.session.anchors import PromptAnchors
from qwen35_mlx.session.events import (
    Answer,
    Done,
    Thinking,
    Titled,
    TurnEvent,
    TurnStarted,
)
from qwen35_mlx.session.turn import DeviceError, Turn

# The time between two saves of a partial reply.
SAVE_SECONDS = 0.5


class TurnRecorder:
    """Runs a turn and records it in a transcript and in the prompt cache.

    Args:
        turn: a turn that has not started.
        messages: the conversation that the turn replies to, in the form of chat templates.
        notices: a list to which lines for the user are appended.
    """

    def __init__(
        self,
        turn: Turn,
        messages: Sequence[Mapping[str, Any]],
        transcript: Transcript,
        snapshots: SnapshotCache,
        anchors: PromptAnchors,
        notices: list[str],
    ):
        self._turn = turn
        self._messages = messages
        self._transcript = transcript
        self._snapshots = snapshots
        self._anchors = anchors
        self._notices = notices
        self._clock = _ThinkingClock()
        self._before_tool_call: Snapshot | None = None

    def run(
        self, parent: int | None, added: Sequence[Mapping[str, Any]], model: str
    ) -> Generator[TurnEvent, None, Done]:
        """Run the turn and yield its events, except `Done`, which is returned.

        Args:
            parent: the id of the message that the new ones follow; None for a first message.
            added: the messages of this turn that the conversation does not hold yet.
            model: the name of the model.
        """
        transcript, turn = self._transcript, self._turn
        before, title = transcript.tree.leaf, transcript.tree.title
        parent, reply = self._begin(parent, added, model)
        state: MessageState = "cancelled"
        error, done = "", None
        try:
            if transcript.has_library:
                yield TurnStarted(transcript.tree.id, parent, reply)
                if transcript.tree.title != title:
                    yield Titled(transcript.tree.id, transcript.tree.title)
            self._restore()
            saved = time.monotonic()
            for event in turn.run():
                self._clock.observe(event)
                if isinstance(event, Done):
                    done = event
                    break
                if turn.reply_ids and time.monotonic() - saved > SAVE_SECONDS:
                    self._save_partial(reply)
                    saved = time.monotonic()
                yield event
            state = "complete"
        except (GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as failure:
            state, error = "failed", one_line(failure)
            if isinstance(failure, DeviceError | RuntimeError):
                # They share keys and values with the turn, of which some cannot be computed.
                self._snapshots.forget()
            raise
        finally:
            self._finish(reply, state, error, done)
            if transcript.tree.message(reply).abandoned:
                # What a tool has done is done, so its result stays.
                self._select(parent if transcript.tree.message(parent).role == "tool" else before)
        assert done is not None
        return done

    def _begin(
        self, parent: int | None, added: Sequence[Mapping[str, Any]], model: str
    ) -> tuple[int, int]:
        """Record the new messages and an empty reply, all of them or none.

        Returns:
            the ids of the last new message and of the reply.
        """
        transcript = self._transcript
        with transcript.transaction():
            for message in added:
                role = cast(Role, message["role"])
                parent = transcript.add(Message(0, parent, role, message["content"])).id
            assert parent is not None
            transcript.use_model(model)
            empty = Message(0, parent, "assistant", "", state="partial", model=model)
            reply = transcript.add(empty).id
        return parent, reply

    def _restore(self) -> None:
        """Restore the longest cached prefix and choose where the turn takes snapshots."""
        turn, anchors = self._turn, self._anchors
        prompt = turn.prompt
        self._snapshots.restore(prompt, turn.cache)
        # Prefill stops before the last prompt token, which is the input of the first decode.
        last = len(prompt) - 1
        kept = {*range(CHECKPOINT_TOKENS, len(prompt), CHECKPOINT_TOKENS)}
        kept.add(min(anchors.anchor(self._messages, prompt), last))
        shared = anchors.system_anchor(self._messages, prompt)
        if shared >= MIN_SHARED_TOKENS:
            kept.add(shared)
        tool_call = min(anchors.tool_call_anchor(self._messages, prompt), last)
        turn.snapshot_at = sorted({*kept, tool_call})

        def take_snapshot() -> None:
            position = turn.cache.offset
            snapshot = turn.snapshot()
            if position == tool_call:
                self._before_tool_call = snapshot
            if position in kept:
                self._snapshots.add(prompt[:position], snapshot)
            if position % CHECKPOINT_TOKENS == 0:
                self._write_snapshots(prompt[:position])

        turn.take_snapshot = take_snapshot

    def _message(self, reply: int) -> Message:
        """The reply with the content generated so far."""
        content = self._turn.content
        return replace(
            self._transcript.tree.message(reply),
            content=content.text,
            thinking=content.thinking,
            tool_calls=tuple(call.for_template() for call in content.tool_calls),
            thinking_seconds=self._clock.seconds,
        )

    def _save_partial(self, reply: int) -> None:
        """Save the partial reply. An error becomes a notice, and the turn continues."""
        try:
            self._transcript.save(self._message(reply), durable=False)
        except Qwen35Error as error:
            if (line := f"the reply is not saved yet: {error}") not in self._notices:
                self._notices.append(line)

    def _select(self, before: int | None) -> None:
        """Select the path from before the turn, since the reply is empty."""
        try:
            self._transcript.select(before)
        except Qwen35Error as failure:
            self._notices.append(f"the message could not be taken back: {failure}")

    def _finish(self, reply: int, state: MessageState, error: str, done: Done | None) -> None:
        """Save the final reply and write the snapshots of the turn.

        A turn that is forgotten may end in another thread or a forked process, when its events are
        dropped there: then the network's arrays are left alone.
        """
        message = replace(
            self._message(reply),
            state=state,
            finish_reason=done.finish_reason if done else None,
            error=error,
            usage=done.usage if done else None,
        )
        try:
            self._transcript.save(message)
        except Qwen35Error as failure:
            self._notices.append(f"the reply is not saved yet, and is kept until it is: {failure}")
        if not self._turn.owner.here:
            return
        if state != "failed" and self._turn.reply_ids:
            self._snapshot_end(message)
        self._write_snapshots([*self._turn.prompt, *self._turn.reply_ids])

    def _write_snapshots(self, ids: Sequence[int]) -> None:
        """Write the snapshots along `ids`, and note that they belong to the conversation."""
        self._snapshots.write()
        self._transcript.keep_states(self._snapshots.files(ids))

    def _snapshot_end(self, reply: Message) -> None:
        """Add a snapshot where the next prompt continues: after the reply or before a tool call."""
        turn, before = self._turn, self._before_tool_call
        ids = [*turn.prompt, *turn.reply_ids]
        messages = [*self._messages, reply.for_template()]
        if turn.cache.offset == len(ids) and self._anchors.continues(messages, ids):
            self._snapshots.add(ids, turn.snapshot())
        elif before is not None and reply.tool_calls:
            # The template may render the tool call differently from the model's own text.
            self._snapshots.add(turn.prompt[: before.offset], before)


class _ThinkingClock:
    """Measures the seconds from the first `Thinking` event to the first `Answer`."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._began: float | None = None
        self._over = False

    def observe(self, event: TurnEvent) -> None:
        if isinstance(event, Thinking) and self._began is None:
            self._began = time.monotonic()
        if self._began is not None and not self._over:
            self.seconds = time.monotonic() - self._began
            self._over = isinstance(event, Answer | Done)
