"""What goes into the matrices of a layer, and what comes out, while it computes."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import mlx.core as mx

from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.model.linear import FusedLinear, Linear

# Called with the input [..., in] of a matrix, neither rotated nor packed; the stack's matrix of
# each [...], or None; and the output, or the outputs of fused matrices.
Watch = Callable[[mx.array, mx.array | None, Any], None]

_Matrix = TypeVar("_Matrix", Linear, FusedLinear)


def watched(matrix: _Matrix, watch: Watch) -> _Matrix:
    """A matrix, or fused ones, that reports each of its products."""
    return cast(_Matrix, _Watched(matrix, watch))


class _Watched:
    """Stands in for a matrix. Norms are applied before, so that inputs are seen as multiplied."""

    def __init__(self, matrix: Linear | FusedLinear, watch: Watch):
        self._matrix: Any = matrix
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matrix, name)

    def __call__(self, x: mx.array, norm: RMSNorm | None = None, **options: Any) -> Any:
        return self._product(self._matrix, x, norm, options)

    def joined(self, x: mx.array, norm: RMSNorm | None = None) -> Any:
        return self._product(self._matrix.joined, x, norm, {})

    def glu(self, x: mx.array, norm: RMSNorm | None = None) -> Any:
        return self._product(self._matrix.glu, x, norm, {})

    def gather(self, x: mx.array, experts: mx.array, **options: Any) -> Any:
        y = self._matrix.gather(x, experts, **options)
        self._watch(x, experts, y)
        return y

    def _product(
        self, multiply: Callable[..., Any], x: mx.array, norm: RMSNorm | None, options: Any
    ) -> Any:
        x = x if norm is None else norm(x)
        y = multiply(x, **options)
        self._watch(x, None, y)
        return y
