"""What the emulator finds wrong with a kernel."""


class EmulatorError(Exception):
    """A kernel that is wrong, or outside the subset. The message names kernel, place and thread."""


class CompileError(EmulatorError):
    """The text does not compile: wrong address space, double, a name outside the subset."""


class OutOfBoundsError(EmulatorError):
    """An access outside a buffer or array, misaligned, or a write to an input."""


class RaceError(EmulatorError):
    """Two threads touch one element without a barrier in between, and one of them changes it."""


class UnwrittenError(EmulatorError):
    """A read of memory that nobody wrote, or an output element never written."""


class DivergenceError(EmulatorError):
    """Threads that should meet at one barrier or SIMD operation do not."""


class UndefinedError(EmulatorError):
    """Integer division by zero."""


class LimitError(EmulatorError):
    """More threads or threadgroup memory than Metal gives."""
