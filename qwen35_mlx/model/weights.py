"""The tensors of a checkpoint, looked up by name and checked against the expected shapes."""

from typing import Protocol

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.hadamard import HadamardRotation
from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight
from qwen35_mlx.kernels.selection import KernelSelection
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.linear import Linear
from qwen35_mlx.model.parallel import ALONE, Parallel
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


class TensorSource(Protocol):
    """Tensors by canonical name: mlx-lm's names without the `language_model.` prefix."""

    def names(self) -> frozenset[str]: ...
    def read(self, name: str) -> mx.array: ...
    def quantization(self, module: str) -> Quantization | None: ...
    def rotation(self, module: str) -> HadamardRotation | None: ...


class Weights:
    """The tensors below one name prefix, such as "model.layers.3.".

    Args:
        config: sizes of the network, which give every tensor's expected shape.
        source: where tensors are read from, each when a layer requests it.
        dtype: matrices and scales are cast to this; None keeps the stored dtype.
        parallel: the processes that have the other parts, if `config` is that of a part.

    Attributes:
        selection: the kernel selection shared by all layers that are built from these weights.
    """

    def __init__(
        self,
        config: ModelConfig,
        source: TensorSource,
        dtype: mx.Dtype | None = None,
        parallel: Parallel = ALONE,
    ):
        self.selection = KernelSelection()
        self.parallel = parallel
        self._shapes = trunk_tensors(config) | mtp_tensors(config)
        self._source = source
        self._names = source.names()
        self.dtype = dtype
        self._prefix = ""

    def scope(self, name: str | int) -> "Weights":
        """The tensors below `name`."""
        inner = object.__new__(Weights)
        inner.selection, inner.dtype = self.selection, self.dtype
        inner.parallel = self.parallel
        inner._shapes, inner._source, inner._names = self._shapes, self._source, self._names
        inner._prefix = f"{self._prefix}{name}."
        return inner

    def has(self, name: str) -> bool:
        """Whether there is a tensor called `name`, or one below it, in this scope."""
        full = self._prefix + name
        return any(n == full or n.startswith(full + ".") for n in self._names)

    def array(self, name: str) -> mx.array:
        """The tensor `name`, such as a norm, evaluated; widened to `dtype`, never rounded to it.

        Raises:
            Qwen35Error: it is missing, or its shape is not the expected one.
        """
        value = self._read(name, self._shapes[self._prefix + name])
        return value if self.dtype is None else _cast(value, mx.result_type(value, self.dtype))

    def linear(self, name: str) -> Linear:
        """The matrix (or stack of matrices) `name.weight`, plain or quantised.

        Raises:
            Qwen35Error: a tensor of it is missing, or its shape is not the expected one.
        """
        quantization = self._source.quantization(self._prefix + name)
        if quantization is None:
            plain = self._read(f"{name}.weight", self._shapes[f"{self._prefix}{name}.weight"])
            return Linear(_cast(plain, self.dtype or plain.dtype), self.selection)
        plain_shape = self._shapes[f"{self._prefix}{name}.weight"]
        parts = {
            part: self._read(f"{name}.{part}", shape)
            for part, shape in quantization.packed(plain_shape).items()
        }
        # Packed weights, and the float-8 scales of the other modes, are bits: never cast.
        if quantization.mode == "affine" and self.dtype is not None:
            parts |= {end: _cast(parts[end], self.dtype) for end in ("scales", "biases")}
        packed = QuantizedWeight(
            parts["weight"], parts["scales"], parts.get("biases"), quantization
        )
        return Linear(packed, self.selection, self._source.rotation(self._prefix + name))

    def _read(self, name: str, shape: tuple[int, ...]) -> mx.array:
        full = self._prefix + name
        if full not in self._names:
            raise Qwen35Error(f"the checkpoint has no tensor '{full}': is the download complete?")
        value = self._source.read(full)
        if value.shape != shape:
            raise Qwen35Error(
                f"tensor '{full}' has shape {list(value.shape)} where config.json "
                f"asks for {list(shape)}: are config.json and the weights of the same model?"
            )
        mx.eval(value)  # a compiled layer must capture a value, not the computation of one
        return value


def _cast(value: mx.array, dtype: mx.Dtype) -> mx.array:
    value = value.astype(dtype)
    mx.eval(value)
    return value
