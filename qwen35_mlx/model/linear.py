"""Matrices, plain or quantised, and several matrices of one input fused into one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import mlx.core as mx
import numpy as np

from qwen35_mlx.kernels import matvec
from qwen35_mlx.kernels.hadamard import HadamardRotation
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import (
    UNPACKED,
    Quantization,
    QuantizedWeight,
    dequantize,
    gather_matmul,
    matmul,
)
from qwen35_mlx.kernels.selection import KernelSelection


class Linear:
    """`x @ weight.T`, without a bias; the weight may be quantised and may be a stack of experts.

    Args:
        rotation: if given, the rows of the weight are rotated, and so inputs must be; that happens
            here.
    """

    __slots__ = ("rotation", "selection", "weight")

    def __init__(
        self,
        weight: mx.array | QuantizedWeight,
        selection: KernelSelection | None = None,
        rotation: HadamardRotation | None = None,
    ):
        self.weight = weight
        self.selection = selection or KernelSelection()
        self.rotation = rotation

    def __call__(
        self,
        x: mx.array,
        norm: RMSNorm | None = None,
        residual: mx.array | None = None,
        *,
        glu: bool = False,
        rotated: bool = False,
    ) -> mx.array:
        """x [..., in] -> [..., out] in the dtype of x.

        Args:
            norm, residual, glu: see `matvec.reference`.
            rotated: x is rotated already, and normed.
        """
        if self.rotation is not None and not rotated:
            x, norm = self.rotation(x if norm is None else norm(x)), None
        plain = partial(matvec.reference, x, self._multiply, norm, residual, glu=glu)
        key = self._kernel_key(x)
        if key is None:
            return plain()
        variant = self.selection.matmul_decode[key]
        kernel = partial(matvec.kernel, x, self.weight, norm, residual, glu=glu, variant=variant)
        return self.selection.attempt("matmul_decode", kernel, plain, key)

    def uses_decode_kernel(self, x: mx.array) -> bool:
        """Whether a decode kernel is selected for this matrix and supports the product."""
        return self._kernel_key(x) is not None

    def _kernel_key(self, x: mx.array) -> str | None:
        """Its key in `KernelSelection.matmul_decode`, if a kernel is selected and supports x."""
        selected = self.selection.matmul_decode
        if not selected:
            return None
        place = self.place
        key = place if place in selected else self.packing
        usable = selected.get(key) in matvec.VARIANTS and matvec.supports(x, self.weight)
        return key if usable else None

    def _multiply(self, x: mx.array) -> mx.array:
        w = self.weight
        # A weight of a wider dtype widens the product.
        if isinstance(w, mx.array):
            return (x @ w.T).astype(x.dtype)
        return matmul(x, w, self.selection.matmul_prefill).astype(x.dtype)

    def first(self, outputs: int) -> "Linear":
        """The matrix of the first outputs alone, in the same memory."""
        return Linear(self.weight[slice(outputs)], self.selection, self.rotation)

    def rows(self, ids: mx.array, dtype: mx.Dtype) -> mx.array:
        """Rows of the matrix by index, as for an embedding: ids [...] -> [..., in] of `dtype`."""
        w, read_dtype = self.weight, dtype if self.rotation is None else mx.float32
        if isinstance(w, mx.array):
            rows = w[ids].astype(read_dtype)
        else:
            biases = None if w.biases is None else w.biases[ids]
            rows = dequantize(w.weight[ids], w.scales[ids], biases, w.quantization, read_dtype)
        return rows if self.rotation is None else self.rotation.inverse(rows).astype(dtype)

    def gather(
        self,
        x: mx.array,
        experts: mx.array,
        *,
        sorted_indices: bool = False,
        rotated: bool = False,
    ) -> mx.array:
        """Blocks of rows, each multiplied by the matrix of its expert.

        Args:
            x: [..., M, in], its leading axes broadcast against `experts`. Blocks of more than one
                row are multiplied by the unpacked stack, where that is selected.
            experts: [...] indices into the stack.
            sorted_indices: whether `experts` is ascending, which lets the GPU share weight reads.
            rotated: x is rotated already.

        Returns:
            [..., M, out] in the dtype of x.
        """
        if self.rotation is not None and not rotated:
            x = self.rotation(x)
        w = self.weight
        if isinstance(w, QuantizedWeight):
            if x.shape[-2] == 1 or self.selection.experts_prefill != UNPACKED:
                return gather_matmul(x, w, experts, sorted_indices).astype(x.dtype)
            columns = w.unpacked_columns(x.dtype)
        else:
            columns = w.swapaxes(-1, -2)
        if mx.default_device() == mx.cpu and columns.dtype != mx.float32:
            # MLX's CPU gather_mm is float32 only: cast the gathered experts, not the stack.
            return (x.astype(mx.float32) @ columns[experts].astype(mx.float32)).astype(x.dtype)
        return mx.gather_mm(x, columns, rhs_indices=experts, sorted_indices=sorted_indices).astype(
            x.dtype
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
            return ("plain", w.dtype, self.rotation)
        return (w.quantization, w.scales.dtype, self.rotation)

    @property
    def packing(self) -> str:
        """How its weight is stored, in words: kernels are selected by it."""
        w = self.weight
        if isinstance(w, mx.array):
            return packing_name(None, w.dtype)
        return packing_name(w.quantization, w.scales.dtype)

    @property
    def place(self) -> str:
        """Its size and `packing`, in words."""
        return f"{self.arrays[0].shape[-2]} x {self.width}, {self.packing}"

    @property
    def arrays(self) -> list[mx.array]:
        """The weight's, packed words first, then the signs of its rotation."""
        weight = [self.weight] if isinstance(self.weight, mx.array) else self.weight.arrays
        return weight if self.rotation is None else [*weight, self.rotation.signs]


