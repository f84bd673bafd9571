"""What a recipe makes of a model: bytes by kind, and memory in use, before any weight is read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qwen35_mlx.checkpoint.recipes import (
    KINDS,
    Assignment,
    Recipe,
    assign,
    is_quantizable,
    kind_of,
    nbytes,
)
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.memory import estimate
from qwen35_mlx.model.weight_shapes import Shapes

CONTEXTS = (8192, 32768, 262144)
# Tokens of a prompt that are read at once, in the estimate of memory.
_CHUNK = 512
_OTHER = "norms and others"


@dataclass(frozen=True, slots=True)
class Row:
    """All tensors of one kind.

    Attributes:
        formats: such as "4-bit/64", the most frequent first; "plain" where not quantised.
    """

    kind: str
    tensors: int
    parameters: int
    nbytes: int
    formats: tuple[str, ...]

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / self.parameters


def table(config: ModelConfig, recipe: Recipe, shapes: Shapes, itemsize: int = 2) -> list[Row]:
    """A row for each kind that the model has, in the order of `KINDS`; what is no matrix is last.

    Args:
        shapes: of all tensors that are converted, by canonical name.
        itemsize: bytes of a plain value.
    """
    assignment = assign(recipe, shapes, config)
    kinds: dict[str, list[str]] = {kind: [] for kind in (*KINDS, _OTHER)}
    for name, shape in shapes.items():
        kinds[kind_of(name) if is_quantizable(name, shape) else _OTHER].append(name)
    return [
        _row(kind, {name: shapes[name] for name in names}, assignment, itemsize)
        for kind, names in kinds.items()
        if names
    ]


def _row(kind: str, shapes: Shapes, assignment: Assignment, itemsize: int) -> Row:
    weights: dict[str, int] = {}
    for name, shape in shapes.items():
        q = assignment[name]
        mode = "" if q is None or q.mode == "affine" else f" {q.mode}"
        label = f"{q.bits}-bit/{q.group_size}{mode}" if q else "plain"
        weights[label] = weights.get(label, 0) + math.prod(shape)
    formats = tuple(sorted(weights, key=lambda label: -weights[label]))
    size = nbytes(shapes, assignment, itemsize)
    return Row(kind, len(shapes), sum(weights.values()), size, formats)


def memory(config: ModelConfig, weights: int, itemsize: int = 2) -> dict[int, int]:
    """Bytes in use for a context of each of `CONTEXTS` tokens, `weights` included.

    Contexts longer than the model's own are left out.
    """
    return {
        tokens: weights + estimate(config, itemsize, tokens, _CHUNK, None).total
        for tokens in CONTEXTS
        if tokens <= config.max_position_embeddings
    }


def rendered(rows: Sequence[Row], memory_by_context: dict[int, int]) -> str:
    """The table as text, with a sum, and a line on memory."""
    size, parameters = sum(row.nbytes for row in rows), sum(row.parameters for row in rows)
    total = Row("all", sum(row.tensors for row in rows), parameters, size, ())
    lines: list[tuple[str, ...]] = [("kind", "tensors", "format", "bits/weight", "bytes")]
    for row in (*rows, total):
        formats = ", ".join(row.formats)
        bits, size_text = f"{row.bits_per_weight:.2f}", f"{row.nbytes:,}"
        lines.append((row.kind, str(row.tensors), formats, bits, size_text))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        "  ".join(
            cell.ljust(width) if i in (0, 2) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    uses = ", ".join(
        f"{size / 1e9:.1f} GB at {tokens // 1000}K" for tokens, size in memory_by_context.items()
    )
    return "\n".join([*aligned, f"memory with a context in bfloat16: {uses}"] if uses else aligned)
