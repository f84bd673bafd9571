"""One turn: from a rendered prompt to a reply, as events."""

import secrets
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.drafter import Drafter
from qwen35_mlx.generation.grammar import Grammar
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.kernels.selection import REFERENCE
from qwen35_mlx.library.conversation import FinishReason, Usage
from qwen35_mlx.lifetime import Owner
from qwen35_mlx.model.cache import Cache, Snapshot
from qwen35_mlx.model.network import Network
from qwen35_mlx.session.events import Done, DraftCounts, PrefillProgress, TurnEvent, Written
from qwen35_mlx.text.reply import (
    PlainParser,
    ReplyContent,
    ReplyEvent,
    ReplyParser,
    ToolCall,
    join_events,
)
from qwen35_mlx.text.stop import StopStrings
from qwen35_mlx.text.tokenizer import Tokenizer


class DeviceError(Qwen35Error):
    """What MLX computes a turn with has failed; the arrays of the turn are lost."""


@dataclass(slots=True)
class Turn:
    """A turn that can be run once, and the reply as far as it is written.

    Attributes:
        prompt: the rendered conversation; `cache` already holds its first `cache.offset` tokens.
        eos: tokens that end the reply.
        stop: strings that end the reply.
        max_tokens: length of the reply.
        chunk: tokens of prefill between two events; it may change from one to the next.
        owner: of the network; only that thread may run the turn.
        grammar: of the reply; None for any.
        one_call: whether the reply ends after one tool call.
        drafter: of tokens that are verified together; None decodes one a pass.
        snapshot_at: positions in `prompt`, ascending. `take_snapshot` is called at each one beyond
            the initial `cache.offset`, when the cache holds exactly this number of tokens.
        reply_ids: the tokens generated so far, all of them in the cache.
        reply_events: their text, parsed.
    """

    network: Network
    tokenizer: Tokenizer
    cache: Cache
    prompt: Sequence[int]
    parser: ReplyParser | PlainParser
    eos: frozenset[int]
    stop: StopStrings
    sampling: Sampling
    max_tokens: int
    chunk: int
    owner: Owner
    seed: int | None = None
    grammar: Grammar | None = None
    one_call: bool = False
    drafter: Drafter | None = None
    snapshot_at: Sequence[int] = ()
    take_snapshot: Callable[[], None] = lambda: None
    reply_ids: list[int] = field(default_factory=list)
    reply_events: list[ReplyEvent] = field(default_factory=list)

    @property
    def content(self) -> ReplyContent:
        """The reply so far, including what the parser holds back, such as an open tool call."""
        pending = [] if self._called else self.parser.pending()
        return join_events([*self.reply_events, *pending])

    def snapshot(self) -> Snapshot:
        """The state after the tokens that the cache holds now, before the turn's next event."""
        if self.drafter is not None:
            self.drafter.save()
        return self.cache.snapshot()

    def run(self) -> Generator[TurnEvent]:
        """Prefill, then decode to the end of the reply. Closing the iterator cancels.

        There is an event after every chunk of the prompt and every token of the reply.

        Raises:
            DeviceError: MLX could not compute it.
        """
        try:
            yield from self._run()
        except RuntimeError as error:
            # MLX raises no class of its own, others do.
            if type(error) is not RuntimeError or not gpu_kernel.on_gpu():
                raise
            reason, _, _ = str(error).partition("\n")
            raise DeviceError(
                f"the GPU could not compute the reply ({reason}): if its "
                "memory is full, shorten the conversation; else set "
                f"{gpu_kernel.KERNELS_ENV}={REFERENCE} to go on without kernels, and report it"
            ) from error

    def _run(self) -> Generator[TurnEvent]:
        mx.reset_peak_memory()
        started = time.perf_counter()
        cached = self.cache.offset
        if self.drafter is not None:
            self.drafter.begin(self.prompt, cached)
        yield from self._prefill(cached)
        seed = secrets.randbits(63) if self.seed is None else self.seed
        sampler = Sampler(self.sampling, self.network.config.vocab_size, seed, self.grammar)
        tokens = decode(self.network, self.cache, self.prompt[-1], sampler, self.drafter)
        decoder = self.tokenizer.stream()
        first_token_at = started
        reason: FinishReason = "length"
        for token in tokens:
            self.reply_ids.append(token)
            if len(self.reply_ids) == 1:
                first_token_at = time.perf_counter()
            if token in self.eos:
                reason = "stop"
                break
            events = self._parse(self.stop.push(decoder.push(token)))
            yield from events
            if self.stop.stopped or self._called:
                reason = "stop"
                break
            if not events:
                yield Written(len(self.reply_ids))
            if len(self.reply_ids) == self.max_tokens:
                break
        tokens.close()
        ended = time.perf_counter()
        if not (self.stop.stopped or self._called):
            yield from self._parse(self.stop.push(decoder.flush()) + self.stop.flush())
        if not self._called:
            yield from self._add(self.parser.finish())
        content = self.content
        if reason == "stop" and content.tool_calls:
            reason = "tool_calls"
        usage = Usage(
            prompt_tokens=len(self.prompt),
            cached_tokens=cached,
            reply_tokens=len(self.reply_ids),
            prefill_seconds=first_token_at - started,
            decode_seconds=ended - first_token_at,
            peak_memory=mx.get_peak_memory(),
        )
        yield Done(reason, usage, content.for_template(), self._draft_counts())

    def _draft_counts(self) -> DraftCounts | None:
        of = self.drafter
        if of is None or not of.passes:
            return None
        return DraftCounts(of.passes, of.drafted, of.accepted, of.speedup)

    def _prefill(self, cached: int) -> Generator[PrefillProgress]:
        """Read all of the prompt but its last token, which decoding begins with."""
        total = len(self.prompt)
        yield PrefillProgress(cached, total, cached)
        snapshot_at = [position for position in self.snapshot_at if cached < position < total]
        for end in sorted({*snapshot_at, total - 1}):
            while (start := self.cache.offset) < end:
                ids = self.prompt[start : min(start + self.chunk, end)]
                observe = partial(self._show_to_drafter, start)
                for done in prefill(self.network, self.cache, ids, len(ids), observe):
                    yield PrefillProgress(start + done, total, cached)
            if end in snapshot_at:
                self.take_snapshot()

    def _show_to_drafter(self, base: int, hidden: mx.array, index: int) -> None:
        """Show it a prefilled chunk, whose first token is at `base + index` of the prompt."""
        if self.drafter is not None:
            following = base + index + 1
            self.drafter.read_chunk(self.prompt[following : following + hidden.shape[1]], hidden)

    def _parse(self, text: str) -> list[ReplyEvent]:
        return self._add(self.parser.push(text) if text else [])

    def _add(self, events: list[ReplyEvent]) -> list[ReplyEvent]:
        if self.one_call:
            calls = [index for index, event in enumerate(events) if isinstance(event, ToolCall)]
            events = events[: calls[0] + 1] if calls else events
        self.reply_events += events
        return events

    @property
    def _called(self) -> bool:
        """Whether the reply has the one call that it may have."""
        return self.one_call and any(isinstance(one, ToolCall) for one in self.reply_events[-1:])