def packing_name(quantization: Quantization | None, dtype: mx.Dtype) -> str:
    """A format of matrices, in words.

    Args:
        dtype: of the scales, or of the matrix if it is not quantised.
    """
    name, q = str(dtype).removeprefix("mlx.core."), quantization
    if q is None:
        return f"plain {name}"
    return f"{q.bits}-bit {q.mode} in groups of {q.group_size} with {name} scales"


def stack_rows(parts: Sequence[Linear]) -> Linear:
    """Matrices of one format joined into one, whose outputs are theirs side by side."""
    if len(parts) == 1:
        return parts[0]
    weights = [part.weight for part in parts]
    selection, rotation = parts[0].selection, parts[0].rotation
    plain = [w for w in weights if isinstance(w, mx.array)]
    if plain:
        return Linear(mx.concatenate(plain, axis=-2), selection, rotation)
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
        rotation,
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """Parts joined into one matrix.

    Attributes:
        splits: where its outputs are split into those of the parts.
        rotation: which of all rotations its input needs; None if none.
    """

    linear: Linear
    splits: list[int]
    rotation: int | None


class FusedLinear:
    """Several projections of one input in as few matmuls as their formats allow.

    Launching a small matmul costs more than computing it, so neighbours of equal format are joined
    when the network is built, and equal rotations of the input are computed once. The joined
    matrices are evaluated at once, so that the parts can be freed before the next layer is read.
    """

    __slots__ = ("_groups", "_rotations")

    def __init__(self, *parts: Linear):
        self._groups: list[_Group] = []
        self._rotations: list[HadamardRotation] = []
        for _, group in groupby(parts, key=lambda part: part.format):
            same = list(group)
            sizes = [part.arrays[0].shape[-2] for part in same]
            rotation = same[0].rotation
            if rotation is not None and rotation not in self._rotations:
                self._rotations.append(rotation)
            index = None if rotation is None else self._rotations.index(rotation)
            splits = np.cumsum(sizes)[:-1].tolist()
            self._groups.append(_Group(stack_rows(same), splits, index))
        mx.eval(self.arrays)

    @property
    def arrays(self) -> list[mx.array]:
        return [array for group in self._groups for array in group.linear.arrays]

    @property
    def single(self) -> Linear | None:
        """The joined matrix, if all parts are in one; else None."""
        return self._groups[0].linear if len(self._groups) == 1 else None

    @property
    def joined_matrices(self) -> list[Linear]:
        """The matrices that the parts are joined into."""
        return [group.linear for group in self._groups]

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
            linear.gather(y, experts, sorted_indices=sorted_indices, rotated=True)
            for linear, y in self._inputs(x)
        )

    def _products(self, x: mx.array, norm: RMSNorm | None) -> list[mx.array]:
        if norm is not None and not self._norm_is_fused(x):
            x, norm = norm(x), None
        return [linear(y, norm, rotated=True) for linear, y in self._inputs(x)]

    def _norm_is_fused(self, x: mx.array) -> bool:
        """Whether no matrix needs norm(x) as an array: if one does, that serves them all."""
        if self._rotations:
            return False
        return self.single is not None or all(
            linear.uses_decode_kernel(x) for linear in self.joined_matrices
        )

    def _inputs(self, x: mx.array) -> list[tuple[Linear, mx.array]]:
        """Each joined matrix with its input."""
        rotated = [rotation(x) for rotation in self._rotations]
        return [(g.linear, x if g.rotation is None else rotated[g.rotation]) for g in self._groups]

    def _split(self, products: Iterable[mx.array]) -> list[mx.array]:
        outputs: list[mx.array] = []
        for group, y in zip(self._groups, products, strict=True):
            outputs += mx.split(y, group.splits, axis=-1) if group.splits else [y]
        return outputs
