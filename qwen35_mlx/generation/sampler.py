"""Sampling: the next token from logits.

The methods and their order are mlx-lm's (`mlx_lm.sample_utils`), which the tests compare with bit
for bit: penalties on the logits, then top_p, min_p and top_k in turn, then temperature. They are
rewritten here because importing mlx-lm takes about a second.

The draw is the Gumbel-max trick: of log-probabilities over temperature plus noise, the largest. The
noise of a token at a position of the reply depends on the seed alone. So a reply is the same
whether its tokens are computed one by one or verified several at once. And a draft that is drawn
with the same noise, from a similar distribution, is most likely the same token (Daliri, Musco,
Suresh 2024, "Coupling without Communication and Drafter-Invariant Speculative Decoding").
"""

import math
from functools import partial
from hashlib import blake2b

import mlx.core as mx
import numpy as np

from qwen35_mlx.generation.grammar import Grammar, GrammarMatcher
from qwen35_mlx.generation.sampling_parameters import Sampling

# Up to this top_k only the most likely tokens are sampled from.
MAX_CANDIDATES = 64
# The vocabulary is searched for them in rows of this length: a GPU sorts many short rows in one
# launch, and one long row in several.
ROW_LENGTH = 2048
# Positions whose noise is computed together: 8 MB for a vocabulary of 248,320.
NOISE_ROWS = 8


class GumbelNoise:
    """Standard Gumbel noise for every token at every position of a reply, [positions, vocab].

    Args:
        seed: any whole number.
    """

    def __init__(self, vocab_size: int, seed: int):
        self._vocab_size = vocab_size
        self._seed = seed
        self._blocks: dict[int, mx.array] = {}

    def rows(self, position: int, count: int) -> mx.array:
        """The noise of `count` positions from `position` on, [count, vocab] float32."""
        first, last = position // NOISE_ROWS, (position + count - 1) // NOISE_ROWS
        self._blocks = {i: b for i, b in self._blocks.items() if i >= first - 1}
        blocks = [self._block(i) for i in range(first, last + 1)]
        start = position - first * NOISE_ROWS
        noise = blocks[0] if len(blocks) == 1 else mx.concatenate(blocks)
        return noise[start : start + count]

    def _block(self, index: int) -> mx.array:
        if index not in self._blocks:
            digest = blake2b(f"{self._seed} {index}".encode(), digest_size=8).digest()
            key = mx.random.key(int.from_bytes(digest))
            self._blocks[index] = mx.random.gumbel((NOISE_ROWS, self._vocab_size), key=key)
        return self._blocks[index]


class Sampler:
    """Tokens from logits, at any positions of a reply.

    Args:
        seed: the same seed gives the same tokens for the same logits.
        grammar: of the reply; None allows every token.

    Attributes:
        reads_reply: whether tokens depend on the ones before them by more than their logits.
    """

    def __init__(
        self, sampling: Sampling, vocab_size: int, seed: int = 0, grammar: Grammar | None = None
    ):
        self._sampling = sampling
        self._matcher = None if grammar is None else grammar.matcher()
        self._penalises = sampling.presence_penalty != 0 or sampling.repetition_penalty != 1
        self.reads_reply = self._penalises or grammar is not None
        self._noise = GumbelNoise(vocab_size, seed) if sampling.temperature > 0 else None
        few = 0 < sampling.top_k <= min(MAX_CANDIDATES, vocab_size)
        draw = draw_of_candidates if few else draw_of_vocabulary
        self._draw = mx.compile(partial(draw, sampling=sampling))

    @property
    def waits(self) -> bool:
        """Whether a call waits for the tokens before."""
        return self._matcher is not None

    def __call__(
        self,
        logits: mx.array,
        reply: mx.array,
        position: int,
        drafts: mx.array | None = None,
        *,
        launch: bool = True,
    ) -> mx.array:
        """The tokens at `position` and after it: logits [T, vocab] -> [T] int32, lazy.

        The logits may be those of the first tokens of the vocabulary alone: other tokens are then
        not drawn, and these have the same noise.

        With a grammar, waits for `reply` and `drafts`.

        Args:
            reply: tokens of the reply before `position`, [position]; only penalties and grammars
                read them.
            drafts: the tokens that row 1 and later assume before them, [T - 1].
            launch: whether the device is to compute the logits during that wait.

        Raises:
            Qwen35Error: the grammar is too complex to go on with.
        """
        if self._matcher is not None:
            logits = masked(logits, self._matcher, reply, drafts, launch)
        if self._penalises:
            logits = penalised(logits, reply, self._sampling, drafts)
        if self._noise is None:
            return mx.argmax(logits, axis=-1).astype(mx.int32)
        rows, vocab = logits.shape
        return self._draw(logits, self._noise.rows(position, rows)[:, :vocab])


