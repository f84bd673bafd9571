"""A drop-in replacement of `mx.fast.metal_kernel` that runs kernels on the CPU and checks them."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.lib.stride_tricks import as_strided

from tests.metal_emulator.build import compile_kernel
from tests.metal_emulator.errors import CompileError
from tests.metal_emulator.launch import PLAIN, Bound, Machine, launch
from tests.metal_emulator.text import record

Scalar = bool | int | float
Launcher = Callable[..., list[mx.array]]

# Bound at import, since tests may replace it by `emulated`.
_metal_kernel: Any = mx.fast.metal_kernel


def emulated(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    machine: Machine = PLAIN,
) -> Launcher:
    """Like `mx.fast.metal_kernel`, but the kernel runs in the emulator, as on `machine`.

    The returned function takes the same keywords (`stream` and `verbose` are ignored) and returns
    evaluated arrays. Inputs are made row-contiguous, or keep their strides if they need not be.

    Raises, when called:
        EmulatorError: see `errors`.
    """
    kernel = _metal_kernel(
        name=name,
        input_names=input_names,
        output_names=output_names,
        source=source,
        header=header,
        ensure_row_contiguous=ensure_row_contiguous,
    )

    def run(
        *,
        inputs: Sequence[mx.array | Scalar],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        init_value: float | None = None,
        stream: object = None,
        verbose: bool = False,
        **options: object,
    ) -> list[mx.array]:
        arrays = [x if isinstance(x, mx.array) else mx.array(x) for x in inputs]
        shapes = {"output_shapes": output_shapes, "output_dtypes": output_dtypes}
        text = record(lambda *xs: kernel(inputs=list(xs), **shapes, **options), arrays)
        try:
            library = compile_kernel(text.translated(), machine.contract)
        except CompileError as error:
            raise CompileError(f"{text.name}: {error}") from None
        bound = []
        copy_input = _to_numpy if ensure_row_contiguous else _with_strides
        values = {n: copy_input(x) for n, x in zip(input_names, arrays, strict=True)}
        outputs = {}
        for n, shape, dtype in zip(output_names, output_shapes, output_dtypes, strict=True):
            # With a float value mx.full returns floats whatever its dtype, hence astype.
            outputs[n] = _to_numpy(mx.full(shape, init_value or 0.0).astype(dtype))
        for parameter in text.parameters():
            n = parameter.name
            if n in outputs:
                bound.append(Bound(n, outputs[n], True, init_value is not None))
            elif n in values:
                bound.append(Bound(n, _flat_memory(values[n])))
            elif parameter.space:
                bound.append(Bound(n, _shape_parameter(n, values)))
        launch(library, text, bound, machine)
        results = zip(outputs.values(), output_dtypes, strict=True)
        return [mx.array(x).view(dtype) for x, dtype in results]

    return run


def _to_numpy(x: mx.array) -> np.ndarray:
    """A writable copy in C order; bfloat16 as uint16."""
    return np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x, order="C")


def _extent(x: np.ndarray) -> int:
    """The number of elements from the first to the last in memory, with gaps."""
    return 1 + sum((n - 1) * step // x.itemsize for n, step in zip(x.shape, x.strides, strict=True))


def _with_strides(x: mx.array) -> np.ndarray:
    """A copy with the same strides, whose gaps are NaN."""
    view = np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x, copy=False)
    memory = np.full(_extent(view) * view.itemsize, 0xFF, np.uint8).view(view.dtype)
    copy = as_strided(memory, view.shape, view.strides)
    copy[...] = view
    return copy


def _flat_memory(x: np.ndarray) -> np.ndarray:
    """The memory from the first to the last element, with gaps, as one row."""
    return x if x.flags.c_contiguous else as_strided(x, (_extent(x),), (x.itemsize,))


def _shape_parameter(name: str, values: dict[str, np.ndarray]) -> np.ndarray:
    """A parameter that MLX adds if the body mentions it: `x_shape`, `x_strides` or `x_ndim`."""
    array, _, what = name.rpartition("_")
    x = values[array]
    strides = [s // x.itemsize for s in x.strides]
    value = {"shape": x.shape, "strides": strides, "ndim": x.ndim}[what]
    return np.array(value, np.int64 if what == "strides" else np.int32)
