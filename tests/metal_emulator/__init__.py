"""An emulator of Metal on a CPU, for the kernels that `mx.fast.metal_kernel` would compile."""

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