def masked(
    logits: mx.array,
    matcher: GrammarMatcher,
    reply: mx.array,
    drafts: mx.array | None = None,
    launch: bool = True,
) -> mx.array:
    """Logits [T, vocab] with -inf for every token that the grammar forbids in its row.

    Args:
        reply, drafts: as for `penalised`. Where they are not in the grammar, nothing is forbidden.
        launch: as for `Sampler.__call__`.
    """
    if launch:
        # In this order: a device computes one thing after the other, and what is waited for below
        # must not come after the logits, during which the mask is computed.
        mx.async_eval([reply] if drafts is None else [reply, drafts])
        mx.async_eval(logits)
    after = [] if drafts is None else np.array(drafts).tolist()
    allowed = matcher.allowed(np.array(reply), after)[:, : logits.shape[1]]
    return logits if allowed.all() else mx.where(mx.array(allowed), logits, -mx.inf)


def draw_of_vocabulary(logits: mx.array, noise: mx.array, sampling: Sampling) -> mx.array:
    """A draw at a temperature above 0 with any top_k or none, the definition: [T, vocab] -> [T]."""
    return mx.argmax(filtered(logits, sampling) + noise, axis=-1).astype(mx.int32)


def draw_of_candidates(logits: mx.array, noise: mx.array, sampling: Sampling) -> mx.array:
    """`draw_of_vocabulary` for a small top_k."""
    ids, logprobs = top_k_candidates(logits, sampling)
    best = mx.argmax(logprobs + mx.take_along_axis(noise, ids, axis=-1), axis=-1, keepdims=True)
    return mx.take_along_axis(ids, best, axis=-1).squeeze(-1).astype(mx.int32)


def penalised(
    logits: mx.array, reply: mx.array, sampling: Sampling, drafts: mx.array | None = None
) -> mx.array:
    """Logits [T, vocab] float32 with both penalties for every token before each row.

    A token that occurs several times is penalised once.

    Args:
        reply: tokens before row 0, [n].
        drafts: tokens before the later rows as well, [T - 1]: row i has the first i of them.
    """
    logits = logits.astype(mx.float32)
    rows, vocab = logits.shape
    drafts = mx.array([], mx.int32) if drafts is None else drafts
    before = mx.concatenate([reply, drafts])
    if before.size == 0:
        return logits
    # Drafts that a row does not have yet, and tokens without a logit, are written to a column that
    # is cut off again.
    later = mx.arange(before.size) >= reply.size + mx.arange(rows)[:, None]
    columns = mx.where(later, vocab, mx.minimum(before, vocab))
    values = mx.take_along_axis(logits, mx.minimum(columns, vocab - 1), axis=-1)
    if sampling.repetition_penalty != 1:
        penalty = sampling.repetition_penalty
        values = mx.where(values < 0, values * penalty, values / penalty)
    values = values - sampling.presence_penalty
    padded = mx.pad(logits, [(0, 0), (0, 1)])
    return mx.put_along_axis(padded, columns, values, axis=-1)[:, :-1]


