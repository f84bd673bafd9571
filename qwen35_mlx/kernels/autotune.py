"""Which variants of the operations are right on this machine, and which of these is fastest.

At the first use of a model on a GPU every variant of every operation runs on small inputs and is
compared with its reference. Those that agree are timed at the model's shapes, and the winners are
kept in a file, so that the next start costs nothing. A variant that differs or does not compile is
left out, and one line says so. `python -m qwen35_mlx.check` does the same and prints the table.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import platformdirs

from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.kernels.selection import REFERENCE, KernelSelection

Outputs = Sequence[mx.array]

FIRST = "trying out kernels for this model on this machine, once; it may take a minute"


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that a network does in one of several forms.

    Attributes:
        name: of the field of `KernelSelection`.
        shape: what figures hold for, in words: sizes and dtype.
        forms: names of the forms, the reference not among them.
        small: calls that together are compared with the reference, each as outputs.
        work: calls at the size that matters, which the clock sees evaluated together.
        compiled: whether a network compiles it: that takes much of the time of asking for it.
        tolerance: largest difference over the largest magnitude.
    """

    name: str
    shape: str
    forms: Sequence[str]
    small: Sequence[Callable[[], Outputs]]
    work: Sequence[Callable[[], Outputs]]
    compiled: bool
    tolerance: float

    @property
    def key(self) -> str:
        """What a winner is kept under."""
        return f"{self.name}: {self.shape}"


@dataclass(frozen=True, slots=True)
class Trial:
    """How one form did.

    Attributes:
        error: against the reference; None for the reference itself, or if it did not run.
        milliseconds: of one call; None if it was not timed.
        failure: why it must not be used; empty if it may.
    """

    form: str
    error: float | None
    milliseconds: float | None
    failure: str = ""


def seconds(call: Callable[[], Any]) -> float:
    """Median time of a call and its evaluation, of five after a first one."""

    def once() -> float:
        started = time.perf_counter()
        mx.eval(call())
        mx.synchronize()
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(5))


def milliseconds(operation: Operation) -> float:
    """Of one call of an operation's work, in the form that is chosen now."""
    calls = {call: mx.compile(call) if operation.compiled else call for call in operation.work}
    together = seconds(lambda: [calls[call]() for call in operation.work])
    return 1000 * together / len(operation.work)


def difference(got: Outputs, want: Outputs) -> float:
    """The largest over all outputs, each relative to its largest magnitude; NaN counts as inf."""
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        a, b = a.astype(mx.float32), b.astype(mx.float32)
        error = float(mx.max(mx.abs(a - b)) / mx.maximum(mx.max(mx.abs(b)), 1e-30))
        worst = max(worst, error if error == error else float("inf"))
    return worst


def trials(operation: Operation, selection: KernelSelection) -> list[Trial]:
    """Try every form, the reference first. `selection` is what the operation looks up."""
    setattr(selection, operation.name, REFERENCE)
    try:
        want = [call() for call in operation.small]
        mx.eval(want)
        found = [Trial(REFERENCE, None, milliseconds(operation))]
    except Exception as error_:  # whatever a compiler or driver may say
        # Nothing to compare with, so nothing else may run.
        return [Trial(REFERENCE, None, None, f"does not run ({_first_line(error_)})")]
    for form in operation.forms:
        setattr(selection, operation.name, form)
        error = None
        try:
            error = max(
                difference(call(), wanted)
                for call, wanted in zip(operation.small, want, strict=True)
            )
            if error > operation.tolerance:
                failure = f"differs from its reference by {error:.1e}"
                found.append(Trial(form, error, None, failure))
                continue
            found.append(Trial(form, error, milliseconds(operation)))
        except Exception as error_:  # whatever a compiler or driver may say
            found.append(Trial(form, error, None, f"does not run ({_first_line(error_)})"))
    setattr(selection, operation.name, REFERENCE)
    return found


def winner(found: Sequence[Trial]) -> str:
    """The fastest form that may be used; the reference if none may."""
    timed = [(t.milliseconds, t.form) for t in found if t.milliseconds is not None]
    return min(timed, default=(0.0, REFERENCE))[1]


def choose(
    operations: Sequence[Operation],
    selection: KernelSelection,
    notice: Callable[[str], None],
    *,
    again: bool = False,
) -> dict[str, list[Trial]]:
    """Fill in `selection` for this machine.

    Args:
        notice: is told one line for every form that had to be left out, and `FIRST` before.
        again: try also what the file knows.

    Returns:
        What was tried now, by operation.
    """
    if gpu_kernel.backend() is None:
        return {}
    file, machine = results_file(), fingerprint()
    known = _read(file)
    kept: dict[str, str] = {} if again else known.get(machine, {})
    untried = [op for op in operations if kept.get(op.key) not in (REFERENCE, *op.forms)]
    if untried and not again:
        notice(FIRST)
    tried: dict[str, list[Trial]] = {}
    for operation in untried:
        found = tried[operation.name] = trials(operation, selection)
        if found[0].milliseconds is not None:  # else it may be another time
            kept[operation.key] = winner(found)
        for trial in found:
            if trial.failure:
                notice(
                    f"{operation.name} '{trial.form}' is off on this machine: it "
                    f"{trial.failure}; please report it with the output of "
                    "`python -m qwen35_mlx.kernels.autotune`"
                )
    for operation in operations:
        setattr(selection, operation.name, kept.get(operation.key, REFERENCE))
    selection.compiled = True
    if tried:
        _write(file, {**known, machine: {**known.get(machine, {}), **kept}})
    return tried


def results_file() -> Path:
    """Where winners are kept."""
    return platformdirs.user_cache_path("qwen35-mlx") / "kernels.json"


def fingerprint() -> str:
    """Machine, MLX version and kernels: what winners hold for."""

    digest = blake2b(digest_size=6)
    for file in sorted(resources.files("qwen35_mlx.kernels").iterdir(), key=lambda f: f.name):
        if file.name.endswith((".metal", ".py")):
            digest.update(file.read_bytes())
    name = mx.device_info().get("device_name", "GPU")
    return f"{name}, {gpu_kernel.backend()}, MLX {version('mlx')}, {digest.hexdigest()}"


def _read(file: Path) -> dict[str, dict[str, str]]:
    """What is kept; nothing if the file is missing or not what was written."""
    with suppress(OSError, ValueError):
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict) and all(isinstance(v, dict) for v in found.values()):
            return found
    return {}


def _write(file: Path, known: dict[str, dict[str, str]]) -> None:
    """Whole or not at all; a folder that cannot be written costs the time of the next check."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        partial.replace(file)


def _first_line(error: BaseException) -> str:
    error = error.__cause__ or error  # a kernel's own error is for those who use it
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
