"""One turn of a conversation: the question and the reply recorded, the states kept."""

import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, cast

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Role, State
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
from qwen35_mlx.session.turn import Turn

# A partial reply is saved so often.
SAVE_SECONDS = 0.5


class TurnRecorder:
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
        record: Transcript,
        kept: SnapshotCache,
        prompts: PromptAnchors,
        lines: list[str],
    ):
        self._turn = turn
        self._messages = messages
        self._record = record
        self._kept = kept
        self._prompts = prompts
        self._lines = lines
        self._clock = _ThinkingClock()
        self._before_call: Snapshot | None = None

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
        parent, reply = self._begin(parent, added, model)
        state: State = "cancelled"
        error, done = "", None
        try:
            if record.durable:
                yield TurnStarted(record.tree.id, parent, reply)
                if record.tree.title != title:
                    yield Titled(record.tree.id, record.tree.title)
            self._prepare()
            saved = time.monotonic()
            for event in turn.run():
                clock.take(event)
                if isinstance(event, Done):
                    done = event
                    break
                if turn.reply_ids and time.monotonic() - saved > SAVE_SECONDS:
                    self._save(reply)
                    saved = time.monotonic()
                yield event
            state = "complete"
        except Exception as failure:
            state, error = "failed", " ".join(str(failure).split())
            raise
        finally:
            self._end(reply, state, error, done)
            if record.tree.message(reply).unsaid:
                self._take_back(before)
        assert done is not None
        return done

    def _begin(
        self, parent: int | None, added: Sequence[Mapping[str, Any]], model: str
    ) -> tuple[int, int]:
        """Record the question and an empty reply, or nothing at all; their ids."""
        record = self._record
        with record.all_or_nothing():
            for message in added:
                parent = record.add(parent, cast(Role, message["role"]), message["content"]).id
            assert parent is not None
            record.use_model(model)
            reply = record.add(parent, "assistant", "", state="partial", model=model).id
        return parent, reply

    def _prepare(self) -> None:
        """Go on from what is known, and say where to keep states."""
        turn, prompts = self._turn, self._prompts
        prompt = turn.prompt
        self._kept.restore(prompt, turn.cache)
        # The last token is not read but decoded from.
        anchor = min(prompts.anchor(self._messages, prompt), len(prompt) - 1)
        stops = {*range(CHECKPOINT_TOKENS, len(prompt), CHECKPOINT_TOKENS), anchor}
        shared = prompts.system_anchor(self._messages, prompt)
        if shared >= MIN_SHARED_TOKENS:
            stops.add(shared)
        call = min(prompts.tool_call_anchor(self._messages, prompt), len(prompt) - 1)
        turn.snapshot_at = sorted({*stops, call})

        def at_stop() -> None:
            position = turn.cache.offset
            if position == call:
                self._before_call = turn.cache.snapshot()
            if position in stops:
                self._kept.add(prompt[:position], turn.cache.snapshot())
            if position % CHECKPOINT_TOKENS == 0:
                self._kept.write()

        turn.take_snapshot = at_stop

    def _save(self, reply: int) -> None:
        """The partial reply; a full disk does not end it."""
        try:
            self._record.update(reply, self._turn.content.for_template(), self._clock.seconds)
        except Qwen35Error as error:
            if (line := f"the reply is not saved yet: {error}") not in self._lines:
                self._lines.append(line)

    def _take_back(self, before: int | None) -> None:
        """Nothing was said: go on from where the path ended before."""
        try:
            self._record.select(before)
        except Qwen35Error as failure:
            self._lines.append(f"the message could not be taken back: {failure}")

    def _end(self, reply: int, state: State, error: str, done: Done | None) -> None:
        turn = self._turn
        said = turn.content.for_template() if done is None else done.message
        try:
            self._record.finish(
                reply,
                said,
                state=state,
                finish_reason=done.finish_reason if done else None,
                error=error,
                usage=done.usage if done else None,
                thinking_seconds=self._clock.seconds,
            )
        except Qwen35Error as failure:
            self._lines.append(f"the reply could not be saved: {failure}")
        if state != "failed" and turn.reply_ids:
            self._keep_end(said)
        self._kept.write()

    def _keep_end(self, said: Mapping[str, Any]) -> None:
        """Where the next prompt may go on: after this reply, or at least before it."""
        turn, before = self._turn, self._before_call
        ids = [*turn.prompt, *turn.reply_ids]
        if turn.cache.offset == len(ids) and self._prompts.continues([*self._messages, said], ids):
            self._kept.add(ids, turn.cache.snapshot())
        elif before is not None and said.get("tool_calls"):
            # A call that templates do not write as the model did.
            self._kept.add(turn.prompt[: before.offset], before)


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