def filtered(logits: mx.array, sampling: Sampling) -> mx.array:
    """Log-probabilities over temperature [T, vocab] float32, not normalised; logits [T, vocab].

    Tokens that top_p, min_p or top_k remove are -inf.
    """
    logits = logits.astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    if sampling.top_p < 1:
        logprobs = _keep_top_p(logprobs, sampling.top_p)
    if sampling.min_p > 0:
        threshold = mx.max(logprobs, axis=-1, keepdims=True) + math.log(sampling.min_p)
        logprobs = mx.where(logprobs < threshold, -mx.inf, logprobs)
    if 0 < sampling.top_k < logprobs.shape[-1]:
        kept = mx.argpartition(-logprobs, kth=sampling.top_k - 1, axis=-1)[:, : sampling.top_k]
        nothing = mx.full(logprobs.shape, -mx.inf)
        values = mx.take_along_axis(logprobs, kept, axis=-1)
        logprobs = mx.put_along_axis(nothing, kept, values, axis=-1)
    return logprobs * (1 / sampling.temperature)


def _keep_top_p(logprobs: mx.array, top_p: float) -> mx.array:
    """The most likely tokens that together reach `top_p`, and those as likely as the last one."""
    ascending = mx.sort(logprobs, axis=-1)
    probabilities = mx.exp(ascending)
    more_likely = mx.cumsum(probabilities, axis=-1, reverse=True, inclusive=False)
    total = more_likely[:, :1] + probabilities[:, :1]
    removed = mx.sum(more_likely >= top_p * total, axis=-1, keepdims=True)
    return mx.where(logprobs < mx.take_along_axis(ascending, removed, axis=-1), -mx.inf, logprobs)


def top_k_candidates(logits: mx.array, sampling: Sampling) -> tuple[mx.array, mx.array]:
    """The tokens to draw from, for a top_k of at most `MAX_CANDIDATES`; logits [T, vocab].

    Returns:
        ids [T, top_k], most likely first, and their log-probabilities over temperature [T, top_k]
        float32, not normalised: -inf for those that top_p or min_p removes.
    """
    logits = logits.astype(mx.float32)
    ids = top_k_ids(logits, sampling.top_k)
    likeliest = mx.take_along_axis(logits, ids, axis=-1)
    logprobs = likeliest - mx.logsumexp(logits, axis=-1, keepdims=True)
    kept = logprobs
    # As in `filtered`, top_p and min_p refer to the whole vocabulary's distribution.
    if sampling.top_p < 1:
        probabilities = mx.exp(logprobs)
        more_likely = mx.cumsum(probabilities, axis=-1) - probabilities
        kept = mx.where(more_likely >= sampling.top_p, -mx.inf, kept)
    if sampling.min_p > 0:
        kept = mx.where(logprobs < logprobs[:, :1] + math.log(sampling.min_p), -mx.inf, kept)
    return ids, kept * (1 / sampling.temperature)


def top_k_ids(logits: mx.array, count: int) -> mx.array:
    """Indices [T, count] of the largest of logits [T, vocab], largest first."""
    tokens, vocab = logits.shape
    if vocab <= ROW_LENGTH:
        return mx.argsort(-logits, axis=-1)[:, :count]
    rows = -(-vocab // ROW_LENGTH)
    padding = [(0, 0), (0, rows * ROW_LENGTH - vocab)]
    padded = mx.pad(logits, padding, constant_values=-mx.inf).reshape(tokens, rows, ROW_LENGTH)
    best = mx.argpartition(-padded, kth=count - 1, axis=-1)[..., :count]
    best = (best + ROW_LENGTH * mx.arange(rows, dtype=best.dtype)[:, None]).flatten(1)
    likeliest = mx.take_along_axis(padded.flatten(1), best, axis=-1)
    order = mx.argsort(-likeliest, axis=-1)[:, :count]
    return mx.take_along_axis(best, order, axis=-1)
