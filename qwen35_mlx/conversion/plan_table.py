"""What a conversion makes of a model: bytes by kind of tensor, and memory in use."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qwen35_mlx.checkpoint.recipes import KINDS, is_quantizable, kind_of
from qwen35_mlx.conversion.plan import config_dtype
from qwen35_mlx.conversion.planned_tensor import PlannedTensor
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.memory import estimate
from qwen35_mlx.model.weights import DTYPES

CONTEXTS = (8192, 32768, 262144)
# Tokens of a prompt that are read at once, in the estimate of memory.
_CHUNK = 512
_OTHER = "norms and others"
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Row:
    """All tensors of one kind.

    Attributes:
        formats: such as "4-bit/64", that of most parameters first; the dtype where not quantised.
    """

    kind: str
    tensors: int
    parameters: int
    nbytes: int
    formats: tuple[str, ...]

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / self.parameters


def table(tensors: Sequence[PlannedTensor]) -> list[Row]:
    """A row for each kind that a plan has, in the order of `KINDS`; what is no matrix is last."""
    kinds: dict[str, list[PlannedTensor]] = {kind: [] for kind in (*KINDS, _OTHER)}
    for tensor in tensors:
        name = tensor.sources[0]
        kinds[kind_of(name) if is_quantizable(name, tensor.shape) else _OTHER].append(tensor)
    return [_row(kind, members) for kind, members in kinds.items() if members]


def _row(kind: str, tensors: Sequence[PlannedTensor]) -> Row:
    parameters: Counter[str] = Counter()
    for tensor in tensors:
        parameters[_format(tensor)] += math.prod(tensor.shape)
    formats = tuple(name for name, _ in parameters.most_common())
    nbytes = sum(tensor.nbytes for tensor in tensors)
    return Row(kind, len(tensors), parameters.total(), nbytes, formats)


def _format(tensor: PlannedTensor) -> str:
    q = tensor.quantization
    if q is None:
        return _NAMES[tensor.specs()[0].dtype]
    return f"{q.bits}-bit/{q.group_size}{'' if q.mode == 'affine' else f' {q.mode}'}"


def memory(config: ModelConfig, tensors: Sequence[PlannedTensor]) -> dict[int, int]:
    """Bytes in use with a context of each of `CONTEXTS` tokens, the weights of a plan included.

    Contexts longer than the model's own are left out; of a model that has none of them, its own is
    taken.
    """
    weights = sum(tensor.nbytes for tensor in tensors)
    mtp = any(tensor.sources[0].startswith("mtp.") for tensor in tensors)
    itemsize = DTYPES[config_dtype(tensors)].size
    longest = config.max_position_embeddings
    return {
        tokens: weights + estimate(config, itemsize, tokens, _CHUNK, None, mtp=mtp).total
        for tokens in [one for one in CONTEXTS if one <= longest] or [longest]
    }


def table_lines(rows: Sequence[Row]) -> list[str]:
    """The table as text, with a sum."""
    size, parameters = sum(row.nbytes for row in rows), sum(row.parameters for row in rows)
    total = Row("all", sum(row.tensors for row in rows), parameters, size, ())
    lines: list[tuple[str, ...]] = [("kind", "tensors", "format", "bits/weight", "bytes")]
    for row in (*rows, total):
        formats = ", ".join(row.formats)
        bits, size_text = f"{row.bits_per_weight:.2f}", f"{row.nbytes:,}"
        lines.append((row.kind, str(row.tensors), formats, bits, size_text))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in (0, 2) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]


def memory_line(used: Mapping[int, int]) -> str:
    """`memory` as text."""
    uses = ", ".join(f"{size / 1e9:.2f} GB at {_tokens(n)}" for n, size in used.items())
    return f"Memory in a chat with a full context: {uses}"


def _tokens(count: int) -> str:
    return f"{count // 1000}K" if count >= 1000 else f"{count} tokens"
