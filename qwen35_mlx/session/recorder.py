"""Records a turn in a transcript: the question, and the reply as it grows."""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line
from qwen35_mlx.library.conversation import Message, MessageState
from qwen35_mlx.library.transcript import Transcript
from qwen35_mlx.session.cached_turn import CachedTurn
from qwen35_mlx.session.events import (
    Answer,
    Done,
    Thinking,
    Titled,
    TurnEvent,
    TurnStarted,
)
from qwen35_mlx.session.new_messages import as_stored
from qwen35_mlx.session.reply_start import ReplyStart

# The time between two saves of a partial reply.
SAVE_SECONDS = 0.5


class TurnRecorder:
    """Runs a turn and records it in a transcript.

    Args:
        cached: the turn, which has not started.
        notices: a list to which lines for the user are appended.
        start: of the reply, that was written before.
    """

    def __init__(
        self,
        cached: CachedTurn,
        transcript: Transcript,
        notices: list[str],
        start: ReplyStart | None = None,
    ):
        self._cached = cached
        self._turn = cached.turn
        self._transcript = transcript
        self._notices = notices
        self._clock = _ThinkingClock(start)
        self._reply: int | None = None  # while it is being written

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
        self._reply = reply
        state: MessageState = "cancelled"
        error, done = "", None
        try:
            if transcript.has_library:
                yield TurnStarted(transcript.tree.id, parent, reply)
                if transcript.tree.title != title:
                    yield Titled(transcript.tree.id, transcript.tree.title)
            saved = time.monotonic()
            for event in self._cached.run():
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
            raise
        finally:
            self._reply = None
            self._finish(reply, state, error, done)
            if transcript.tree.message(reply).abandoned:
                # What a tool has done is done, so its result stays.
                self._select(parent if transcript.tree.message(parent).role == "tool" else before)
        assert done is not None
        return done

    def abandon(self, error: str) -> None:
        """Save the reply so far as failed, in any thread, while that of the turn hangs."""
        if (reply := self._reply) is not None:
            message = replace(self._message(reply), state="failed", error=error)
            self._transcript.save(message)

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
                parent = transcript.add(as_stored(message, parent)).id
            assert parent is not None
            transcript.use_model(model)
            empty = Message(0, parent, "assistant", "", state="partial", model=model)
            reply = transcript.add(empty).id
        return parent, reply

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
        """Save the final reply, then the snapshots of the turn."""
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
        self._cached.end(None if state == "failed" else message.for_template())


class _ThinkingClock:
    """Measures the seconds from the first `Thinking` event to the first `Answer`.

    Args:
        start: of the reply; its thinking counts, too.
    """

    def __init__(self, start: ReplyStart | None) -> None:
        self.seconds = None if start is None else start.thinking_seconds
        self._before = self.seconds or 0.0
        self._began: float | None = None
        self._over = start is not None and bool(start.answer)

    def observe(self, event: TurnEvent) -> None:
        if isinstance(event, Thinking) and self._began is None:
            self._began = time.monotonic()
        if self._began is not None and not self._over:
            self.seconds = self._before + time.monotonic() - self._began
            self._over = isinstance(event, Answer | Done)
