"""One turn: from a rendered prompt to a reply, as events."""

import secrets
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from qwen35_mlx.distributed.leader import LeadingNetwork
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.decode_group import DecodeGroup
from qwen35_mlx.generation.drafter import Drafter
from qwen35_mlx.generation.grammar import Grammar
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.repetition import repeats_without_end
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, REFERENCE
from qwen35_mlx.library.conversation import FinishReason, Usage
from qwen35_mlx.lifetime import Owner
from qwen35_mlx.model.cache import Cache, Snapshot
from qwen35_mlx.model.network import Network
from qwen35_mlx.session.events import Done, DraftCounts, PrefillProgress, TurnEvent, Written
from qwen35_mlx.session.thinking_budget import ThinkingBudget
from qwen35_mlx.text.reply import (
    THINK_CLOSE,
    PlainParser,
    ReplyContent,
    ReplyEvent,
    ReplyParser,
    join_events,
)
from qwen35_mlx.text.reply_end import ReplyEnd
from qwen35_mlx.text.tokenizer import StreamDecoder, Tokenizer


class DeviceError(Qwen35Error):
    """What MLX computes a turn with has failed; the arrays of the turn are lost."""


@dataclass(slots=True)
class Turn:
    """A turn that can be run once, and the reply as far as it is written.

    Attributes:
        prompt: the rendered conversation; `cache` already holds its first `cache.offset` tokens.
        eos: tokens that end the reply.
        end: where the reply ends before the model ends it.
        max_tokens: length of the reply.
        chunk: tokens of prefill between two events; it may change from one to the next.
        owner: of the network; only that thread may run the turn.
        grammar: of the reply; None for any.
        drafter: of tokens that are verified together; None decodes one a pass.
        group: replies that this one shares passes with while it is wanted; then without drafts.
            None for passes of its own.
        start: of the reply, for the model to go on from.
        start_ids: its tokens, the last of `prompt`.
        budget: of thinking; None for as much as the model likes.
        repetition_guard: whether to end a reply that repeats itself without end.
        snapshot_at: positions in `prompt`, ascending. `take_snapshot` is called at each one beyond
            the initial `cache.offset`, when the cache holds exactly this number of tokens.
        prefill_end: where in `prompt` the decode begins, with a few tokens or one.
        reply_ids: the tokens of the reply so far without its start, all of them in the cache.
        reply_events: their text, parsed, behind the start.
        reasoning_tokens: how many of them are thinking, with the tag that ends it.
    """

    network: Network
    tokenizer: Tokenizer
    cache: Cache
    prompt: Sequence[int]
    parser: ReplyParser | PlainParser
    eos: frozenset[int]
    end: ReplyEnd
    sampling: Sampling
    max_tokens: int
    chunk: int
    owner: Owner
    seed: int | None = None
    grammar: Grammar | None = None
    drafter: Drafter | None = None
    group: DecodeGroup | None = None
    start: Sequence[ReplyEvent] = ()
    start_ids: Sequence[int] = ()
    budget: ThinkingBudget | None = None
    repetition_guard: bool = True
    snapshot_at: Sequence[int] = ()
    take_snapshot: Callable[[], None] = lambda: None
    prefill_end: int = field(init=False)
    reply_ids: list[int] = field(default_factory=list)
    reply_events: list[ReplyEvent] = field(default_factory=list)
    reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        self.prefill_end = len(self.prompt) - 1

    @property
    def content(self) -> ReplyContent:
        """The reply so far, including what the parser holds back, such as an open tool call."""
        pending = self.end.pending(self.parser.pending())
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
            ProcessLostError: another process is lost that runs the network, too.
        """
        try:
            yield from self._run()
        except RuntimeError as error:
            if isinstance(self.network, LeadingNetwork):
                self.network.followers.check_soon()
            # MLX raises no class of its own, others do.
            if type(error) is not RuntimeError or not gpu_kernel.on_gpu():
                raise
            reason, _, _ = str(error).partition("\n")
            raise DeviceError(
                f"the GPU could not compute the reply ({reason}): if its "
                "memory is full, shorten the conversation; else set "
                f"{gpu_kernel.KERNELS_ENV}={REFERENCE} to go on without kernels, and report it"
            ) from error

    def run_to_end(self) -> Done:
        """As `run`, for those who need the whole reply alone."""
        *_, done = self.run()
        assert isinstance(done, Done)
        return done

    def _run(self) -> Generator[TurnEvent]:
        mx.reset_peak_memory()
        started = time.perf_counter()
        cached = self.cache.offset
        if self.drafter is not None:
            self.drafter.begin(self.prompt, cached)
        yield from self._prefill(cached)
        yield from self._note([*self.start])
        seed = secrets.randbits(63) if self.seed is None else self.seed
        sampler = Sampler(self.sampling, self.network.config.vocab_size, seed, self.grammar)
        decoder = self.tokenizer.stream()
        first_token_at = started
        reason: FinishReason = "length"
        with closing(self._tokens(sampler, decoder)) as tokens:
            for forced, token in tokens:
                if not self.reply_ids:
                    first_token_at = time.perf_counter()
                self.reply_ids += [*forced, token]
                events = self._force(forced, decoder) if forced else []
                if token in self.eos:
                    reason = "stop"
                    yield from events
                    break
                events += self._take(token, decoder)
                yield from events
                if self.end.reached:
                    break
                if not events:
                    yield Written(len(self.reply_ids))
                if self.repetition_guard and repeats_without_end(self.reply_ids):
                    reason = "repetition"
                    break
                if len(self.reply_ids) >= self.max_tokens:
                    break
        ended = time.perf_counter()
        yield from self._parse(decoder.flush())
        yield from self._note(self.end.finish(self.parser.finish()))
        if self.end.reached:
            reason = "stop"
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
            reasoning_tokens=self.reasoning_tokens,
        )
        message, drafts = content.for_template(), self._draft_counts()
        yield Done(reason, usage, message, drafts, self.end.stop)

    def _draft_counts(self) -> DraftCounts | None:
        of = self.drafter
        if of is None or not of.passes:
            return None
        return DraftCounts(of.passes, of.drafted, of.accepted, of.speedup)

    def _prefill(self, cached: int) -> Generator[PrefillProgress]:
        """Read the prompt up to `prefill_end`."""
        total = len(self.prompt)
        yield PrefillProgress(cached, total, cached)
        snapshot_at = [position for position in self.snapshot_at if cached < position < total]
        last = max(snapshot_at, default=cached)
        if total - last <= MAX_DECODE_TOKENS:  # a pass of their own would take as long as a token's
            self.prefill_end = last
        for end in sorted({*snapshot_at, self.prefill_end}):
            for done in self._read(self.prompt, end):
                yield PrefillProgress(done, total, cached)
            if end in snapshot_at:
                self.take_snapshot()

    def _read(self, ids: Sequence[int], end: int) -> Generator[int]:
        """Bring the cache from `ids[:cache.offset]` to `ids[:end]`; yields its offsets."""
        while (start := self.cache.offset) < end:
            piece = ids[start : min(start + self.chunk, end)]
            observe = partial(self._show_to_drafter, ids, start)
            for done in prefill(self.network, self.cache, piece, len(piece), observe):
                yield start + done

    def _show_to_drafter(self, ids: Sequence[int], base: int, hidden: mx.array, index: int) -> None:
        """Show it a prefilled chunk, whose first token is at `base + index` of `ids`."""
        if self.drafter is not None:
            following = base + index + 1
            self.drafter.read_chunk(ids[following : following + hidden.shape[1]], hidden)

    def _tokens(
        self, sampler: Sampler, decoder: StreamDecoder
    ) -> Generator[tuple[Sequence[int], int]]:
        """The tokens that are sampled, each with those that are forced before it.

        When one is yielded, the cache holds it, and all before it.
        """
        forced = self._forced(decoder)
        while True:
            reply = [*self.reply_ids, *forced]
            ids, written = [*self.prompt, *reply], [*self.start_ids, *reply]
            if forced:
                self._read_forced(ids)
            joins = self._joins()
            with closing(self._source(joins, sampler, ids[self.cache.offset :], written)) as tokens:
                for token in tokens:
                    yield forced, token
                    forced = self._forced(decoder)
                    if forced or (self._joins() and not joins):
                        break
            if not forced:
                self._change_passes(joins)

    def _change_passes(self, shared: bool) -> None:
        """From passes of its own to shared ones or back: the last token is read again in them."""
        if not shared:
            self.network.take_back(self.cache, 1)
        elif self.drafter is not None:  # the group has taken it back
            self.drafter.begin([*self.prompt, *self.reply_ids], self.cache.offset)

    def _joins(self) -> bool:
        """Whether this reply should begin to share passes with others now."""
        return self.group is not None and self.group.open

    def _source(
        self, joins: bool, sampler: Sampler, newest: Sequence[int], reply: Sequence[int]
    ) -> Generator[int]:
        """The tokens after the newest ones, from shared passes or its own."""
        if self.group is not None and joins:
            return self.group.decode(self.cache, newest, sampler, reply)
        revocable = self.group is not None
        return decode(
            self.network, self.cache, newest, sampler, self.drafter, reply, revocable=revocable
        )

    def _forced(self, decoder: StreamDecoder) -> Sequence[int]:
        """Tokens that end the thinking here, if its budget is spent and they leave room.

        None within a character: its other bytes would be missing.
        """
        if self.budget is None or not self.parser.thinking or decoder.incomplete:
            return ()
        room = self.max_tokens - len(self.reply_ids)
        return self.budget.forced(self.reasoning_tokens, room)

    def _read_forced(self, ids: Sequence[int]) -> None:
        """Read all of `ids` but the last, as a prompt that the reply goes on from."""
        if self.drafter is not None:
            self.drafter.save()
            self.drafter.begin(ids, self.cache.offset)
        for _ in self._read(ids, len(ids) - 1):
            pass

    def _force(self, ids: Sequence[int], decoder: StreamDecoder) -> list[ReplyEvent]:
        """Add forced tokens to the thinking."""
        self.reasoning_tokens += len(ids)
        return [event for token in ids for event in self._parse_token(token, decoder)]

    def _take(self, token: int, decoder: StreamDecoder) -> list[ReplyEvent]:
        """Add a sampled token to the reply."""
        thinking = self.parser.thinking
        events = self._parse_token(token, decoder)
        self.reasoning_tokens += thinking or self.parser.thinking
        return events

    def _parse_token(self, token: int, decoder: StreamDecoder) -> list[ReplyEvent]:
        text, parser = decoder.push(token), self.parser
        ends = parser.thinking and token == self.tokenizer.control_tokens.id(THINK_CLOSE)
        if not (ends and isinstance(parser, ReplyParser)):
            return self._parse(text)
        before = self._parse(text.removesuffix(THINK_CLOSE))  # of a character that was cut
        return [*before, *self._note(self.end.push(parser.end_thinking()))]

    def _parse(self, text: str) -> list[ReplyEvent]:
        return self._note(self.end.push(self.parser.push(text)) if text else [])

    def _note(self, events: list[ReplyEvent]) -> list[ReplyEvent]:
        self.reply_events += events
        return events
