"""The proof of a conversion: the result measured against its source, on a text."""

import math
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.evaluation.compare import Comparison, compare_checkpoints
from qwen35_mlx.evaluation.text import DEFAULT_TOKENS, built_in_texts, make_documents
from qwen35_mlx.text.tokenizer import Tokenizer

# On a CPU, the measurement shall take some minutes: multiplications of a weight that it may do.
_CPU_WORK = 1e10
_MIN_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known of a result.

    Attributes:
        comparison: of the result with its source; None if it was not measured.
        reason: why it was not; "" if it was.
    """

    comparison: Comparison | None
    reason: str = ""

    def values(self) -> dict[str, Any]:
        """The figures for conversion.json."""
        if self.comparison is None:
            return {"not_measured": self.reason}
        found, drift = self.comparison, self.comparison.divergence
        figures: dict[str, Any] = {
            "tokens": found.tokens,
            "perplexity": {"source": found.a.perplexity, "result": found.b.perplexity},
            "kl_nats": {
                "mean": drift.mean,
                "median": drift.median,
                "p99": drift.p99,
                "largest": drift.largest,
                "floor_mean": found.floor.mean,
            },
            "same_top_token": drift.top1,
            "relative_error": {
                kind: error if math.isfinite(error) else None
                for kind, error in found.tensor_errors.items()
            },
        }
        if found.notes:
            figures["notes"] = list(found.notes)
        if found.a.mtp_agreement is not None or found.b.mtp_agreement is not None:
            figures["mtp_agreement"] = {
                "source": found.a.mtp_agreement,
                "result": found.b.mtp_agreement,
            }
        return figures


def prove(
    source: Checkpoint, result: Checkpoint, text: str | None, progress: Progress | None
) -> Proof:
    """Measure a result against its source, in the memory of two layers.

    Args:
        text: to measure on; None for the one of the package.
        progress: called with (work done, work in all, what is being done).

    Raises:
        Qwen35Error: the result does not compute: a weight or an activation is not finite.
    """
    try:
        tokenizer = Tokenizer.from_files(source.text)
        texts = built_in_texts() if text is None else [text]
        documents = make_documents(tokenizer, texts, _affordable_tokens(source))
    except Qwen35Error as error:
        return Proof(None, str(error).replace(f"{source.path}/", ""))
    largest = max(map(max, documents))
    if largest >= source.model.vocab_size:
        return Proof(None, f"the tokenizer gives the id {largest}, which has no embedding")
    names = "the source", "the result"
    return Proof(compare_checkpoints(source, result, documents, progress, names, "--verify-text"))


def _affordable_tokens(checkpoint: Checkpoint) -> int:
    """Tokens of the text: all of it, or on a CPU as many as take some minutes."""
    if mx.default_device() != mx.cpu:
        return DEFAULT_TOKENS
    weights = sum(map(math.prod, checkpoint.expected.values()))
    return max(_MIN_TOKENS, min(DEFAULT_TOKENS, int(_CPU_WORK / weights)))
