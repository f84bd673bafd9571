"""The errors that the emulator finds in a kernel."""


class EmulatorError(Exception):
    """A kernel is wrong or outside the subset. The message names kernel, line and thread."""


class CompileError(EmulatorError):
    """The text does not compile: a wrong address space, a double, a name outside the subset."""


class OutOfBoundsError(EmulatorError):
    """An access outside a buffer or array, misaligned, or a write to an input."""


class RaceError(EmulatorError):
    """Two threads access an element without a barrier in between, and one of them changes it."""


class UnwrittenError(EmulatorError):
    """A read of memory that was never written, or an output element that was not."""


class DivergenceError(EmulatorError):
    """Threads do not meet at the same barrier or SIMD operation."""


class UndefinedError(EmulatorError):
    """Integer division by zero."""


class LimitError(EmulatorError):
    """More threads or threadgroup memory than Metal allows."""
