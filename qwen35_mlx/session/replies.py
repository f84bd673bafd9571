"""The replies of one loaded model: how they begin, and how many fit into the memory."""

from collections.abc import Sequence

from qwen35_mlx.library.library import Library
from qwen35_mlx.model.memory import estimate
from qwen35_mlx.prompt_cache.snapshots import SnapshotCache
from qwen35_mlx.session import memory
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.prefill_pace import PrefillPace
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.session.running_reply import RunningReply, stateless_reply
from qwen35_mlx.session.sessions import Sessions

# Of the memory that is left beside a model, what snapshots of all clients may take.
SNAPSHOT_SHARE = 0.25


class Replies:
    """Begins the replies of a model, with the prompt cache that all of them share.

    Args:
        library: of sessions; None for none.

    Attributes:
        pace: of reading prompts.
        sessions: those that are being replied to.
    """

    def __init__(self, model: Model, library: Library | None):
        self._model = model
        room = int(SNAPSHOT_SHARE * memory.room_beside([], model.weight_bytes))
        self._snapshots = SnapshotCache(model.states, shared_bytes=max(room, 0))
        self.pace = PrefillPace(memory.chunk_sizes())
        self.sessions = Sessions(library)

    def begin(self, request: ReplyRequest) -> RunningReply:
        """The reply to a request, not yet started.

        Raises:
            BusyError: its session is open elsewhere.
            Qwen35Error: the request is not valid, or its prompt does not fit.
        """
        begin = stateless_reply if request.session is None else self.sessions.begin
        return begin(self._model, request, self._snapshots)

    def make_room(self, running: Sequence[RunningReply], reply: RunningReply) -> bool:
        """Drop snapshots from memory until a reply fits beside running ones.

        Returns whether it does. One that is alone always does: its prompt was checked.
        """
        room = memory.room_beside(
            [self._need(one) for one in (*running, reply)], self._model.weight_bytes
        )
        if room < 0 and running:
            return False
        self._snapshots.keep_within(max(room, 0))
        return True

    def _need(self, reply: RunningReply) -> memory.Estimate:
        network = self._model.network
        return estimate(
            network.config,
            network.dtype.size,
            len(reply.turn.prompt),
            reply.turn.chunk,
            self._model.kv_bits,
            mtp=network.mtp is not None,
        )
