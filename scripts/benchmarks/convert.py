"""Peak memory and speed of the converter: `python -m scripts.benchmarks.convert`.

Converts sources of every kind, at two sizes, each in a process of its own, with mlx-lm's converter
beside it. Peak memory is the largest resident set of the process, anonymous and file pages
together. It must grow by no more than 15 % from the smaller size to the larger, and what is above
that of an interpreter which only imports the same modules must stay below 700 MB. A conversion
that measures its result may take two layers in float32 more. What a streamed one has on the disk
must stay below the result and two shards of its source.

Time is given beside that of a plain copy of the source to the same disk, flushed as the result is.
Prints a line for each run and ends in one JSON line; exits with 1 if a bar is missed.

This process imports no MLX and stays small, because on Linux the peak of a child process starts at
that of its parent.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.benchmarks.convert_cases import CASES, Case

LIMIT_MB = 700
GROWTH = 1.15
_SLACK_MB = 64  # of a streamed source: tokenizer, headers, index
_COPIED, _PIECE = 2 << 30, 4 << 20  # bytes
_OURS = "import mlx.core as mx, qwen35_mlx.convert; mx.eval(mx.zeros(1) + 1)"
_PEER = "import mlx.core as mx, mlx_lm.convert; mx.eval(mx.zeros(1) + 1)"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process took.

    Attributes:
        cpu: seconds of all threads.
    """

    peak_mb: float
    seconds: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Row:
    """One run.

    Attributes:
        peak_mb: peak memory.
        above_mb: of it, what is above that of the interpreter.
        bar_mb: that it must stay below; None for a peer.
        copies: the time, in those of a plain copy of the source.
        disk_mb, disk_bar_mb: of a streamed conversion, at most at one time.
    """

    case: str
    source_gb: float
    result_gb: float
    peak_mb: float
    above_mb: float
    bar_mb: float | None
    seconds: float
    cpu: float
    copies: float
    disk_mb: float | None = None
    disk_bar_mb: float | None = None

    @property
    def ok(self) -> bool:
        in_memory = self.bar_mb is None or self.above_mb < self.bar_mb
        on_disk = (self.disk_mb or 0) <= (self.disk_bar_mb or 0)
        return in_memory and on_disk


def measured(arguments: Sequence[str], environment: Mapping[str, str] = {}) -> tuple[Usage, str]:
    """Run Python with these arguments; returns what it took, and its output."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read().decode()
    if process.returncode:
        sys.exit(text)
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = usage.ru_maxrss * unit / 1e6
    return Usage(peak, seconds, usage.ru_utime + usage.ru_stime), text


def write(kind: str, nbytes: int, path: Path) -> None:
    """Write a source, and beside it what the bars need; the whole of a child process."""
    from scripts.support import gguf_source, sources

    if kind.startswith("gguf "):
        gguf_source.write_gguf_source(path, kind.removeprefix("gguf "), nbytes)
        return
    sources.write_source(path, kind, nbytes)
    if kind == "bf16":
        sources.write_adapter(path.with_name("adapter"))
    print(sources.largest_layer())


class Bench:
    """Runs cases in a folder.

    Args:
        folder: on a disk with room for the largest source twice.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.source, self.out = folder / "source", folder / "out"
        self.baselines = {
            peer: measured(["-c", imports])[0].peak_mb
            for peer, imports in ((False, _OURS), (True, _PEER))
        }
        self.layer_mb = 0.0
        self.copy_rate = 1.0

    def make_source(self, kind: str, nbytes: int) -> None:
        """Write a source in place of the one before, and time a plain copy of its first bytes."""
        _remove(self.source, self.folder / "adapter")
        self.source = self.folder / ("source.gguf" if kind.startswith("gguf ") else "source")
        module = "scripts.benchmarks.convert"
        _, text = measured(["-m", module, "--make", kind, str(nbytes), str(self.source)])
        self.layer_mb = float(text or 0) * 4 / 1e6
        os.sync()  # what is still to be written would slow the first run alone
        self.copy_rate = self._copy_rate()

    def _copy_rate(self) -> float:
        """Bytes per second of a copy of the source, flushed to the disk."""
        done, start, copy = 0, time.perf_counter(), self.folder / "copy"
        with copy.open("wb", buffering=0) as target:
            for path in _files(self.source):
                with path.open("rb", buffering=0) as source:
                    while done < _COPIED and (data := source.read(_PIECE)):
                        done += target.write(data)
            os.fsync(target.fileno())
        copy.unlink()
        return done / (time.perf_counter() - start)

    def run(self, case: Case) -> Row:
        """Convert the source."""
        disk: float | None = None
        if case.stream:
            with _hub(self.source) as address, _watched(self.folder) as most:
                environment = {"HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"}
                environment["HF_HOME"] = str(self.folder / "hf")
                usage, _ = measured(self._command(case, "org/model"), environment)
            disk = most[0] / 1e6
        else:
            usage, _ = measured(self._command(case, str(self.source)))
        result = _nbytes(self.out)
        bar = None if case.peer else LIMIT_MB + (2 * self.layer_mb if case.verify else 0)
        shards = 2 * max(path.stat().st_size for path in _files(self.source)) / 1e6
        row = Row(
            case.title,
            source_gb=_nbytes(self.source) / 1e9,
            result_gb=result / 1e9,
            peak_mb=usage.peak_mb,
            above_mb=usage.peak_mb - self.baselines[case.peer],
            bar_mb=bar,
            seconds=usage.seconds,
            cpu=usage.cpu,
            copies=usage.seconds * self.copy_rate / _nbytes(self.source),
            disk_mb=disk,
            disk_bar_mb=None if disk is None else result / 1e6 + shards + _SLACK_MB,
        )
        _remove(self.out, self.folder / "hf")
        return row

    def _command(self, case: Case, source: str) -> list[str]:
        paths = {"ADAPTER": str(self.folder / "adapter"), "OUT": str(self.out)}
        options = [paths.get(option, option) for option in case.options]
        if "--gguf" not in options:
            options += ["--mlx-path", str(self.out)]
        if case.peer:
            return ["-m", "mlx_lm", "convert", "--hf-path", source, *options]
        if not case.verify:
            options.append("--no-verify")
        return ["-m", "qwen35_mlx.convert", "--hf-path", source, *options]


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _files(path: Path) -> list[Path]:
    """The files of weights of a folder, or a file."""
    return [path] if path.is_file() else sorted(path.glob("*.safetensors"))


