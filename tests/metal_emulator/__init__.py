"""Runs Metal kernels on a CPU and finds what is wrong with them, without a Mac.

`emulated` replaces `mx.fast.metal_kernel`. A test that passes with it shows, for its inputs, that
the body compiles within a strict subset of Metal (from the text that MLX itself generates, see
`text`), computes the right result, and has no race, no access out of bounds, no read of unwritten
memory and no diverging barrier. An error names kernel, line, buffer, index and thread.

How: clang compiles the text as C++ for OpenCL, which has Metal's address spaces, with a header of
Metal's names (`build`, shim.h). Each thread is a fiber; the 32 lanes of a SIMD group meet at each
of its operations (schedule.c). Every access to a buffer or threadgroup array is checked (memory.c).
`MACHINES` vary what GPUs may do differently: the order of threads and of sums, contraction to FMA,
subnormals. Run a kernel's tests under all of them.

It is stricter than a GPU: SIMD operations do not order memory, barriers order only the memory in
their flags, and all lanes of a SIMD group that have not returned must be at the same operation. It
is laxer in one way: two threads may write the same value to one element. It does not see reads
through a pointer outside a thread's own array, values that are read and never used, alignment that
Metal requires of arrays, register limits, or speed. Math functions are the host's and do not have
Metal's error bounds.
"""

from tests.metal_emulator.build import unsupported
from tests.metal_emulator.emulator import emulated
from tests.metal_emulator.errors import (
    CompileError,
    DivergenceError,
    EmulatorError,
    LimitError,
    OutOfBoundsError,
    RaceError,
    UndefinedError,
    UnwrittenError,
)
from tests.metal_emulator.launch import MACHINES, PLAIN, Machine

__all__ = [
    "MACHINES",
    "PLAIN",
    "CompileError",
    "DivergenceError",
    "EmulatorError",
    "LimitError",
    "Machine",
    "OutOfBoundsError",
    "RaceError",
    "UndefinedError",
    "UnwrittenError",
    "emulated",
    "unsupported",
]
