"""Runs a test's kernel in one call, and skips tests where the emulator is not supported."""

from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np
import pytest

from tests.metal_emulator import PLAIN, Machine, emulated, unsupported

needs_emulator = pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))

Shape = Sequence[int]


def run(
    source: str,
    inputs: Mapping[str, mx.array | np.ndarray | int | float] | None = None,
    outputs: Mapping[str, tuple[Shape, mx.Dtype]] | None = None,
    grid: Shape = (32, 1, 1),
    threadgroup: Shape = (32, 1, 1),
    template: Sequence[tuple[str, mx.Dtype | int | bool]] = (),
    header: str = "",
    init_value: float | None = None,
    machine: Machine = PLAIN,
    contiguous: bool = True,
) -> list[mx.array]:
    """Run a kernel body; by default one SIMD group that writes 32 floats to `y`."""
    inputs = inputs or {}
    outputs = outputs or {"y": ((32,), mx.float32)}
    kernel = emulated(
        name="case",
        input_names=list(inputs),
        output_names=list(outputs),
        source=source,
        header=header,
        ensure_row_contiguous=contiguous,
        machine=machine,
    )
    return kernel(
        inputs=[mx.array(x) if isinstance(x, np.ndarray) else x for x in inputs.values()],
        template=list(template),
        grid=grid,
        threadgroup=threadgroup,
        output_shapes=[shape for shape, _ in outputs.values()],
        output_dtypes=[dtype for _, dtype in outputs.values()],
        init_value=init_value,
    )
