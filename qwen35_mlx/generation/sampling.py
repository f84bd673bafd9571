"""How the next token is chosen from logits. The methods are mlx-lm's.

mlx-lm sorts the whole vocabulary twice a token and draws among all of it. With top_k, which every
model card asks for, the same tokens in the same proportions come from the k likeliest alone.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error

Chooser = Callable[[mx.array, mx.array], mx.array]

# Up to this top_k the likeliest are looked for row by row: a GPU sorts many short rows in one
# launch, and one long row in many.
MOST_CANDIDATES = 64
ROW = 2048
# Penalties look at the whole reply. mlx-lm counts back from its end, so: further than any reply.
_WHOLE_REPLY = 1 << 30


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters, under the names that model cards use.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p, top_k, min_p: filters; 1, 0 and 0 switch them off.
        presence_penalty: subtracted from the logit of every token that the reply already has.
        repetition_penalty: divides (or, below 0, multiplies) those logits; 1 is none.

    Raises:
        Qwen35Error: a value is out of its range.
    """

    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    min_p: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, value, ok, want in (
            ("temperature", self.temperature, self.temperature >= 0, "0 or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k, self.top_k >= 0, "0 or more"),
            ("min_p", self.min_p, 0 <= self.min_p < 1, "at least 0 and below 1"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0"),
        ):
            if not ok:
                raise Qwen35Error(f"{name} is {value}: it must be {want}")

    def updated(self, changes: Mapping[str, Any]) -> "Sampling":
        """With the values of `changes` that are not None.

        Raises:
            Qwen35Error: a name is unknown, or a value is out of its range.
        """
        known = {field.name for field in fields(self)}
        if unknown := sorted(set(changes) - known):
            raise Qwen35Error(
                f"'{unknown[0]}' is not a sampling parameter: {', '.join(sorted(known))} are"
            )
        return replace(self, **{name: v for name, v in changes.items() if v is not None})

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> "Sampling":
        """The defaults that a checkpoint's generation_config.json asks for."""
        if config.get("do_sample") is False:
            return cls(temperature=0.0)
        known = {field.name for field in fields(cls)}
        return cls().updated({name: v for name, v in config.items() if name in known})


def make_chooser(sampling: Sampling, vocab_size: int) -> Chooser:
    """Logits [vocab] and the reply's tokens so far [n] -> the next token, a lazy scalar."""
    if sampling.presence_penalty == 0 and sampling.repetition_penalty == 1:
        return _make_sampler(sampling, vocab_size)

    # mlx-lm imports transformers, over a second: only who needs it pays for it.
    from mlx_lm.sample_utils import make_logits_processors

    penalty = sampling.repetition_penalty
    processors = make_logits_processors(
        repetition_penalty=None if penalty == 1 else penalty,
        repetition_context_size=_WHOLE_REPLY,
        presence_penalty=sampling.presence_penalty,
        presence_context_size=_WHOLE_REPLY,
    )
    sample = _make_sampler(sampling, vocab_size)

    def choose(logits: mx.array, reply: mx.array) -> mx.array:
        logits = logits.astype(mx.float32)[None]
        for process in processors:
            logits = process(reply, logits)
        return sample(logits.squeeze(0), reply)

    return choose


def _make_sampler(sampling: Sampling, vocab_size: int) -> Chooser:
    """`make_chooser` but for the penalties."""
    if sampling.temperature == 0:
        return lambda logits, _: mx.argmax(logits)
    if 0 < sampling.top_k <= min(MOST_CANDIDATES, vocab_size):
        return _candidate_sampler(sampling)
    return plain_sampler(sampling, vocab_size)


def plain_sampler(sampling: Sampling, vocab_size: int) -> Chooser:
    """mlx-lm's sampler: the definition, and the way for a large top_k or none."""
    from mlx_lm.sample_utils import make_sampler

    sample = make_sampler(
        temp=sampling.temperature,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        top_k=sampling.top_k if sampling.top_k < vocab_size else 0,
    )

    def choose(logits: mx.array, _: mx.array) -> mx.array:
        logits = logits.astype(mx.float32)[None]
        return sample(logits - mx.logsumexp(logits, axis=-1, keepdims=True)).squeeze(0)

    return choose


def _candidate_sampler(sampling: Sampling) -> Chooser:
    scaled = mx.compile(partial(candidates, sampling=sampling))

    def choose(logits: mx.array, _: mx.array) -> mx.array:
        ids, logprobs = scaled(logits)
        return ids[mx.random.categorical(logprobs)]

    return choose


def candidates(logits: mx.array, sampling: Sampling) -> tuple[mx.array, mx.array]:
    """The tokens to draw among, by a top_k of at most `MOST_CANDIDATES`, logits [vocab].

    Returns:
        ids [top_k], likeliest first, and their log-probabilities over the temperature [top_k]
        float32, not normalised: -inf for those that top_p or min_p leaves out.
    """
    logits = logits.astype(mx.float32)
    ids = likeliest(logits, sampling.top_k)
    logprobs = logits[ids] - mx.logsumexp(logits)
    kept = logprobs
    # Filters look at the whole vocabulary's distribution before temperature, as mlx-lm's do.
    if sampling.top_p < 1:
        probabilities = mx.exp(logprobs)
        likelier = mx.cumsum(probabilities) - probabilities
        kept = mx.where(likelier >= sampling.top_p, -mx.inf, kept)
    if sampling.min_p > 0:
        kept = mx.where(logprobs < logprobs[0] + math.log(sampling.min_p), -mx.inf, kept)
    return ids, kept / sampling.temperature


def likeliest(logits: mx.array, count: int) -> mx.array:
    """Indices [count] of the largest of logits [vocab], largest first."""
    (vocab,) = logits.shape
    if vocab <= ROW:
        return mx.argsort(-logits)[:count]
    rows = -(-vocab // ROW)
    padded = mx.pad(logits, (0, rows * ROW - vocab), constant_values=-mx.inf).reshape(rows, ROW)
    best = mx.argpartition(-padded, kth=count - 1, axis=-1)[:, :count]
    best = (best + ROW * mx.arange(rows, dtype=best.dtype)[:, None]).flatten()
    return best[mx.argsort(-padded.flatten()[best])[:count]]
