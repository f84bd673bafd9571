"""Finds out which variants of the operations are right and fastest on this machine.

When a model is first used on a GPU, every variant of every operation runs on small inputs and is
compared with its reference. Those that agree are timed at the model's shapes, and the fastest is
stored in a file for later starts. A variant that differs or does not run is disabled, with a notice
of one line. `python -m qwen35_mlx.check` does the same and prints a table.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import platformdirs

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object, replace_file
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.kernels.selection import REFERENCE, KernelSelection

Outputs = Sequence[mx.array]

# A call of so long is timed once; runs of a shorter one end when they have taken this together.
_LONG_SECONDS, _TIMING_SECONDS = 1.0, 0.5

TUNING_NOTICE = "trying out kernels for this model on this machine, once; it may take a minute"


@dataclass(frozen=True, slots=True)
class Operation:
    """Something a network computes, and that has several variants.

    Attributes:
        name: a field of `KernelSelection`.
        shape: the sizes and dtype that timings hold for, in words.
        variants: names of all variants but the reference.
        check_calls: calls on small inputs, whose outputs are compared with the reference's.
        timed_calls: calls at the model's sizes, evaluated and timed together.
        compiled: whether a network runs the operation through `mx.compile`, which takes away much
            of the launch overhead.
        tolerance: largest difference from the reference, relative to its largest magnitude.
        packing: the only matrices that the choice is for, in words: those of a format, or of a size
            and format; empty if it is for all.
        checked_by: key of the operation whose checks hold for this one too, of which only the times
            differ; empty if it has checks of its own.
        margin: share by which a variant must be faster than the reference.
        composed: whether the calls contain other operations, whose fastest variants they then run.
    """

    name: str
    shape: str
    variants: Sequence[str]
    check_calls: Sequence[Callable[[], Outputs]]
    timed_calls: Sequence[Callable[[], Outputs]]
    compiled: bool
    tolerance: float
    packing: str = ""
    checked_by: str = ""
    margin: float = 0.0
    composed: bool = False

    @property
    def key(self) -> str:
        """The key of the fastest variant in the results file."""
        return f"{self.name}: {self.shape}"

    def select(self, variant: str, selection: KernelSelection) -> None:
        """Select a variant of it."""
        selection.select(self.name, variant, self.packing)


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of one variant.

    Attributes:
        error: difference from the reference; None for the reference, and if it did not run.
        milliseconds: of one call; None if it was not timed.
        check_seconds: that compiling it and its calls on small inputs took.
        failure: why the variant must not be used; empty if it may.
    """

    variant: str
    error: float | None
    milliseconds: float | None
    check_seconds: float = 0.0
    failure: str = ""


def median_seconds(call: Callable[[], Any]) -> float:
    """Median time of a call and its evaluation.

    Over five runs after a first one, or as many as half a second allows, but at least one. Of a
    call of a second or more, the first run counts: compiling hardly adds to it.
    """

    def run() -> float:
        started = time.perf_counter()
        mx.eval(call())
        mx.synchronize()
        return time.perf_counter() - started

    first = run()
    if first >= _LONG_SECONDS:
        return first
    times: list[float] = []
    while len(times) < 5 and (not times or sum(times) < _TIMING_SECONDS):
        times.append(run())
    return statistics.median(times)


def milliseconds_per_call(operation: Operation) -> float:
    """Time of one of the operation's timed calls, by the variant selected now."""
    calls = {
        call: mx.compile(call) if operation.compiled else call for call in operation.timed_calls
    }
    total = median_seconds(lambda: [calls[call]() for call in operation.timed_calls])
    return 1000 * total / len(operation.timed_calls)


def relative_difference(got: Outputs, want: Outputs) -> float:
    """The largest over all outputs, relative to each one's largest magnitude; inf if NaN occurs."""
    largest = 0.0
    for a, b in zip(got, want, strict=True):
        a, b = a.astype(mx.float32), b.astype(mx.float32)
        error = float(mx.max(mx.abs(a - b)) / mx.maximum(mx.max(mx.abs(b)), 1e-30))
        largest = max(largest, error if error == error else float("inf"))
    return largest


def try_variants(operation: Operation, selection: KernelSelection) -> list[Trial]:
    """Check and time every variant, the reference first.

    Args:
        selection: the one that the operation's calls read; left at the reference.
    """
    operation.select(REFERENCE, selection)
    started = time.perf_counter()
    try:
        references = [call() for call in operation.check_calls]
        mx.eval(references)
        seconds = time.perf_counter() - started
        trials = [Trial(REFERENCE, None, milliseconds_per_call(operation), seconds)]
    except Exception as error:  # compilers and drivers raise anything
        # Without a reference nothing can be checked, so no variant may run.
        return [Trial(REFERENCE, None, None, failure=f"does not run ({_first_line(error)})")]
    for variant in operation.variants:
        operation.select(variant, selection)
        trials.append(_try_variant(operation, variant, references))
    operation.select(REFERENCE, selection)
    return trials


def _without_failures(operation: Operation, trials: Sequence[Trial]) -> Operation:
    """The operation with the variants that passed the checks that hold for it."""
    passed = {trial.variant for trial in trials if not trial.failure}
    return replace(operation, variants=[v for v in operation.variants if v in passed])


