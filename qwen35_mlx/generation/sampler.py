"""How the next token is chosen from logits. The methods are mlx-lm's.

mlx-lm sorts the whole vocabulary twice a token and draws among all of it. With top_k, which every
model card asks for, the same tokens in the same proportions come from the k likeliest alone.
"""

import math
from collections.abc import Callable
from functools import partial

import mlx.core as mx

from qwen35_mlx.generation.sampling import Sampling

Sampler = Callable[[mx.array, mx.array], mx.array]

# Up to this top_k the likeliest are looked for row by row: a GPU sorts many short rows in one
# launch, and one long row in many.
MOST_CANDIDATES = 64
ROW = 2048
# Penalties look at the whole reply. mlx-lm counts back from its end, so: further than any reply.
_WHOLE_REPLY = 1 << 30


def make_sampler(sampling: Sampling, vocab_size: int) -> Sampler:
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


def _make_sampler(sampling: Sampling, vocab_size: int) -> Sampler:
    """`make_sampler` but for the penalties."""
    if sampling.temperature == 0:
        return lambda logits, _: mx.argmax(logits)
    if 0 < sampling.top_k <= min(MOST_CANDIDATES, vocab_size):
        return _candidate_sampler(sampling)
    return plain_sampler(sampling, vocab_size)


def plain_sampler(sampling: Sampling, vocab_size: int) -> Sampler:
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


def _candidate_sampler(sampling: Sampling) -> Sampler:
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
