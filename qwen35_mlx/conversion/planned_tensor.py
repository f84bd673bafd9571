"""One tensor of a conversion: what is written of it, and its values a few rows at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import mlx.core as mx

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.safetensors_writer import TensorSpec
from qwen35_mlx.checkpoint.tensor_readers import CHUNK_ELEMENTS, OnePlus, RowReader
from qwen35_mlx.conversion.quantizer import quantize
from qwen35_mlx.kernels.quantized import Quantization


class PlannedTensor(Protocol):
    """One tensor of the source and how it is written: `TensorPlan`, or `HfTensor`."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the plain tensor."""
        ...

    @property
    def sources(self) -> tuple[str, ...]:
        """Canonical names of the tensors that it is made of."""
        ...

    @property
    def quantization(self) -> Quantization | None: ...

    @property
    def carried(self) -> bool:
        """Whether the source has it packed like that, and its parts are copied."""
        ...

    @property
    def raw(self) -> bool:
        """Whether it is written in the form of Hugging Face: w of a norm (1 + w)."""
        ...

    @property
    def nbytes(self) -> int: ...

    def specs(self) -> list[TensorSpec]:
        """The tensors to write."""
        ...

    def chunks(self, checkpoint: Checkpoint) -> Iterator[list[mx.array]]:
        """The values of `specs`, a few rows at a time."""
        ...


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the source and how it is written.

    Attributes:
        name: canonical.
        shape: of the plain tensor.
        dtype: of the plain tensor, or of the scales of an affine quantisation.
        quantization: None leaves it plain.
        carried: whether the source has it packed like that, and its codes are copied.
        raw: whether it has the form of Hugging Face: w of a norm (1 + w), [channels, 1, kernel] of
            a convolution.
        search: whether scales are searched for the least error.
        importance: weight of each input's squared error in that search: [in], or [stack, 1, in];
            None weights all alike.
    """

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype
    quantization: Quantization | None = None
    carried: bool = False
    raw: bool = False
    search: bool = False
    importance: mx.array | None = field(default=None, compare=False, repr=False)

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def module(self) -> str:
        """The module that the tensor belongs to, as mlx-lm names it."""
        return "language_model." + self.name.removesuffix(".weight")

    def specs(self) -> list[TensorSpec]:
        """The tensors to write: one, or the parts of a quantised matrix."""
        if self.quantization is None:
            shape = self.shape
            if self.raw and len(shape) == 3:
                shape = (shape[0], shape[2], shape[1])
            return [TensorSpec("language_model." + self.name, self.dtype, shape)]
        scale_dtype = self.dtype if self.quantization.mode == "affine" else mx.uint8
        return [
            TensorSpec(
                f"{self.module}.{part}", mx.uint32 if part == "weight" else scale_dtype, shape
            )
            for part, shape in self.quantization.packed(self.shape).items()
        ]

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.specs())

    def chunks(self, checkpoint: Checkpoint) -> Iterator[list[mx.array]]:
        """The values of `specs`, a few rows at a time."""
        rows = max(1, CHUNK_ELEMENTS // max(1, math.prod(self.shape[1:])))
        for start in range(0, self.shape[0], rows):
            stop = min(start + rows, self.shape[0])
            if self.carried:
                module = self.name.removesuffix(".weight")
                assert self.quantization is not None
                parts = [
                    checkpoint.read(f"{module}.{part}", start, stop)
                    for part in self.quantization.packed(self.shape)
                ]
                if self.quantization.mode == "affine":
                    parts[1:] = [part.astype(self.dtype) for part in parts[1:]]
                yield parts
                continue
            if self.raw and len(self.shape) == 1:
                values = zero_centred(checkpoint.plain(self.name))
            else:
                values = checkpoint.plain(self.name).read(start, stop)
            values = values.astype(self.dtype)
            yield [values] if self.quantization is None else self._quantized(values, start)

    def _quantized(self, values: mx.array, start: int) -> list[mx.array]:
        """The parts of rows, or of matrices of a stack, from `start` on."""
        q, importance = self.quantization, self.importance
        assert q is not None
        if not self.search:
            return list(mx.quantize(values, q.group_size, q.bits, mode=q.mode))
        if importance is not None and importance.ndim > 1:
            importance = importance[start : start + values.shape[0]]
        return quantize(values, q, importance)


def stores_weight(norm: RowReader, dtype: mx.Dtype) -> bool:
    """Whether the file of a norm (1 + w) holds w, in this dtype."""
    return isinstance(norm, OnePlus) and norm.stored.dtype == dtype


def zero_centred(norm: RowReader) -> mx.array:
    """w of a norm (1 + w): as stored, or else float32."""
    if isinstance(norm, OnePlus):
        return norm.stored.read(0, norm.shape[0])
    return norm.read(0, norm.shape[0]).astype(mx.float32) - 1
