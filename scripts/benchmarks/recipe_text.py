"""Texts and questions for `recipes`, and how a network does on them, many at a time.

Rows of a batch are padded on the right. A network is causal, so padding changes nothing before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import mlx.core as mx
import numpy as np

from qwen35_mlx.conversion.calibration import CalibrationText
from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.network import Network
from scripts.demo_training import dialogues
from scripts.demo_training.dialogues import Mix
from scripts.demo_training.evaluate import (
    REPLY_TOKENS,
    SUM_TOKENS,
    is_right,
    needle_questions,
    recall_questions,
    sum_questions,
)
from scripts.demo_training.text import ChatFormat
from scripts.demo_training.turns import Dialogue

LONGEST = 1024  # tokens of a dialogue
MIX = Mix(turns=10, sentences=40)
SEED = 99
RECALL_TURNS = 20
BATCH_TOKENS = 16384  # padding included


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids, and the positions whose next token is compared."""

    ids: list[int]
    positions: np.ndarray


def held_out_texts(text: ChatFormat, tokens: int) -> list[Text]:
    """Dialogues with this many tokens of replies together, of values that training never saw."""
    found, total = [], 0
    for dialogue in dialogues.generate(SEED, MIX, held_out=True):
        sample = text.sample(dialogue)
        if len(sample.ids) <= LONGEST:
            found.append(Text(sample.ids, np.flatnonzero(sample.learn[1:])))
            total += len(found[-1].positions)
        if total >= tokens:
            break
    return found


def calibration_text(text: ChatFormat, tokens: int) -> CalibrationText:
    """Dialogues of this many tokens together, of values that training saw."""
    documents: list[list[int]] = []
    for dialogue in dialogues.generate(SEED, MIX, held_out=False):
        ids = text.sample(dialogue).ids
        if len(ids) <= LONGEST:
            documents.append(ids)
        if sum(map(len, documents)) >= tokens:
            break
    return CalibrationText(documents, "")


