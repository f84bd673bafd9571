"""Which dtype the weights of a checkpoint were made for."""

import math
from collections import Counter
from collections.abc import Iterable

import mlx.core as mx

from qwen35_mlx.checkpoint.adapters.low_rank import FusedMatrix
from qwen35_mlx.checkpoint.tensor_readers import Matrix, PackedMatrix

# Stored dtypes of quantised matrices in safetensors files.
_WORDS = ("I32", "I8", "U8", "F8_E4M3")


def network_dtype(matrix: Matrix) -> mx.Dtype:
    """The dtype of the activations that a matrix was made for."""
    return matrix.network_dtype if isinstance(matrix, FusedMatrix) else matrix.dtype


def is_widened(matrix: Matrix) -> bool:
    """Whether a matrix of at most 8 bits is read as values, since MLX does not have its form."""
    return not isinstance(matrix, PackedMatrix) and matrix.file.stored_dtype in _WORDS


def floats_of(matrix: Matrix) -> int:
    """How many floating-point numbers are stored of a matrix: values, or scales."""
    if not isinstance(matrix, PackedMatrix):
        return 0 if is_widened(matrix) else math.prod(matrix.shape)
    affine = matrix.quantization.mode == "affine"
    return math.prod(matrix.parts["scales"].shape) if affine else 0


def most_common_dtype(sizes: Iterable[tuple[mx.Dtype, int]]) -> mx.Dtype:
    """The dtype of most elements, of pairs of dtype and elements; bfloat16 of none."""
    elements: Counter[mx.Dtype] = Counter()
    for dtype, size in sizes:
        elements[dtype] += size
    return max(elements, key=lambda dtype: elements[dtype], default=mx.bfloat16)
