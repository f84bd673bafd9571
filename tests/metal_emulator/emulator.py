"""A drop-in for `mx.fast.metal_kernel` that runs on the CPU and checks what it runs."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from tests.metal_emulator.build import compile_kernel
from tests.metal_emulator.errors import CompileError
from tests.metal_emulator.launch import PLAIN, Bound, Machine, launch
from tests.metal_emulator.text import record

Scalar = bool | int | float

# Taken now, since a test may put `emulated` in its place.
_metal_kernel = mx.fast.metal_kernel


def emulated(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    machine: Machine = PLAIN,
) -> Callable[..., list[mx.array]]:
    """What `mx.fast.metal_kernel` returns, but run by the emulator as `machine`.

    The returned function takes the same keywords (`stream` and `verbose` are ignored) and gives
    evaluated arrays. All inputs are passed row-contiguous.

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
        values = {n: _to_numpy(x) for n, x in zip(input_names, arrays, strict=True)}
        outputs = {}
        for n, shape, dtype in zip(output_names, output_shapes, output_dtypes, strict=True):
            # Not through mx.full's dtype: it returns a float for a float value.
            outputs[n] = _to_numpy(mx.full(shape, init_value or 0.0).astype(dtype))
        for parameter in text.parameters():
            n = parameter.name
            if n in outputs:
                bound.append(Bound(n, outputs[n], True, init_value is not None))
            elif n in values:
                bound.append(Bound(n, values[n]))
            elif parameter.space:
                bound.append(Bound(n, _described(n, values)))
        launch(library, text, bound, machine)
        results = zip(outputs.values(), output_dtypes, strict=True)
        return [mx.array(x).view(dtype) for x, dtype in results]

    return run


def _to_numpy(x: mx.array) -> np.ndarray:
    """A writable copy, in C order; bfloat16 as uint16."""
    return np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x, order="C")


def _described(name: str, values: dict[str, np.ndarray]) -> np.ndarray:
    """The parameters that MLX adds to a body which names them: `x_shape`, `x_strides`, `x_ndim`."""
    of, _, what = name.rpartition("_")
    x = values[of]
    strides = [s // x.itemsize for s in x.strides]
    found = {"shape": x.shape, "strides": strides, "ndim": x.ndim}[what]
    return np.array(found, np.int64 if what == "strides" else np.int32)