def random_texts(config: ModelConfig, tokens: int) -> list[Text]:
    rng, length = np.random.default_rng(SEED), 256
    return [
        Text(rng.integers(config.vocab_size, size=length).tolist(), np.arange(length))
        for _ in range(-(-tokens // length))
    ]


def logits(
    network: Network, texts: Sequence[Text], batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[list[int], mx.array]]:
    """Batches: which texts, and [positions, vocabulary] float32 at theirs, one text after another.

    Args:
        batch_tokens: of a batch, at most; a longer text is a batch of its own.
    """
    for batch in _batches([len(text.ids) for text in texts], batch_tokens):
        width = max(len(texts[i].ids) for i in batch)
        rows = [network.token_array(texts[i].ids + [0] * (width - len(texts[i].ids)))
                for i in batch]  # fmt: skip
        hidden = network(mx.concatenate(rows), network.make_cache()).flatten(0, 1)
        at = np.concatenate([row * width + texts[i].positions for row, i in enumerate(batch)])
        yield batch, network.logits(hidden[mx.array(at)]).astype(mx.float32)


def _batches(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Indices of rows in batches of at most `limit` tokens, a third of them padding at most."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        last = batches[-1] if batches else []
        few = lengths[i] * (len(last) + 1) <= limit
        if last and few and lengths[i] <= 1.5 * lengths[last[0]]:
            last.append(i)
        else:
            batches.append([i])
    return batches


def divergence(expected: mx.array, found: mx.array) -> mx.array:
    """KL divergence of each position, from logits [positions, vocabulary].

    Where it is small, differences of logarithms of probabilities are mostly rounding. With d the
    difference of logits less its mean under the expected probabilities, log E[exp(-d)] is the same
    without that: in float32, a divergence of 1e-7 still has several digits.
    """
    log_p, log_q = (x - mx.logsumexp(x, axis=-1, keepdims=True) for x in (expected, found))
    p, d = mx.exp(log_p), expected - found
    large = mx.sum(p * (log_p - log_q), axis=-1)
    for _ in range(2):  # the mean of what is left after the first is rounded less
        d = d - mx.sum(p * d, axis=-1, keepdims=True)
    small = mx.log1p(mx.sum(p * mx.expm1(-d), axis=-1))
    return mx.where(large > 1e-3, large, small)


class Reference:
    """The exact network's logits at every compared position."""

    def __init__(self, network: Network, texts: Sequence[Text]):
        self.texts = texts
        self._expected: list[mx.array] = [mx.array(0.0)] * len(texts)
        for batch, found in logits(network, texts):
            ends = np.cumsum([len(texts[i].positions) for i in batch])[:-1].tolist()
            for i, part in zip(batch, mx.split(found, ends), strict=True):
                self._expected[i] = part
            mx.eval([self._expected[i] for i in batch])

    def divergence(
        self, network: Network, batch_tokens: int = BATCH_TOKENS
    ) -> tuple[np.ndarray, float]:
        """KL divergence at each position, and the share of positions with the same top token."""
        divergences, same = [], []
        for batch, found in logits(network, self.texts, batch_tokens):
            expected = mx.concatenate([self._expected[i] for i in batch])
            divergences.append(np.array(divergence(expected, found)))
            same.append(np.array(mx.argmax(expected, axis=-1) == mx.argmax(found, axis=-1)))
        return np.concatenate(divergences), float(np.concatenate(same).mean())


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and a guess at the whole reply to it, its end token included."""

    skill: str
    asked: Dialogue
    prompt: list[int]
    max_tokens: int
    draft: list[int]


def questions(text: ChatFormat, count: int, needle_tokens: int) -> list[Question]:
    """Held-out questions, `count` of each skill: the same for all models of one tokenizer."""

    def length(messages: list) -> int:
        return len(text.prompt(messages, True))

    found: list[Question] = []
    for asked in needle_questions(length, needle_tokens, count):
        found.append(_question(text, "needle", asked, REPLY_TOKENS))
    for first, sign in enumerate("+-*"):
        for asked in sum_questions(len(range(first, count, 3)), sign, thinking=True):
            found.append(_question(text, "arithmetic", asked, SUM_TOKENS))
    for asked in recall_questions(count, RECALL_TURNS):
        found.append(_question(text, "recall", asked, REPLY_TOKENS))
    return found


def _question(text: ChatFormat, skill: str, asked: Dialogue, max_tokens: int) -> Question:
    prompt = text.prompt(asked.messages[:-1], asked.thinking)
    whole = text.sample(asked).ids
    reply = whole[len(prompt) :] if whole[: len(prompt)] == prompt else []
    draft = [*takewhile(lambda token: token != text.end, reply), text.end]
    return Question(skill, asked, prompt, max_tokens, draft[:max_tokens])


def replies(
    network: Network, asked: Sequence[Question], drafts: Sequence[list[int]], end: int
) -> list[list[int]]:
    """Greedy replies, up to `end` or the most tokens of the question.

    All drafts are read in a few calls. Only from the first token on that is not the network's own
    is a reply decoded token by token; so drafts save time and change no reply.
    """
    texts = [
        Text(q.prompt + draft[:-1], np.arange(len(draft)) + len(q.prompt) - 1)
        for q, draft in zip(asked, drafts, strict=True)
    ]
    found: list[list[int]] = [[] for _ in asked]
    for batch, scores in logits(network, texts):
        greedy, start = np.array(mx.argmax(scores, axis=-1)), 0
        for i in batch:
            draft = drafts[i]
            own = greedy[start : start + len(draft)].tolist()
            start += len(draft)
            pairs = zip(own, draft, strict=True)
            agreeing = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            found[i] = own[: agreeing + 1]
    return [_finished(network, q, reply, end) for q, reply in zip(asked, found, strict=True)]


def _finished(network: Network, question: Question, start: list[int], end: int) -> list[int]:
    """The whole greedy reply that begins with `start`, of one token at least."""
    reply = list(start)
    if reply[-1] == end or len(reply) >= question.max_tokens:
        return reply
    cache = network.make_cache()
    *before, last = question.prompt + reply
    network(network.token_array(before), cache)
    mx.eval(cache.arrays)
    for token in decode(
        network, cache, [last], Sampler(Sampling(temperature=0), network.config.vocab_size)
    ):
        reply.append(token)
        if token == end or len(reply) >= question.max_tokens:
            break
    return reply


def right_answers(
    text: ChatFormat, asked: Sequence[Question], found: Sequence[list[int]]
) -> dict[str, str]:
    """By skill, such as "61/64"."""
    tally: dict[str, list[bool]] = {}
    for question, reply in zip(asked, found, strict=True):
        tally.setdefault(question.skill, []).append(is_right(question.asked, text.decode(reply)))
    return {skill: f"{sum(right)}/{len(right)}" for skill, right in tally.items()}