def _nbytes(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


@contextmanager
def _hub(folder: Path) -> Iterator[str]:
    """The address of a Hub that serves a folder."""
    command = [sys.executable, "-m", "scripts.support.local_hub", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextmanager
def _watched(folder: Path) -> Iterator[list[int]]:
    """The most bytes of hidden files, and of the result, that the folder has at one time."""
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            found = 0
            for path in folder.glob(".*/**/*"):
                try:
                    found += path.stat().st_blocks * 512 if path.is_file() else 0
                except FileNotFoundError:
                    continue
            most[0] = max(most[0], found)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def growth(rows: Sequence[Row]) -> dict[str, float]:
    """Peak memory of each case at the largest size, in that at the smallest."""
    found: dict[str, float] = {}
    for case in {row.case: None for row in rows}:
        own = sorted((row for row in rows if row.case == case), key=lambda row: row.source_gb)
        if len(own) > 1:
            found[case] = own[-1].peak_mb / own[0].peak_mb
    return found


def print_row(row: Row) -> None:
    bar = "-" if row.bar_mb is None else f"{row.bar_mb:.0f}"
    disk = "" if row.disk_mb is None else f"  disk {row.disk_mb:.0f} of {row.disk_bar_mb:.0f} MB"
    print(
        f"{row.case:40} {row.source_gb:6.2f} {row.result_gb:6.2f} {row.above_mb:8.0f} {bar:>6} "
        f"{row.seconds:7.1f} {row.cpu:7.1f} {row.source_gb / row.seconds:6.3f} {row.copies:7.2f}"
        f"{disk}{'' if row.ok else '  MISSED'}",
        flush=True,
    )


def selected(patterns: Sequence[str]) -> list[Case]:
    return [case for case in CASES if any(pattern in case.title for pattern in patterns)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tmp", help="folder on a disk with three times the largest size free")
    parser.add_argument(
        "--cases", nargs="+", default=[""], metavar="TEXT", help="those whose names contain one"
    )
    parser.add_argument("--sizes", nargs="+", type=float, default=[2, 8], help="of sources, in GB")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        kind, nbytes, path = options.make
        write(kind, int(nbytes), Path(path))
        return 0
    cases = selected(options.cases)
    if options.list or not cases:
        print("\n".join(case.title for case in cases or CASES))
        return 0 if cases else 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=options.tmp) as folder:
        bench = Bench(Path(folder))
        baseline, peer = bench.baselines.values()
        print(f"interpreter {baseline:.0f} MB, with mlx-lm {peer:.0f} MB\n")
        print(
            f"{'case':40} {'in GB':>6} {'out GB':>6} {'above MB':>8} {'bar':>6} {'s':>7} "
            f"{'CPU s':>7} {'GB/s':>6} {'copies':>7}"
        )
        for kind in {case.source: None for case in cases}:
            for size in sorted(options.sizes):
                smallest = size == min(options.sizes)
                own = [c for c in cases if c.source == kind and (smallest or not c.slow)]
                if own:
                    bench.make_source(kind, int(size * 1e9))
                for case in own:
                    rows.append(bench.run(case))
                    print_row(rows[-1])
    peers = {row.case for row in rows if row.bar_mb is None}
    grown = growth(rows)
    outgrown = [case for case, ratio in grown.items() if ratio > GROWTH and case not in peers]
    missed = [row.case for row in rows if not row.ok] + outgrown
    print()
    for case, ratio in grown.items():
        mark = "  MISSED" if case in outgrown else ""
        print(f"{case:40} memory from the smallest to the largest source: x{ratio:.2f}{mark}")
    result = {"benchmark": "convert", "baseline_mb": baseline, "bar_mb": LIMIT_MB}
    result |= {"cases": [asdict(row) for row in rows], "growth": grown, "missed": missed}
    print("\n" + json.dumps(result))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
