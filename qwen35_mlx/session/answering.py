"""One turn of a conversation: the question and the reply recorded, the states kept."""

import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, cast

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.conversation import Role, State
from qwen35_mlx.session.events import (
    Answer,
    Done,
    Thinking,
    Titled,
    TurnEvent,
    TurnStarted,
)
from qwen35_mlx.session.kept import CHECKPOINT, SHARED_TOKENS, Kept
from qwen35_mlx.session.prompts import Prompts
from qwen35_mlx.session.record import Record
from qwen35_mlx.session.turn import Turn
from qwen35_mlx.text.reply import message_from

# A partial reply is saved so often.
SAVE_SECONDS = 0.5


class Answering:
    """A reply as it is written into a conversation.

    Args:
        turn: not begun yet.
        messages: that the turn replies to.
        lines: takes lines for the user.
    """

    def __init__(
        self,
        turn: Turn,
        messages: Sequence[Mapping[str, Any]],
        record: Record,
        kept: Kept,
        prompts: Prompts,
        lines: list[str],
    ):
        self._turn = turn
        self._messages = messages
        self._record = record
        self._kept = kept
        self._prompts = prompts
        self._lines = lines
        self._clock = _ThinkingClock()

    def run(
        self, parent: int | None, added: Sequence[Mapping[str, Any]], model: str
    ) -> Generator[TurnEvent, None, Done]:
        """The turn's events but for the last, which it returns.

        Args:
            parent: the message that the new ones follow; None at the start.
            added: messages that are not in the conversation yet.
            model: its name.
        """
        record, turn, clock = self._record, self._turn, self._clock
        before, title = record.tree.leaf, record.tree.title
        for message in added:
            parent = record.add(parent, cast(Role, message["role"]), message["content"]).id
        assert parent is not None
        record.use_model(model)
        reply = record.add(parent, "assistant", "", state="partial", model=model).id
        if record.durable:
            yield TurnStarted(record.tree.id, parent, reply)
            if record.tree.title != title:
                yield Titled(record.tree.id, record.tree.title)
        state: State = "cancelled"
        error, done = "", None
        try:
            self._prepare()
            saved = time.monotonic()
            for event in turn.run():
                clock.take(event)
                if isinstance(event, Done):
                    done = event
                    break
                if turn.reply and time.monotonic() - saved > SAVE_SECONDS:
                    self._save(reply)
                    saved = time.monotonic()
                yield event
            state = "complete"
        except Exception as failure:
            state, error = "failed", " ".join(str(failure).split())
            raise
        finally:
            self._end(reply, state, error, done)
            if not turn.reply:
                record.select(before)
        assert done is not None
        return done

    def _prepare(self) -> None:
        """Go on from what is known, and say where to keep states."""
        turn, prompts = self._turn, self._prompts
        prompt = turn.prompt
        self._kept.resume(prompt, turn.cache)
        anchor = prompts.anchor(self._messages, prompt)
        stops = {*range(CHECKPOINT, len(prompt), CHECKPOINT), anchor}
        shared = prompts.shared(self._messages, prompt)
        if shared >= SHARED_TOKENS:
            stops.add(shared)
        turn.stops = sorted(stops)

        def at_stop() -> None:
            position = turn.cache.offset
            self._kept.keep(prompt[:position], turn.cache.snapshot())
            if position % CHECKPOINT == 0:
                self._kept.write()

        turn.at_stop = at_stop

    def _save(self, reply: int) -> None:
        """The partial reply; a full disk does not end it."""
        try:
            self._record.update(reply, message_from(self._turn.parts), self._clock.seconds)
        except Qwen35Error as error:
            if (line := f"the reply is not saved yet: {error}") not in self._lines:
                self._lines.append(line)

    def _end(self, reply: int, state: State, error: str, done: Done | None) -> None:
        turn = self._turn
        said = message_from(turn.parts)
        try:
            self._record.finish(
                reply,
                said,
                state=state,
                finish_reason=done.finish_reason if done else None,
                error=error,
                figures=done.figures if done else None,
                thinking_seconds=self._clock.seconds,
            )
        except Qwen35Error as failure:
            self._lines.append(f"the reply could not be saved: {failure}")
        if state != "failed" and turn.reply:
            ids = [*turn.prompt, *turn.reply]
            if turn.cache.offset == len(ids) and self._prompts.continues(
                [*self._messages, said], ids
            ):
                self._kept.keep(ids, turn.cache.snapshot())
        self._kept.write()


class _ThinkingClock:
    """Seconds from the first piece of thinking to what follows it."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._began: float | None = None
        self._over = False

    def take(self, event: TurnEvent) -> None:
        if isinstance(event, Thinking) and self._began is None:
            self._began = time.monotonic()
        if self._began is not None and not self._over:
            self.seconds = time.monotonic() - self._began
            self._over = isinstance(event, Answer | Done)