def _try_variant(operation: Operation, variant: str, references: Sequence[Outputs]) -> Trial:
    difference, seconds = None, 0.0
    started = time.perf_counter()
    try:
        outputs = [call() for call in operation.check_calls]
        differences = map(relative_difference, outputs, references)
        difference = max(differences, default=0.0)
        seconds = time.perf_counter() - started
        if difference > operation.tolerance:
            failure = f"differs from its reference by {difference:.1e}"
            return Trial(variant, difference, None, seconds, failure)
        return Trial(variant, difference, milliseconds_per_call(operation), seconds)
    except Exception as error:  # compilers and drivers raise anything
        failure = f"does not run ({_first_line(error)})"
        return Trial(variant, difference, None, seconds, failure)


def fastest_variant(trials: Sequence[Trial], margin: float = 0.0) -> str:
    """The fastest variant that may be used; the reference if none is faster by this share."""
    timed = {t.variant: t.milliseconds for t in trials if t.milliseconds is not None}
    best = min(timed, key=timed.__getitem__, default=REFERENCE)
    reference = timed.get(REFERENCE)
    gains = reference is None or timed[best] < reference * (1 - margin)
    return best if gains else REFERENCE


def tune(
    operations: Sequence[Operation],
    selection: KernelSelection,
    notice: Callable[[str], None],
    *,
    retry: bool = False,
) -> dict[str, list[Trial]]:
    """Select the fastest variant of each operation on this machine, from the results file or anew.

    Args:
        notice: called with `TUNING_NOTICE` before variants are tried, and with one line for every
            variant that fails, now or later in use.
        retry: try all variants, whatever the results file holds, and without `TUNING_NOTICE`.

    Returns:
        The trials made now, by `Operation.key`.
    """
    if gpu_kernel.backend() is None:
        return {}
    selection.on_failure = None
    file, machine = results_file(), machine_key()
    results = _read_results(file)
    fastest: dict[str, str] = {} if retry else results.get(machine, {})
    missing = [op for op in operations if fastest.get(op.key) not in (REFERENCE, *op.variants)]
    keys = {key for op in missing for key in (op.key, op.checked_by)}
    untried = [op for op in operations if op.key in keys or op.checked_by in keys - {""}]
    if untried and not retry:
        notice(TUNING_NOTICE)
    tried: dict[str, list[Trial]] = {}

    for operation in untried:
        selection.unselect(operation.name, operation.packing)

    def select_fastest() -> None:
        for operation in operations:
            operation.select(fastest.get(operation.key, REFERENCE), selection)

    for operation in sorted(untried, key=lambda op: (op.composed, bool(op.checked_by))):
        if operation.composed:
            select_fastest()
        if operation.checked_by:
            operation = _without_failures(operation, tried[operation.checked_by])
        trials = tried[operation.key] = try_variants(operation, selection)
        fastest.pop(operation.key, None)
        if trials[0].milliseconds is not None:  # a reference that failed may run at the next start
            fastest[operation.key] = fastest_variant(trials, operation.margin)
        where = f" for {operation.packing}" if operation.packing else ""
        for trial in trials:
            if trial.failure:
                notice(
                    f"{operation.name} '{trial.variant}' is off on this machine{where}: it "
                    f"{trial.failure}; please report it with the output of "
                    "`python -m qwen35_mlx.check`"
                )
    select_fastest()
    selection.compiled, selection.on_failure = True, notice
    if tried:
        _write_results(file, {**results, machine: {**results.get(machine, {}), **fastest}})
    return tried


def results_file() -> Path:
    """The JSON file of the fastest variants, by machine and operation."""
    return platformdirs.user_cache_path("qwen35-mlx") / "kernels.json"


def machine_key() -> str:
    """What results hold for: GPU, versions of macOS and MLX, and a digest of the sources."""
    digest = blake2b(digest_size=6)
    for file in sorted(resources.files("qwen35_mlx.kernels").iterdir(), key=lambda f: f.name):
        if file.name.endswith((".metal", ".py")):
            digest.update(file.read_bytes())
    name = mx.device_info().get("device_name", "GPU")
    # The compiler of Metal comes with the system.
    macos = platform.mac_ver()[0]
    system = f"{gpu_kernel.backend()}, macOS {macos}" if macos else gpu_kernel.backend()
    return f"{name}, {system}, MLX {version('mlx')}, {digest.hexdigest()}"


def _read_results(file: Path) -> dict[str, dict[str, str]]:
    """The file's content; empty if it is missing or damaged."""
    with suppress(Qwen35Error):
        results = read_json_object(file)
        if all(isinstance(v, dict) for v in results.values()):
            return results
    return {}


def _write_results(file: Path, results: dict[str, dict[str, str]]) -> None:
    """Replace the file atomically. If that fails, the next start tries the variants again."""
    with suppress(OSError):
        replace_file(file, json.dumps(results, indent=1) + "\n")


def _first_line(error: BaseException) -> str:
    error = error.__cause__ or error  # what `Kernel` raises is worded for users
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
