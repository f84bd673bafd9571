"""A turn and the prompt cache: where it begins, and which states it leaves for later prompts."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from qwen35_mlx.distributed.link import ProcessLostError
from qwen35_mlx.model.cache import Snapshot
from qwen35_mlx.prompt_cache.snapshots import CHECKPOINT_TOKENS, MIN_SHARED_TOKENS, SnapshotCache
from qwen35_mlx.session.anchors import PromptAnchors
from qwen35_mlx.session.events import TurnEvent
from qwen35_mlx.session.turn import DeviceError, Turn


class CachedTurn:
    """Runs a turn from the longest stored prefix of its prompt, and stores snapshots on the way.

    Args:
        turn: a turn that has not started, on an empty cache.
        snapshots: where it begins and what it adds to.
        messages: what the prompt renders; none if it is a raw text.
        anchors: of the messages; None for a raw text.
        keep: called with the files on disk that hold the turn's tokens, whenever it has added some.
    """

    def __init__(
        self,
        turn: Turn,
        snapshots: SnapshotCache,
        messages: Sequence[Mapping[str, Any]] = (),
        anchors: PromptAnchors | None = None,
        keep: Callable[[Sequence[str]], None] | None = None,
    ):
        self.turn = turn
        self._snapshots = snapshots
        self._messages = messages
        self._anchors = anchors
        self._keep = keep
        self._tool_call = 0  # where the next prompt goes on after a tool call
        self._before_tool_call: Snapshot | None = None

    def run(self) -> Generator[TurnEvent]:
        """The turn's events. Call `end` when they have ended, for whatever reason."""
        turn = self.turn
        self._snapshots.restore(turn.prompt, turn.cache)
        kept = self._positions()
        turn.snapshot_at = sorted({*kept, self._tool_call})
        turn.take_snapshot = lambda: self._take_snapshot(kept)
        try:
            yield from turn.run()
        except (DeviceError, ProcessLostError, RuntimeError):
            # They share keys and values with the turn, of which some cannot be computed.
            self._snapshots.forget()
            raise

    def end(self, reply: Mapping[str, Any] | None) -> None:
        """Add the snapshot that the next prompt goes on from, and write all of them.

        A turn that is forgotten may end in another thread or a forked process, when its events are
        dropped there: then the network's arrays are left alone.

        Args:
            reply: as chat templates take it; None if the turn failed.
        """
        turn = self.turn
        if not turn.owner.here:
            return
        if reply is not None and turn.reply_ids:
            self._snapshot_end(reply)
        self._write([*turn.prompt, *turn.reply_ids])

    def _positions(self) -> set[int]:
        """Where in the prompt a snapshot is worth keeping."""
        prompt = self.turn.prompt
        # Prefill stops before the last prompt token, which is the input of the first decode.
        last = len(prompt) - 1
        kept = {*range(CHECKPOINT_TOKENS, len(prompt), CHECKPOINT_TOKENS)}
        if self._anchors is None:
            return {*kept, last}
        kept.add(min(self._anchors.anchor(self._messages, prompt), last))
        shared = self._anchors.system_anchor(self._messages, prompt)
        if shared >= MIN_SHARED_TOKENS:
            kept.add(shared)
        self._tool_call = min(self._anchors.tool_call_anchor(self._messages, prompt), last)
        return kept

    def _take_snapshot(self, kept: set[int]) -> None:
        prompt, position = self.turn.prompt, self.turn.cache.offset
        snapshot = self.turn.snapshot()
        if position == self._tool_call:
            self._before_tool_call = snapshot
        if position in kept:
            self._snapshots.add(prompt[:position], snapshot)
        if position % CHECKPOINT_TOKENS == 0:
            self._write(prompt[:position])

    def _snapshot_end(self, reply: Mapping[str, Any]) -> None:
        """Add a snapshot where the next prompt continues: after the reply or before a tool call."""
        turn, before = self.turn, self._before_tool_call
        ids = [*turn.prompt, *turn.reply_ids]
        if turn.cache.offset == len(ids) and self._continues(reply, ids):
            self._snapshots.add(ids, turn.snapshot())
        elif before is not None and reply.get("tool_calls"):
            # The template may render the tool call differently from the model's own text.
            self._snapshots.add(turn.prompt[: before.offset], before)

    def _continues(self, reply: Mapping[str, Any], ids: Sequence[int]) -> bool:
        """Whether the next prompt begins with all of `ids`."""
        if self._anchors is None:
            return True
        return self._anchors.continues([*self._messages, reply], ids)

    def _write(self, ids: Sequence[int]) -> None:
        self._snapshots.write()
        if self._keep is not None:
            self._keep(self._snapshots.files(ids))
