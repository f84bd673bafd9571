"""Which dtype the weights of a checkpoint were made for."""

from collections import Counter
from collections.abc import Iterable

import mlx.core as mx

from qwen35_mlx.checkpoint.adapters.low_rank import FusedMatrix
from qwen35_mlx.checkpoint.tensor_readers import Matrix


def network_dtype(matrix: Matrix) -> mx.Dtype:
    """The dtype of the activations that a matrix was made for."""
    return matrix.network_dtype if isinstance(matrix, FusedMatrix) else matrix.dtype


def most_common_dtype(sizes: Iterable[tuple[mx.Dtype, int]]) -> mx.Dtype:
    """The dtype of most elements, of pairs of dtype and elements; bfloat16 of none."""
    elements: Counter[mx.Dtype] = Counter()
    for dtype, size in sizes:
        elements[dtype] += size
    return max(elements, key=lambda dtype: elements[dtype], default=mx.bfloat16)
