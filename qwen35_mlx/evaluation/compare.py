"""Two models on one text: perplexity, KL divergence, agreement, and errors of their tensors."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.evaluation.layers import Passage, Trunk
from qwen35_mlx.evaluation.logits import Divergence, LogitStatistics, block_rows
from qwen35_mlx.evaluation.tensors import (
    comparable_tensors,
    relative_error,
    sum_of_squares,
    tensor_errors,
)

# The first document is read a second time up to this length, in two calls of each layer.
FLOOR_TOKENS = 600

# Tokens whose multiplication by an element takes as long as reading it from two checkpoints.
_READING = 30

# Work done, work in all, what is being done.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One model on the text.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of a token.
        perplexity_error: its standard error.
        mtp_agreement: share of positions at which the MTP head's greedy guess of the token after
            the next is the model's own greedy token there; None without a head.
    """

    perplexity: float
    perplexity_error: float
    mtp_agreement: float | None


@dataclass(frozen=True, slots=True)
class DivergenceFigures:
    """How far the predictions of Q are from those of P.

    Attributes:
        mean, median, p99, largest: KL(P || Q) of the next token, in nats.
        top1: share of positions with the same most likely token.
    """

    mean: float
    median: float
    p99: float
    largest: float
    top1: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` measures.

    Attributes:
        tokens: positions at which a next token is predicted.
        a, b: each model on the text.
        loss_difference: mean of B's negative log-likelihood of a token minus A's, in nats.
        loss_difference_error: its standard error.
        divergence: of B from A.
        floor: of A from A, computed in other chunks: smaller values mean nothing.
        hidden_errors: relative error of B's hidden states after each layer; () if the models
            have different shapes.
        tensor_errors: relative error of B's tensors by kind, as `tensor_errors`; {} likewise.
        notes: lines for the user.
    """

    tokens: int
    a: ModelFigures
    b: ModelFigures
    loss_difference: float
    loss_difference_error: float
    divergence: DivergenceFigures
    floor: DivergenceFigures
    hidden_errors: tuple[float, ...]
    tensor_errors: Mapping[str, float]
    notes: tuple[str, ...]


def compare_checkpoints(
    a: Checkpoint,
    b: Checkpoint,
    documents: Sequence[Sequence[int]],
    progress: Progress | None = None,
    names: tuple[str, str] = ("A", "B"),
    option: str = "--text",
) -> Comparison:
    """Measure B against A, in the memory of one layer and the hidden states of both.

    Weights and activations are float32 in both models.

    Args:
        documents: token ids, two or more each.
        progress: called as work is done.
        names: of the models, for error lines and notes.
        option: that gives another text, for a note.

    Raises:
        Qwen35Error: a document is too short, a checkpoint does not fit its config.json, a file
            cannot be read, a token has no embedding, or a model computes values that are not
            finite.
    """
    if min(map(len, documents), default=0) < 2:
        raise Qwen35Error("a document has no token to predict: give documents of 2 or more")
    for checkpoint in (a, b):
        checkpoint.verify()
    vocab = min(a.model.vocab_size, b.model.vocab_size)
    largest = max(map(max, documents))
    if largest >= vocab:
        raise Qwen35Error(f"token id {largest} is not in the vocabulary of {vocab:,}")
    meter = _Meter(a, b, vocab, sum(map(len, documents)), progress)
    errors = tensor_errors(a, b, meter.read)
    passages = [Passage(ids) for ids in documents]
    start = documents[0][:FLOOR_TOKENS]
    again = Passage(start, -(-len(start) // 2))
    first, second = Trunk(a, [*passages, again], names[0]), Trunk(b, passages, names[1])
    hidden_errors = _run_layers(first, second, meter)
    left, right = _Side(first, documents), _Side(second, documents)
    divergence, floor = _compare_logits(left, right, vocab, meter)
    losses_a, losses_b = left.losses, right.losses
    difference = losses_b - losses_a
    same = left.scored_greedy == right.scored_greedy
    repeated = left.floor_greedy == left.scored_greedy[: left.floor]
    of_a = left.figures()
    return Comparison(
        tokens=left.scored,
        a=of_a,
        b=right.figures(),
        loss_difference=float(difference.mean()),
        loss_difference_error=_standard_error(difference),
        divergence=_divergence_figures(divergence, same),
        floor=_divergence_figures(floor, repeated),
        hidden_errors=hidden_errors,
        tensor_errors=errors,
        notes=(*_notes(a, b, names), *_foreign_note(of_a, vocab, names[0], option)),
    )


class _Meter:
    """Reports progress, in multiplications of the layers and heads; reading counts as some."""

    def __init__(
        self, a: Checkpoint, b: Checkpoint, vocab: int, tokens: int, progress: Progress | None
    ):
        self._progress = progress
        self._tokens = tokens
        self._done = 0
        sizes = map(math.prod, comparable_tensors(a, b).values())
        work = _READING * sum(sizes)
        for one in (a, b):
            layers = sum(_layer_size(one, i) for i in range(len(one.model.layer_types)))
            work += tokens * (layers + one.model.hidden_size * vocab)
        self._total = work

    def read(self, elements: int) -> None:
        """Elements of tensors were read and compared."""
        self._add(_READING * elements, "tensors")

    def multiplied(self, elements: int, what: str) -> None:
        """All tokens were multiplied by elements of a model."""
        self._add(self._tokens * elements, what)

    def _add(self, work: int, what: str) -> None:
        self._done += work
        if self._progress:
            self._progress(self._done, self._total, what)


def _layer_size(checkpoint: Checkpoint, index: int) -> int:
    """Elements of a layer that a token is multiplied by."""
    config, prefix = checkpoint.model, f"model.layers.{index}."
    size = 0
    for name, shape in checkpoint.expected.items():
        if name.startswith(prefix):
            share = config.num_experts_per_tok if ".switch_mlp." in name else 0
            size += math.prod(shape[1:]) * share if share else math.prod(shape)
    return size


def _run_layers(a: Trunk, b: Trunk, meter: _Meter) -> tuple[float, ...]:
    """Run both trunks to their ends; returns the relative error of B's hidden states by layer."""
    alike = bool(comparable_tensors(a.checkpoint, b.checkpoint))
    errors: list[float] = []
    for of_a, of_b in zip_longest(range(a.layers), range(b.layers)):
        for trunk, index in ((a, of_a), (b, of_b)):
            if index is not None:
                trunk.advance(index)
                what = f"{trunk.name}, layer {index + 1} of {trunk.layers}"
                meter.multiplied(_layer_size(trunk.checkpoint, index), what)
        if alike:
            errors.append(_hidden_error(a.hidden, b.hidden))
    a.finish()
    b.finish()
    return tuple(errors)


def _hidden_error(a: Sequence[mx.array], b: Sequence[mx.array]) -> float:
    pairs = list(zip(a, b, strict=False))  # A has the passage of the floor as well
    difference = sum(sum_of_squares(x - y) for x, y in pairs)
    return relative_error(difference, sum(sum_of_squares(x) for x, _ in pairs))


class _Side:
    """The positions of one model whose logits are computed, and their statistics.

    They are, in this order: those of the documents that have a next token, those of the floor's
    passage, and the outputs of the MTP head that the model's own token can be compared with.

    Attributes:
        rows: [N, hidden] of all positions.
        scored, floor: number of positions of the first two kinds.
    """

    def __init__(self, trunk: Trunk, documents: Sequence[Sequence[int]]):
        self.trunk = trunk
        self._has_head = trunk.checkpoint.has_mtp
        self._documents = documents
        pieces = [hidden[0, :-1] for hidden in trunk.hidden]
        guesses = []
        if self._has_head:
            outputs = trunk.run_mtp_head(trunk.read_mtp_head())
            guesses = [one[0, :-1] for one in outputs[: len(documents)]]
        self.scored = sum(len(piece) for piece in pieces[: len(documents)])
        self.floor = sum(len(piece) for piece in pieces[len(documents) :])
        self.rows = mx.concatenate([*pieces, *guesses])
        mx.eval(self.rows)
        trunk.hidden = []
        targets = np.full(self.rows.shape[0], -1)
        targets[: self.scored] = np.concatenate([np.asarray(ids[1:]) for ids in documents])
        self.statistics = LogitStatistics(targets)

    @property
    def losses(self) -> np.ndarray:
        losses = self.statistics.loss[: self.scored]
        if not np.isfinite(losses).all():
            raise Qwen35Error(
                f"{self.trunk.name}: the output head gives values that are not finite: its "
                "weights are damaged, or too large for their dtype"
            )
        return losses

    @property
    def scored_greedy(self) -> np.ndarray:
        return self.statistics.greedy[: self.scored]

    @property
    def floor_greedy(self) -> np.ndarray:
        return self.statistics.greedy[self.scored : self.scored + self.floor]

    def figures(self) -> ModelFigures:
        losses = self.losses
        perplexity = math.exp(losses.mean())
        return ModelFigures(perplexity, perplexity * _standard_error(losses), self._mtp_agreement())

    def _mtp_agreement(self) -> float | None:
        guesses = self.statistics.greedy[self.scored + self.floor :]
        if not self._has_head or not len(guesses):
            return None
        ends = np.cumsum([len(ids) - 1 for ids in self._documents])
        # The first position of a document has no earlier one whose guess is about the same token.
        own = np.concatenate([part[1:] for part in np.split(self.scored_greedy, ends[:-1])])
        return float((guesses == own).mean())


def _compare_logits(a: _Side, b: _Side, vocab: int, meter: _Meter) -> tuple[np.ndarray, np.ndarray]:
    """KL(A || B) at the scored positions, and KL(A || A) at those of the floor."""
    scored, floor = a.scored, a.floor
    divergence, repeated = Divergence(scored), Divergence(floor)
    positions = max(a.rows.shape[0], b.rows.shape[0])
    width = max(a.rows.shape[1], b.rows.shape[1])
    rows = block_rows(positions, width)
    for start in range(0, vocab, rows):
        stop = min(start + rows, vocab)
        of_a, of_b = (one.rows @ one.trunk.head_rows(start, stop).T for one in (a, b))
        a.statistics.add(start, of_a)
        b.statistics.add(start, of_b)
        divergence.add(of_a[:scored], of_b[:scored])
        repeated.add(of_a[:floor], of_a[scored : scored + floor])
        meter.multiplied((stop - start) * (a.rows.shape[1] + b.rows.shape[1]), "output heads")
        mx.clear_cache()
    log_sum, other = a.statistics.log_sum, b.statistics.log_sum
    return (
        divergence.result(log_sum[:scored], other[:scored]),
        repeated.result(log_sum[:floor], log_sum[scored : scored + floor]),
    )


def _divergence_figures(divergence: np.ndarray, same: np.ndarray) -> DivergenceFigures:
    median, p99 = np.quantile(divergence, (0.5, 0.99))
    return DivergenceFigures(
        mean=float(divergence.mean()),
        median=float(median),
        p99=float(p99),
        largest=float(divergence.max()),
        top1=float(same.mean()),
    )


def _standard_error(values: np.ndarray) -> float:
    """Of the mean of independent values; 0 for a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _foreign_note(figures: ModelFigures, vocab: int, name: str, option: str) -> list[str]:
    """A line if model A is worse than a guess, so that its loss says little about a change."""
    if figures.perplexity <= vocab:
        return []
    return [
        f"{name} predicts this text worse than a guess among its {vocab:,} tokens would, so these "
        f"figures say little: {option} FILE measures on text of the model's own kind"
    ]


def _notes(a: Checkpoint, b: Checkpoint, names: tuple[str, str]) -> list[str]:
    notes: list[str] = []
    sizes = a.model.vocab_size, b.model.vocab_size
    if sizes[0] != sizes[1]:
        notes.append(
            f"vocabularies are padded to {sizes[0]:,} and {sizes[1]:,}: the first {min(sizes):,} "
            "tokens are compared"
        )
    if not comparable_tensors(a, b):
        notes.append("the models' layers have different shapes: their tensors are not compared")
    if a.has_mtp != b.has_mtp:
        notes.append(f"only {names[0] if a.has_mtp else names[1]} has an MTP head")
    return notes
