"""Runs a compiled kernel on arrays, and turns the runtime's report into an error."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.metal_emulator import errors
from tests.metal_emulator.text import KernelText

uint = ctypes.c_uint32


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("host", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("granule", uint),
        ("output", uint),
        ("initialised", uint),
    )


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", uint * 3),
        ("group", uint * 3),
        ("seed", uint),
        ("sums", uint),
        ("flush", uint),
        ("buffers", uint),
    )


class _Report(ctypes.Structure):
    _fields_ = (
        *((name, uint) for name in ("kind", "slot", "write", "line")),
        *((name, uint) for name in ("other_line", "other_write", "several")),
        ("index", ctypes.c_int64),
        ("thread", uint * 3),
        ("other", uint * 3),
        ("name", ctypes.c_char * 64),
    )


@dataclass(frozen=True, slots=True)
class Machine:
    """What GPUs may do differently; a kernel's results may depend on it in their rounding only.

    Attributes:
        seed: order of threadgroups, SIMD groups and lanes; 0 ascending, 1 descending, else mixed.
        sums: order of simd_sum; 0 neighbours first, 1 halves first, 2 one after the other.
        contract: whether a product and a sum become one FMA.
        flush: whether subnormal floats become zero.
    """

    seed: int = 0
    sums: int = 0
    contract: bool = True
    flush: bool = True


PLAIN = Machine()
# Each choice both ways: enough to run a kernel's tests on.
MACHINES = (
    PLAIN,
    Machine(seed=1, sums=1, contract=False, flush=False),
    Machine(seed=2, sums=2, contract=True, flush=False),
    Machine(seed=3, sums=0, contract=False, flush=True),
)


@dataclass(frozen=True, slots=True)
class Bound:
    """A buffer argument: `data` is C-contiguous; an output is written in place."""

    name: str
    data: np.ndarray
    output: bool = False
    initialised: bool = True


def launch(library: Path, text: KernelText, buffers: Sequence[Bound], machine: Machine) -> None:
    """Run the kernel, which writes its results to the data of the output buffers.

    Raises:
        EmulatorError: the first error found, with kernel, buffer, index and thread.
    """
    # A threadgroup is never larger than the grid, as in MLX.
    group = [min(pair) for pair in zip(text.grid, text.threadgroup, strict=True)]
    if np.prod(group) > 1024:
        raise errors.LimitError(f"{text.name}: a threadgroup of {group}: over 1024 threads")
    if len(buffers) > 31:
        raise errors.LimitError(f"{text.name}: {len(buffers)} buffers: over 31")
    if np.prod([-(-n // m) for n, m in zip(text.grid, group, strict=True)]) >= 1 << 22:
        raise errors.LimitError(f"{text.name}: grid {text.grid}: over 4 million threadgroups")
    # An empty array has no address: pass one of no length.
    memory = [b.data if b.data.size else np.zeros(1, b.data.dtype) for b in buffers]
    table = (_Buffer * len(buffers))(
        *(
            _Buffer(m.ctypes.data, b.data.nbytes, m.itemsize, b.output, b.initialised)
            for m, b in zip(memory, buffers, strict=True)
        )
    )
    settings = _Launch(
        (uint * 3)(*text.grid),
        (uint * 3)(*group),
        machine.seed,
        machine.sums,
        machine.flush,
        len(buffers),
    )
    run = ctypes.CDLL(str(library)).emulator_run
    run.restype = ctypes.POINTER(_Report)
    report = run(ctypes.byref(settings), table).contents
    if report.kind:
        raise _error(report, text, [b.name for b in buffers])


def _error(report: _Report, text: KernelText, names: list[str]) -> errors.EmulatorError:
    lines = ["the end of the kernel", *text.source.splitlines()]

    def where(line: int) -> str:
        return f"line {line}, `{lines[line].strip()}`" if line else lines[0]

    name = report.name.decode()
    thread, other = (f"thread {tuple(position)}" for position in (report.thread, report.other))
    location, other_location = where(report.line), where(report.other_line)
    buffer = names[report.slot] if report.slot < len(names) else f"threadgroup array {name}"
    element = f"{buffer}[{report.index}]"
    access = f"{thread} {'writes' if report.write else 'reads'}"
    others = other + (" and others" if report.several else "")
    earlier = f"{others} {'wrote' if report.other_write else 'read'}"
    kinds = {
        1: (errors.OutOfBoundsError, f"{access} {element}, out of bounds ({location})"),
        2: (errors.OutOfBoundsError, f"{access} {element} misaligned ({location})"),
        3: (errors.OutOfBoundsError, f"{thread} writes the input {element} ({location})"),
        4: (
            errors.RaceError,
            f"race on {element}: {access} it ({location}) and {earlier} it ({other_location}), "
            "without a barrier in between",
        ),
        5: (
            errors.UnwrittenError,
            f"{thread} reads {element}, which was never written ({location})",
        ),
        6: (errors.UnwrittenError, f"output element {element} was never written"),
        7: (
            errors.DivergenceError,
            f"{thread} waits at {name} ({location}) but {other} is at {other_location}",
        ),
        8: (
            errors.DivergenceError,
            f"{thread} reads from lane {report.index}, which takes no part ({location})",
        ),
        9: (errors.LimitError, "over 32768 bytes of threadgroup memory"),
        10: (
            errors.OutOfBoundsError,
            f"{thread} uses index {report.index}, outside its array ({location})",
        ),
        11: (errors.UndefinedError, f"{thread} divides by zero ({location})"),
    }
    kind, message = kinds[report.kind]
    return kind(f"{text.name}: {message}")
