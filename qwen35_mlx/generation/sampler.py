"""Sampling: the next token from logits.

The methods, their order and their random draws are mlx-lm's (`mlx_lm.sample_utils`), which the
tests compare with bit for bit: penalties on the logits, then top_p, min_p and top_k in turn, then
temperature and the draw. They are rewritten here because importing mlx-lm takes about a second.

mlx-lm sorts the whole vocabulary and draws among all of it. With a small top_k, which every model
card recommends, the same tokens in the same proportions come from the k most likely alone.
"""

import math
from collections.abc import Callable
from functools import partial

import mlx.core as mx

from qwen35_mlx.generation.sampling_parameters import Sampling

# Logits [vocab] and the reply's tokens so far [n] -> the next token.
Sampler = Callable[[mx.array, mx.array], mx.array]
# Logits [vocab] -> the next token.
Draw = Callable[[mx.array], mx.array]

# Up to this top_k only the most likely tokens are sampled from.
MAX_CANDIDATES = 64
# The vocabulary is searched for them in rows of this length: a GPU sorts many short rows in one
# launch, and one long row in several.
ROW_LENGTH = 2048


def make_sampler(sampling: Sampling, vocab_size: int) -> Sampler:
    """Logits [vocab] and the reply's tokens so far [n] -> the next token, a lazy scalar."""
    draw = _make_draw(sampling, vocab_size)
    if sampling.presence_penalty == 0 and sampling.repetition_penalty == 1:
        return lambda logits, _: draw(logits)
    return lambda logits, reply: draw(penalised(logits, reply, sampling))


def _make_draw(sampling: Sampling, vocab_size: int) -> Draw:
    """`make_sampler` without the penalties."""
    if sampling.temperature == 0:
        return mx.argmax
    if 0 < sampling.top_k <= min(MAX_CANDIDATES, vocab_size):
        return _top_k_draw(sampling)
    return full_vocabulary_draw(sampling)


def full_vocabulary_draw(sampling: Sampling) -> Draw:
    """A draw at a temperature above 0, with any top_k or none: the definition."""
    scaled = mx.compile(partial(filtered, sampling=sampling))
    # A batch of one, as in mlx-lm: MLX draws other numbers for an array of one axis.
    return lambda logits: mx.random.categorical(scaled(logits)[None]).squeeze(0)


def _top_k_draw(sampling: Sampling) -> Draw:
    """The same distribution as `full_vocabulary_draw`, for a small top_k."""
    scaled = mx.compile(partial(top_k_candidates, sampling=sampling))

    def draw(logits: mx.array) -> mx.array:
        ids, logprobs = scaled(logits)
        return ids[mx.random.categorical(logprobs)]

    return draw


def penalised(logits: mx.array, reply: mx.array, sampling: Sampling) -> mx.array:
    """Logits [vocab] float32 with both penalties for every token of the reply [n].

    A token that occurs several times is penalised once.
    """
    logits = logits.astype(mx.float32)
    if reply.size == 0:
        return logits
    values = logits[reply]
    if sampling.repetition_penalty != 1:
        penalty = sampling.repetition_penalty
        values = mx.where(values < 0, values * penalty, values / penalty)
    values = values - sampling.presence_penalty
    return mx.put_along_axis(logits, reply, values, axis=-1)


def filtered(logits: mx.array, sampling: Sampling) -> mx.array:
    """Log-probabilities over temperature [vocab] float32, not normalised; logits [vocab].

    Tokens that top_p, min_p or top_k remove are -inf.
    """
    logits = logits.astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, keepdims=True)
    if sampling.top_p < 1:
        logprobs = _keep_top_p(logprobs, sampling.top_p)
    if sampling.min_p > 0:
        threshold = mx.max(logprobs) + math.log(sampling.min_p)
        logprobs = mx.where(logprobs < threshold, -mx.inf, logprobs)
    if 0 < sampling.top_k < logprobs.size:
        kept = mx.argpartition(-logprobs, kth=sampling.top_k - 1)[: sampling.top_k]
        nothing = mx.full(logprobs.shape, -mx.inf)
        logprobs = mx.put_along_axis(nothing, kept, logprobs[kept], axis=-1)
    return logprobs * (1 / sampling.temperature)


def _keep_top_p(logprobs: mx.array, top_p: float) -> mx.array:
    """The most likely tokens that together reach `top_p`, and those as likely as the last one."""
    ascending = mx.sort(logprobs)
    probabilities = mx.exp(ascending)
    more_likely = mx.cumsum(probabilities, reverse=True, inclusive=False)
    total = more_likely[0] + probabilities[0]
    removed = mx.sum(more_likely >= top_p * total)
    return mx.where(logprobs < ascending[removed], -mx.inf, logprobs)


def top_k_candidates(logits: mx.array, sampling: Sampling) -> tuple[mx.array, mx.array]:
    """The tokens to draw from, for a top_k of at most `MAX_CANDIDATES`; logits [vocab].

    Returns:
        ids [top_k], most likely first, and their log-probabilities over temperature [top_k]
        float32, not normalised: -inf for those that top_p or min_p removes.
    """
    logits = logits.astype(mx.float32)
    ids = top_k_ids(logits, sampling.top_k)
    logprobs = logits[ids] - mx.logsumexp(logits)
    kept = logprobs
    # As in `filtered`, top_p and min_p refer to the whole vocabulary's distribution.
    if sampling.top_p < 1:
        probabilities = mx.exp(logprobs)
        more_likely = mx.cumsum(probabilities) - probabilities
        kept = mx.where(more_likely >= sampling.top_p, -mx.inf, kept)
    if sampling.min_p > 0:
        kept = mx.where(logprobs < logprobs[0] + math.log(sampling.min_p), -mx.inf, kept)
    return ids, kept / sampling.temperature


def top_k_ids(logits: mx.array, count: int) -> mx.array:
    """Indices [count] of the largest of logits [vocab], largest first."""
    (vocab,) = logits.shape
    if vocab <= ROW_LENGTH:
        return mx.argsort(-logits)[:count]
    rows = -(-vocab // ROW_LENGTH)
    padding = (0, rows * ROW_LENGTH - vocab)
    padded = mx.pad(logits, padding, constant_values=-mx.inf).reshape(rows, ROW_LENGTH)
    best = mx.argpartition(-padded, kth=count - 1, axis=-1)[:, :count]
    best = (best + ROW_LENGTH * mx.arange(rows, dtype=best.dtype)[:, None]).flatten()
    return best[mx.argsort(-padded.flatten()[best])[:count]]
