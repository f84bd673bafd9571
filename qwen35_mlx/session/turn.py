"""One turn: a rendered prompt into a reply, as events."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import make_sampler
from qwen35_mlx.generation.sampling import Sampling
from qwen35_mlx.library.conversation import FinishReason, Usage
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network
from qwen35_mlx.session.events import (
    Answer,
    Done,
    PrefillProgress,
    Thinking,
    ToolCall,
    TurnEvent,
    Written,
)
from qwen35_mlx.text.reply import (
    AnswerText,
    ReplyParser,
    ReplyPart,
    ThinkingText,
    message_from,
)
from qwen35_mlx.text.stop import StopStrings
from qwen35_mlx.text.tokenizer import Tokenizer


@dataclass(slots=True)
class Turn:
    """A turn to run: what is asked, and, as it runs, what has been said.

    Attributes:
        prompt: the rendered conversation; `cache` already holds its first `cache.offset` tokens.
        stops: positions in `prompt`, ascending, at which `at_stop` is called, once the cache holds
            exactly that many tokens; not called for those that it starts at or beyond.
        eos: tokens that end the reply.
        stop: ends the reply too, at some text.
        reply: the tokens generated so far, all of them in the cache.
        parts: the same as text, split.
    """

    network: Network
    tokenizer: Tokenizer
    cache: Cache
    prompt: Sequence[int]
    parser: ReplyParser
    eos: frozenset[int]
    stop: StopStrings
    sampling: Sampling
    max_tokens: int
    chunk: int
    seed: int | None = None
    stops: Sequence[int] = ()
    at_stop: Callable[[], None] = lambda: None
    reply: list[int] = field(default_factory=list)
    parts: list[ReplyPart] = field(default_factory=list)

    @property
    def said(self) -> dict[str, Any]:
        """The message so far, with what the parser holds back: of a tool call, say."""
        return message_from([*self.parts, *self.parser.held()])

    def run(self) -> Generator[TurnEvent]:
        """Prefill, then decode to the end of the reply. Closing the iterator cancels.

        There is an event after every chunk of the prompt and every token of the reply.
        """
        mx.reset_peak_memory()
        started = time.perf_counter()
        cached = self.cache.offset
        yield from self._prefill(cached)
        if self.seed is not None:
            mx.random.seed(self.seed)
        choose = make_sampler(self.sampling, self.network.config.vocab_size)
        tokens = decode(self.network, self.cache, self.prompt[-1], choose)
        text = self.stop
        decoder = self.tokenizer.stream()
        first_at = started
        reason: FinishReason = "length"
        for token in tokens:
            self.reply.append(token)
            if len(self.reply) == 1:
                first_at = time.perf_counter()
            if token in self.eos:
                reason = "stop"
                break
            said = yield from self._say(text.push(decoder.push(token)))
            if text.stopped:
                reason = "stop"
                break
            if not said:
                yield Written(len(self.reply))
            if len(self.reply) == self.max_tokens:
                break
        tokens.close()
        ended = time.perf_counter()
        if not text.stopped:
            yield from self._say(text.push(decoder.flush()) + text.flush())
        yield from self._take(self.parser.finish())
        message = message_from(self.parts)
        if reason == "stop" and message.get("tool_calls"):
            reason = "tool_calls"
        usage = Usage(
            prompt_tokens=len(self.prompt),
            cached_tokens=cached,
            reply_tokens=len(self.reply),
            prefill_seconds=first_at - started,
            decode_seconds=ended - first_at,
            peak_memory=mx.get_peak_memory(),
        )
        yield Done(reason, usage, message)

    def _prefill(self, cached: int) -> Generator[PrefillProgress]:
        """All of the prompt but its last token, which decoding begins with."""
        total = len(self.prompt)
        yield PrefillProgress(cached, total, cached)
        stops = [stop for stop in self.stops if cached < stop < total]
        for stop in sorted({*stops, total - 1}):
            start = self.cache.offset
            for done in prefill(self.network, self.cache, self.prompt[start:stop], self.chunk):
                yield PrefillProgress(start + done, total, cached)
            if stop in stops:
                self.at_stop()

    def _say(self, text: str) -> Generator[TurnEvent, None, bool]:
        """What a text gives; whether that was anything."""
        parts = self.parser.push(text) if text else []
        yield from self._take(parts)
        return bool(parts)

    def _take(self, parts: Sequence[ReplyPart]) -> Generator[TurnEvent]:
        for part in parts:
            self.parts.append(part)
            if isinstance(part, ThinkingText):
                yield Thinking(part.text)
            elif isinstance(part, AnswerText):
                yield Answer(part.text)
            else:
                yield ToolCall(part.name, part.arguments)
