"""The replies of one loaded model: how they begin, and how many fit into the memory."""

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from qwen35_mlx.generation.decode_group import DecodeGroup
from qwen35_mlx.library.library import Library
from qwen35_mlx.model.memory import estimate
from qwen35_mlx.prompt_cache.snapshots import SnapshotCache
from qwen35_mlx.session import memory
from qwen35_mlx.session.events import Measured
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.prefill_pace import PrefillPace
from qwen35_mlx.session.reply_options import EFFORT, ReplyOptions
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.session.running_reply import RunningReply, stateless_reply
from qwen35_mlx.session.sessions import Sessions

# Of the memory that is left beside a model, what snapshots of all clients may take.
SNAPSHOT_SHARE = 0.25
# Tokens that a reply is expected to go on for, where it may: most end by themselves before.
REPLY_TOKENS = 4096


class Replies:
    """Begins the replies of a model, with the prompt cache that all of them share.

    Args:
        library: of sessions; None for none.

    Attributes:
        group: of those that are being written.
        pace: of reading prompts.
        sessions: those that are being replied to.
    """

    def __init__(self, model: Model, library: Library | None):
        self._model = model
        room = int(SNAPSHOT_SHARE * memory.room_beside([], model.weight_bytes, model.memory))
        states = None if library is None else model.open_states(library.folder)
        self._snapshots = SnapshotCache(states, shared_bytes=max(room, 0))
        self.group = DecodeGroup(model.network)
        self.pace = PrefillPace(memory.chunk_sizes())
        self.sessions = Sessions(library)

    def begin(self, request: ReplyRequest) -> RunningReply:
        """The reply to a request, not yet started.

        Raises:
            BusyError: its session is open elsewhere.
            Qwen35Error: the request is not valid, or its prompt does not fit.
        """
        begin = stateless_reply if request.session is None else self.sessions.begin
        reply = begin(self._model, self._without_unread_effort(request), self._snapshots)
        reply.turn.group = self.group
        return reply

    def measured(self, request: ReplyRequest) -> Measured:
        """The length of a request's prompt, which may be of any length.

        Raises:
            Qwen35Error: the request is not valid.
        """
        messages = self.sessions.messages(request)
        options = ReplyOptions.of(self._without_unread_effort(request).options)
        ids = self._model.prompt_ids(messages, options)
        return Measured(None, len(ids), self._snapshots.longest_prefix(ids))

    def _without_unread_effort(self, request: ReplyRequest) -> ReplyRequest:
        """The request without a `reasoning_effort` that the template does not read.

        Programs send one to every model; it is a wish, unlike other arguments of a template.
        """
        template = self._model.template
        if template is None or EFFORT in template.arguments or EFFORT not in request.options:
            return request
        kept = {name: value for name, value in request.options.items() if name != EFFORT}
        return replace(request, options=kept)

    def make_room(self, running: Sequence[RunningReply], reply: RunningReply) -> bool:
        """Drop snapshots from memory until a reply fits beside running ones.

        Returns whether it does. One that is alone always does: its prompt was checked.
        """
        room = memory.room_beside(
            [self._need(one) for one in (*running, reply)],
            self._model.weight_bytes,
            self._model.memory,
        )
        if room < 0 and running:
            return False
        self._snapshots.keep_within(max(room, 0))
        return True

    def _need(self, reply: RunningReply) -> memory.Estimate:
        network, turn = self._model.network, reply.turn
        written = len(turn.reply_ids)
        ahead = min(turn.max_tokens - written, REPLY_TOKENS)
        return estimate(
            self._model.largest_part,
            network.dtype.size,
            len(turn.prompt) + written + ahead,
            turn.chunk,
            self._model.kv_bits,
            unpacks=mx.default_device() == mx.cpu,
            mtp=network.mtp is not None,
        )
