"""Runs a compiled kernel on arrays, and puts what the runtime reports into words."""

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
    """What a GPU may do one way or another: a kernel's results must not depend on it, beyond
    rounding.

    seed: the order of threadgroups, SIMD groups and lanes; 0 ascending, 1 descending, else mixed.
    sums: how simd_sum adds; 0 neighbours first, 1 halves first, 2 one after the other.
    contract: a product and a sum become one FMA.
    flush: subnormal floats become zero.
    """

    seed: int = 0
    sums: int = 0
    contract: bool = True
    flush: bool = True


# Every choice taken both ways: enough to run a kernel's tests under.
PLAIN = Machine()
MACHINES = (
    PLAIN,
    Machine(seed=1, sums=1, contract=False, flush=False),
    Machine(seed=2, sums=2, contract=True, flush=False),
    Machine(seed=3, sums=0, contract=False, flush=True),
)


@dataclass(frozen=True, slots=True)
class Bound:
    """A buffer as the kernel gets it: `data` is C-contiguous; outputs are written in place."""

    name: str
    data: np.ndarray
    output: bool = False
    initialised: bool = True


def launch(library: Path, text: KernelText, buffers: Sequence[Bound], machine: Machine) -> None:
    """Run the kernel; the data of the output buffers holds its results.

    Raises:
        EmulatorError: of the kind found, with kernel, buffer, index and thread in its message.
    """
    # As MLX does: a threadgroup is never larger than the grid.
    group = [min(pair) for pair in zip(text.grid, text.threadgroup, strict=True)]
    if np.prod(group) > 1024:
        raise errors.LimitError(f"{text.name}: a threadgroup of {group}: over 1024 threads")
    if len(buffers) > 31:
        raise errors.LimitError(f"{text.name}: {len(buffers)} buffers: over 31")
    if np.prod([-(-n // m) for n, m in zip(text.grid, group, strict=True)]) >= 1 << 22:
        raise errors.LimitError(f"{text.name}: grid {text.grid}: over 4 million threadgroups")
    # An empty array has no address: give it one, of no length.
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
    thread = f"thread {tuple(report.thread)}"
    name = report.name.decode()
    buffer = names[report.slot] if report.slot < len(names) else f"threadgroup array {name}"
    element = f"{buffer}[{report.index}]"
    verb = "writes" if report.write else "reads"
    other = f"thread {tuple(report.other)}" + (" and others" if report.several else "")
    lines = text.source.splitlines()

    def place(line: int) -> str:
        if not 0 < line <= len(lines):
            return "the end of the kernel"
        return f"line {line}, `{lines[line - 1].strip()}`"

    kinds = {
        1: (errors.OutOfBoundsError, f"{thread} {verb} {element}, out of bounds"),
        2: (errors.OutOfBoundsError, f"{thread} {verb} {element} misaligned"),
        3: (errors.OutOfBoundsError, f"{thread} writes the input {element}"),
        4: (
            errors.RaceError,
            f"race on {element}: {thread} {verb} it and {other} "
            f"{'wrote' if report.other_write else 'read'} it, without a barrier in between",
        ),
        5: (errors.UnwrittenError, f"{thread} reads {element}, which nobody wrote"),
        6: (errors.UnwrittenError, f"output element {element} was never written"),
        7: (
            errors.DivergenceError,
            f"{thread} waits at {name} ({place(report.line)}) but {other} is at "
            f"{place(report.other_line)}",
        ),
        8: (
            errors.DivergenceError,
            f"{thread} wants a value of lane {report.index}, which takes no part "
            f"({place(report.line)})",
        ),
        9: (errors.LimitError, "over 32768 bytes of threadgroup memory"),
        10: (
            errors.OutOfBoundsError,
            f"{thread} uses index {report.index}, outside its array ({place(report.line)})",
        ),
        11: (errors.UndefinedError, f"{thread} divides by zero ({place(report.line)})"),
    }
    kind, message = kinds[report.kind]
    return kind(f"{text.name}: {message}")
