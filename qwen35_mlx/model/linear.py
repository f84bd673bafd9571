"""Matrices, plain or quantised, and several matrices of one input fused into one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

import mlx.core as mx
import numpy as np

from qwen35_mlx.kernels import matvec
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import (
    UNPACKED,
    QuantizedWeight,
    dequantize,
    gather_matmul,
    matmul,
)
from qwen35_mlx.kernels.selection import KernelSelection


class Linear:
    """`x @ weight.T`, without a bias; the weight may be quantised and may be a stack of experts."""

    __slots__ = ("selection", "weight")

    def __init__(
        self, weight: mx.array | QuantizedWeight, selection: KernelSelection | None = None
    ):
        self.weight = weight
        self.selection = selection or KernelSelection()

    def __call__(
        self,
        x: mx.array,
        norm: RMSNorm | None = None,
        residual: mx.array | None = None,
        *,
        glu: bool = False,
    ) -> mx.array:
        """x [..., in] -> [..., out]. `norm`, `residual` and `glu`: see `matvec.reference`."""
        w = self.weight
        selected = self.selection.matmul_decode == matvec.KERNEL
        if selected and not isinstance(w, mx.array) and matvec.supports(x, w, norm):
            return matvec.kernel(x, w, norm, residual, glu=glu)
        return matvec.reference(x, self._multiply, norm, residual, glu=glu)

    def _multiply(self, x: mx.array) -> mx.array:
        w = self.weight
        if isinstance(w, mx.array):
            return x @ w.T
        return matmul(x, w, self.selection.matmul_prefill)

    def rows(self, ids: mx.array, dtype: mx.Dtype) -> mx.array:
        """Rows of the matrix by index, as for an embedding: ids [...] -> [..., in] of `dtype`."""
        w = self.weight
        if isinstance(w, mx.array):
            return w[ids].astype(dtype)
        biases = None if w.biases is None else w.biases[ids]
        return dequantize(w.weight[ids], w.scales[ids], biases, w.quantization, dtype)

    def gather(self, x: mx.array, experts: mx.array, *, sorted_indices: bool = False) -> mx.array:
        """Blocks of rows, each multiplied by the matrix of its expert.

        Args:
            x: [..., M, in], its leading axes broadcast against `experts`. Blocks of more than one
                row are multiplied by the unpacked stack, where that is selected.
            experts: [...] indices into the stack.
            sorted_indices: whether `experts` is ascending, which lets the GPU share weight reads.

        Returns:
            [..., M, out]
        """
        w = self.weight
        if isinstance(w, QuantizedWeight):
            if x.shape[-2] == 1 or self.selection.experts_prefill != UNPACKED:
                return gather_matmul(x, w, experts, sorted_indices)
            w = w.dequantized(x.dtype)
        if mx.default_device() == mx.cpu and w.dtype != mx.float32:
            # MLX's CPU gather_mm is float32 only: cast the gathered experts, not the stack.
            gathered = w[experts].astype(mx.float32).swapaxes(-1, -2)
            return (x.astype(mx.float32) @ gathered).astype(x.dtype)
        return mx.gather_mm(
            x, w.swapaxes(-1, -2), rhs_indices=experts, sorted_indices=sorted_indices
        )

    @property
    def dtype(self) -> mx.Dtype | None:
        """Dtype of the activations it was stored for; None where the format does not fix one."""
        w = self.weight
        stored = w.dtype if isinstance(w, mx.array) else w.scales.dtype
        return None if stored == mx.uint8 else stored

    @property
    def width(self) -> int:
        """Size of its inputs."""
        w = self.weight
        if isinstance(w, mx.array):
            return w.shape[-1]
        return w.scales.shape[-1] * w.quantization.group_size

    @property
    def format(self) -> tuple[object, ...]:
        """Matrices of equal format can be joined into one."""
        w = self.weight
        if isinstance(w, mx.array):
            return ("plain", w.dtype)
        return (w.quantization, w.scales.dtype)

    @property
    def arrays(self) -> list[mx.array]:
        return [self.weight] if isinstance(self.weight, mx.array) else self.weight.arrays


def stack_rows(parts: Sequence[Linear]) -> Linear:
    """Matrices of one format joined into one, whose outputs are theirs side by side."""
    if len(parts) == 1:
        return parts[0]
    weights, selection = [part.weight for part in parts], parts[0].selection
    plain = [w for w in weights if isinstance(w, mx.array)]
    if plain:
        return Linear(mx.concatenate(plain, axis=-2), selection)
    packed = [w for w in weights if isinstance(w, QuantizedWeight)]
    biases = [w.biases for w in packed if w.biases is not None]
    return Linear(
        replace(
            packed[0],
            weight=mx.concatenate([w.weight for w in packed], axis=-2),
            scales=mx.concatenate([w.scales for w in packed], axis=-2),
            biases=mx.concatenate(biases, axis=-2) if biases else None,
        ),
        selection,
    )


class FusedLinear:
    """Several projections of one input in as few matmuls as their formats allow.

    Launching a small matmul costs more than computing it, so neighbours of equal format are joined
    when the network is built. The joined matrices are evaluated at once, so that the parts can
    be freed before the next layer is read.
    """

    __slots__ = ("_groups",)

    def __init__(self, *parts: Linear):
        self._groups: list[tuple[Linear, list[int]]] = []
        for _, group in groupby(parts, key=lambda part: part.format):
            same = list(group)
            sizes = [part.arrays[0].shape[-2] for part in same]
            self._groups.append((stack_rows(same), np.cumsum(sizes)[:-1].tolist()))
        mx.eval(self.arrays)

    @property
    def arrays(self) -> list[mx.array]:
        return [array for linear, _ in self._groups for array in linear.arrays]

    @property
    def single(self) -> Linear | None:
        """The joined matrix, if all parts are in one; else None."""
        return self._groups[0][0] if len(self._groups) == 1 else None

    @property
    def matmuls(self) -> int:
        """Number of matrix products per call."""
        return len(self._groups)

    def __call__(self, x: mx.array, norm: RMSNorm | None = None) -> list[mx.array]:
        """x [..., in], after `norm` -> one [..., out] per part, in order."""
        return self._split(self._products(x, norm))

    def joined(self, x: mx.array, norm: RMSNorm | None = None) -> mx.array:
        """All outputs side by side: x [..., in], after `norm` -> [..., sum of out]."""
        products = self._products(x, norm)
        return products[0] if len(products) == 1 else mx.concatenate(products, axis=-1)

    def glu(self, x: mx.array, norm: RMSNorm | None = None) -> mx.array:
        """silu(gate) * up, the two parts: x [..., in], after `norm` -> [..., out]."""
        if self.single is not None:
            return self.single(x, norm, glu=True)
        return matvec.swiglu(*self(x, norm))

    def gather(
        self, x: mx.array, experts: mx.array, *, sorted_indices: bool = False
    ) -> list[mx.array]:
        """`Linear.gather` of every part."""
        return self._split(
            linear.gather(x, experts, sorted_indices=sorted_indices) for linear, _ in self._groups
        )

    def _products(self, x: mx.array, norm: RMSNorm | None) -> list[mx.array]:
        if norm is not None and len(self._groups) > 1:
            x, norm = norm(x), None
        return [linear(x, norm) for linear, _ in self._groups]

    def _split(self, products: Iterable[mx.array]) -> list[mx.array]:
        outputs: list[mx.array] = []
        for (_, splits), y in zip(self._groups, products, strict=True):
            outputs += mx.split(y, splits, axis=-1) if splits else [y]
        return outputs
