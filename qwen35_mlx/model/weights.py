"""Weights as the layers ask for them: by name, with the shape each must have."""

from collections.abc import Mapping
from typing import Protocol

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight
from qwen35_mlx.kernels.selection import KernelSelection
from qwen35_mlx.model.linear import Linear

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


class Source(Protocol):
    """Tensors under canonical names: those of mlx-lm without the `language_model.` prefix."""

    def names(self) -> frozenset[str]: ...
    def read(self, name: str) -> mx.array: ...
    def quantization(self, module: str) -> Quantization | None: ...


class ArraySource:
    """A `Source` of plain arrays in memory: for tests and benchmarks."""

    def __init__(self, arrays: Mapping[str, mx.array]):
        self.arrays = arrays

    def names(self) -> frozenset[str]:
        return frozenset(self.arrays)

    def read(self, name: str) -> mx.array:
        return self.arrays[name]

    def quantization(self, module: str) -> Quantization | None:
        return None


class Weights:
    """One scope of a source, such as "model.layers.3.".

    Args:
        source: where tensors come from; each is read once, when a layer asks for it.
        dtype: floating-point tensors are cast to this, None keeps the stored dtype.

    Attributes:
        selection: what all layers made of these weights look up.
    """

    def __init__(self, source: Source, dtype: mx.Dtype | None = None):
        self.selection = KernelSelection()
        self._source = source
        self._names = source.names()
        self._dtype = dtype
        self._prefix = ""

    def scope(self, name: str | int) -> "Weights":
        """The tensors below `name`."""
        inner = object.__new__(Weights)
        inner.selection, inner._dtype = self.selection, self._dtype
        inner._source, inner._names = self._source, self._names
        inner._prefix = f"{self._prefix}{name}."
        return inner

    def has(self, name: str) -> bool:
        """Whether any tensor `name` or below `name` exists in this scope."""
        full = self._prefix + name
        return any(n == full or n.startswith(full + ".") for n in self._names)

    def array(self, name: str, *shape: int, keep_dtype: bool = False) -> mx.array:
        """The tensor `name` of exactly this shape.

        Raises:
            Qwen35Error: it is missing or has another shape.
        """
        value = self._read(name)
        if value.shape != shape:
            raise Qwen35Error(
                f"tensor '{self._prefix}{name}' has shape {list(value.shape)} where config.json "
                f"asks for {list(shape)}: are config.json and the weights of the same model?"
            )
        if not keep_dtype and self._dtype is not None:
            value = value.astype(self._dtype)
        mx.eval(value)  # what a compiled layer records must be a value, not a way to get one
        return value

    def linear(self, name: str, *shape: int) -> Linear:
        """The matrix (or stack of matrices) `name.weight`, plain or quantised.

        Args:
            shape: of the plain matrix, [out, in] or [experts, out, in].
        """
        how = self._source.quantization(self._prefix + name)
        if how is None:
            return Linear(self.array(f"{name}.weight", *shape), self.selection)
        affine = how.mode == "affine"
        # Packed weights, and the float-8 scales of the other modes, are bits: never cast.
        parts = {
            part: self.array(f"{name}.{part}", *packed, keep_dtype=part == "weight" or not affine)
            for part, packed in how.packed(shape).items()
        }
        packed = QuantizedWeight(parts["weight"], parts["scales"], parts.get("biases"), how)
        return Linear(packed, self.selection)

    def _read(self, name: str) -> mx.array:
        full = self._prefix + name
        if full not in self._names:
            raise Qwen35Error(f"the checkpoint has no tensor '{full}': is the download complete?")
        return self._source.read(full)
