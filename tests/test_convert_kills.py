"""A conversion that fails or is killed at any system call leaves a complete folder or none.

Resumed, it gives the bytes that it would have given.

By default few conversions are killed. For a kill at every system call on files, some 100:

    QWEN35_KILLS=1000 scripts/test tests/test_convert_kills.py
"""

import errno
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.checkpoint import safetensors_writer
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.cases import golden, listing, write
from tests.checkpoint.cases import unmeasured as convert

KILLS = int(os.environ.get("QWEN35_KILLS", "3"))
# System calls that change files, or wait until they are on disk.
CALLS = "openat,mkdir,mkdirat,write,fsync,rename,renameat,renameat2,close,rmdir,unlink,unlinkat"
CALL = re.compile(r"(\w+)\(")
OUT = "new/deep/out"

# Waits until it is traced.
WORKER = """
import sys
from qwen35_mlx.conversion.converter import convert
print("ready", flush=True)
sys.stdin.readline()
convert(*sys.argv[1:], quantize=True, verify=False)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "source", *golden())


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def fail_call(patch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Fail the call of this number, from 0 on, of those that read or change folders and files.

    Returns:
        the name of that call, once it was made.
    """
    calls = itertools.count()
    failed: list[str] = []

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == number:
                failed.append(name)
                raise OSError(errno.EIO, "Input/output error")
            return call(*args, **kwargs)

        return counting

    for owner, name in (
        *((Path, name) for name in ("mkdir", "open", "rename", "iterdir")),
        *((os, name) for name in ("open", "fsync")),
        (safetensors_writer, "write_all"),
        (shutil, "disk_usage"),
    ):
        patch.setattr(owner, name, counted(name, getattr(owner, name)))
    return failed


def test_a_call_that_fails_leaves_a_complete_folder_or_none(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, tmp_path / "expected")
    expected = files_of(tmp_path / "expected")
    outcomes: Counter[str] = Counter()
    while not outcomes["done"]:
        with monkeypatch.context() as patch:
            failed = fail_call(patch, outcomes.total())
            warnings, problem = (), ""
            try:
                warnings = convert(source, tmp_path / OUT).warnings
            except Qwen35Error as error:
                problem = str(error)
        if problem:
            assert "Input/output error" in problem, failed
            assert listing(tmp_path) == {"source", "expected"}, failed
            outcomes["failed"] += 1
            continue
        assert files_of(tmp_path / OUT) == expected, failed
        assert listing((tmp_path / OUT).parent) == {"out"}, failed
        unconfirmed = any("is complete, but the disk" in line for line in warnings)
        assert unconfirmed == bool(failed)
        shutil.rmtree(tmp_path / "new")
        outcomes["unconfirmed" if unconfirmed else "done"] += 1
    assert outcomes["done"] == 1
    # Opening and syncing the parents of `out`, `deep` and `new`.
    assert outcomes["unconfirmed"] == 6
    assert outcomes["failed"] > 50
    print(outcomes)


def traced(source: Path, out: Path, *inject: str) -> tuple[int, list[str]]:
    """A conversion under strace: its exit code, and its system calls by name."""
    log = source.parent / "strace.txt"
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(source), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout
    assert worker.stdout.readline() == "ready\n"
    tracer = subprocess.Popen(
        ["strace", "-p", str(worker.pid), "-o", str(log), "-e", f"trace={CALLS}", *inject],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr
    attached = tracer.stderr.readline()
    worker.communicate("go on\n", timeout=120)
    tracer.communicate(timeout=60)
    if "attached" not in attached:
        pytest.skip(f"strace may not attach here: {attached}")
    names = [match[1] for line in log.read_text().splitlines() if (match := CALL.match(line))]
    log.unlink()
    return worker.returncode, names


def test_a_kill_at_any_system_call_leaves_a_complete_folder_or_none(
    source: Path, tmp_path: Path
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    convert(source, tmp_path / "expected", quantize=True)
    expected = files_of(tmp_path / "expected")
    shutil.rmtree(tmp_path / "expected")
    code, calls = traced(source, tmp_path / "out")
    assert code == 0
    shutil.rmtree(tmp_path / "out")
    # strace counts the calls of each name.
    seen: Counter[str] = Counter()
    points = [(name, seen[name]) for name in calls if seen.update([name]) is None]
    complete = 0
    for name, number in random.Random(KILLS).sample(points, min(KILLS, len(points))):
        inject = f"inject={name}:signal=KILL:when={number}"
        code, _ = traced(source, tmp_path / "out", "-e", inject)
        assert code == -signal.SIGKILL, inject
        left = listing(tmp_path) - {"source"}
        if "out" in left:
            assert left == {"out"}, inject
            assert files_of(tmp_path / "out") == expected, inject
            complete += 1
        else:
            assert all(re.fullmatch(r"\.out\.partial-\d+", name) for name in left), inject
            convert(source, tmp_path / "out", quantize=True, resume=True)
            assert listing(tmp_path) == {"source", "out"}, inject
            assert files_of(tmp_path / "out") == expected, inject
        open_checkpoint(tmp_path / "out").verify()
        shutil.rmtree(tmp_path / "out")
    print(f"{min(KILLS, len(points))} kills at {len(points)} system calls, {complete} complete")
