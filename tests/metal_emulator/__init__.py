"""An emulator of Metal on a CPU, for the kernels that `mx.fast.metal_kernel` would compile.

`emulated` stands in for `mx.fast.metal_kernel`. MLX itself generates the text (`text`); clang
compiles it as C++ for OpenCL, which has Metal's address spaces, with a header of Metal's names
(`build`, shim.h); every thread runs as a fiber, 32 meeting at each operation of their SIMD group
(schedule.c); every access to a buffer or threadgroup array is checked (memory.c). What is wrong
raises an `EmulatorError` that names kernel, line, buffer, index and thread. Run a kernel under
`MACHINES` too: there the order of threads and sums, contraction and subnormals differ.

Stricter than a GPU: SIMD operations do not order memory, barriers do only for the memory in their
flags, and lanes of a SIMD group that have not left must be at the same operation. Lenient: two
threads may write the same value to one element. Not seen: a read outside a thread's own array
through a pointer, a value read but never used, arrays that Metal would align less, more registers
than a GPU has, and anything about speed. Functions are the host's, not within Metal's error bounds.
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
