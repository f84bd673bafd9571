"""How far the tensors of two checkpoints of one shape are apart, by kind."""

import math
import re
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.evaluation.layers import BLOCK_ELEMENTS, plain_rows

_HEAD_NORMS = ("pre_fc_norm_embedding", "pre_fc_norm_hidden")
_LAYER = re.compile(r"(model|mtp)\.layers\.[0-9]+\.")


def tensor_kind(name: str) -> str:
    """What tensors of all layers have in common: their name without layer and ".weight".

    Norms of the hidden state are one kind, "norm", and so are those inside the mixers.
    """
    head = "mtp." if name.startswith("mtp.") else ""
    inner = _LAYER.sub("", name).removeprefix("model.").removeprefix("mtp.")
    inner = inner.removesuffix(".weight")
    is_norm = inner.endswith("layernorm") or inner in ("norm", *_HEAD_NORMS)
    return head + ("norm" if is_norm else inner)


def tensor_errors(
    a: Checkpoint, b: Checkpoint, progress: Callable[[int], None] = lambda _: None
) -> dict[str, float]:
    """Relative error of B's plain values by kind: sqrt(sum (a - b)^2 / sum a^2).

    Tensors are read in blocks; a tensor that one checkpoint lacks, as an MTP head, is left out.

    Args:
        progress: called with the number of elements of each block.

    Returns:
        {} if the layers differ in shape; infinity where only A's values are all 0.

    Raises:
        Qwen35Error: a file cannot be read, or a value is not finite.
    """
    shapes = comparable_tensors(a, b)
    sums: dict[str, tuple[float, float]] = {}
    for name, shape in shapes.items():
        kind = tensor_kind(name)
        difference, square = sums.get(kind, (0.0, 0.0))
        row = math.prod(shape[1:])
        step = max(1, BLOCK_ELEMENTS // max(row, 1))
        for start in range(0, shape[0], step):
            stop = min(start + step, shape[0])
            left, right = (plain_rows(one, name, start, stop) for one in (a, b))
            difference += sum_of_squares(left - right)
            square += sum_of_squares(left)
            for one, rows in ((a, left), (b, right)):
                if not mx.all(mx.isfinite(rows)).item():
                    raise Qwen35Error(
                        f"{one.path}: tensor '{name}' has values that are not finite: fetch or "
                        "convert the checkpoint again"
                    )
            progress((stop - start) * row)
        sums[kind] = difference, square
        mx.clear_cache()
    return {kind: relative_error(*pair) for kind, pair in sums.items()}


def comparable_tensors(a: Checkpoint, b: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The plain tensors that both checkpoints have, in one shape; {} if their layers differ."""
    layers_a, layers_b = (
        {name: shape for name, shape in one.expected.items() if name.startswith("model.layers.")}
        for one in (a, b)
    )
    if layers_a != layers_b:
        return {}
    return {name: shape for name, shape in a.expected.items() if b.expected.get(name) == shape}


def sum_of_squares(x: mx.array) -> float:
    return float(np.array(mx.sum(mx.square(x))))


def relative_error(difference: float, square: float) -> float:
    """sqrt(difference / square), given sums of squares."""
    if square == 0:
        return math.inf if difference else 0.0
    return math.sqrt(difference / square)
