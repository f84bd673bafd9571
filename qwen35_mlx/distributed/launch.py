"""Starts the other processes of a host file, and ends them. Never imports mlx."""

import os
import queue
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from qwen35_mlx.child_process import child_environment, find_program, python_command
from qwen35_mlx.distributed.hosts import Host, read_hosts, ring_of
from qwen35_mlx.distributed.place import HOSTFILE, RANK, Place
from qwen35_mlx.distributed.reachable import RingCheck
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.user_paths import user_path

# What a process says once it is ready, and before what it cannot start for.
READY, FAILED = "qwen35-mlx: ready", "qwen35-mlx: error: "
START_SECONDS = 60.0
# How long a process may take to end by itself.
END_SECONDS = 3.0
# Nobody is asked for a password, and one that is off is noticed.
_SSH_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
MODULE = "qwen35_mlx.distributed"
# What a process says last, for an error line.
_LAST_LINES = 20
# What to do about what ssh or the shell there says; {host} is the name for ssh.
_INSTALL = f"install qwen35-mlx there for {sys.executable}"
_ADVICE = {
    "permission denied": "let ssh log in without a password, with ssh-copy-id {host}",
    "host key verification failed": "run ssh {host} once, and accept its key",
    "could not resolve hostname": "correct its name in the host file",
    "no route to": "see whether it is on, and in the same network",
    "timed out": "see whether it is on, and in the same network",
    "connection refused": "switch Remote Login on there",
    "no module named": _INSTALL,
    "no such file": _INSTALL,
    "not found": _INSTALL,
}


class Launched:
    """The processes that follow this one, started by `launch`.

    Attributes:
        place: of this process.
        environment: variables that MLX reads in this process.
    """

    def __init__(self, hosts: Sequence[Host]):
        self._folder = tempfile.TemporaryDirectory(prefix="qwen35-mlx-")
        ring = ring_of(hosts)
        file = Path(self._folder.name) / "hosts.json"
        file.write_text(ring)
        self.environment: Mapping[str, str] = {HOSTFILE: str(file), RANK: "0"}
        self.place = Place(0, "ring", hosts[0].addresses[0])
        self._hosts = hosts
        self._ready: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()
        self._outputs: list[_Output] = []
        self._processes: list[subprocess.Popen[str]] = []
        try:
            self._check = RingCheck(ring, 0)
            for rank, host in enumerate(hosts[1:], 1):
                self._processes.append(_start(host, rank, ring))
                self._outputs.append(_Output(self._processes[-1], rank, self._ready))
        except Qwen35Error:
            self.close()
            raise

    def wait(self) -> None:
        """Wait until all reach each other, and let them join.

        Raises:
            Qwen35Error: one does not start; all are ended.
        """
        try:
            self._wait()
            with self._check as check:
                check.reach_next()
        except Qwen35Error:
            self.close()
            raise
        for process in self._processes:
            assert process.stdin is not None
            with suppress(OSError):  # what has ended is found out later
                process.stdin.write("\n")
                process.stdin.flush()

    def _wait(self) -> None:
        missing = set(range(1, len(self._hosts)))
        deadline = time.monotonic() + START_SECONDS
        while missing:
            try:
                rank, ready = self._ready.get(timeout=max(deadline - time.monotonic(), 0.1))
            except queue.Empty:
                rank, ready = min(missing), False
            if not ready:
                host = self._hosts[rank].ssh
                last = self._outputs[rank - 1].last
                raise Qwen35Error(f"rank {rank} ({host}) {_reason(host, last)}")
            missing.discard(rank)

    def close(self) -> None:
        """End those that have not ended by themselves."""
        deadline = time.monotonic() + END_SECONDS
        for process in self._processes:
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.1))
            if process.poll() is None:
                process.kill()
                process.wait()
        self._folder.cleanup()


class _Output:
    """What a process writes, read by a thread of its own: that it is ready, and its latest lines.

    Args:
        ready: gets the rank and True once it is ready, and False once it has ended.
    """

    def __init__(
        self,
        process: subprocess.Popen[str],
        rank: int,
        ready: "queue.SimpleQueue[tuple[int, bool]]",
    ):
        self._rank, self._ready = rank, ready
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        threading.Thread(target=self._read, args=(process,), name="output", daemon=True).start()

    @property
    def last(self) -> str:
        """The last line; "" if there is none."""
        return next((line for line in reversed(self._lines) if line), "")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == READY:
                self._ready.put((self._rank, True))
            else:
                self._lines.append(" ".join(line.split()))
        self._ready.put((self._rank, False))


def _reason(host: str, last: str) -> str:
    """Why a process does not start, from the last line that it has written."""
    if last.startswith(FAILED):
        return f"does not start: {last.removeprefix(FAILED)}"
    found = next((advice for words, advice in _ADVICE.items() if words in last.lower()), _INSTALL)
    return f"does not start ({last or 'it says nothing'}): {found.format(host=host)}"


def launch(file: Path) -> Launched:
    """Start the other processes of a host file, and describe this one to MLX.

    Raises:
        Qwen35Error: the file is wrong, or a process does not start.
    """
    launched = Launched(read_hosts(file))
    launched.wait()
    os.environ.update(launched.environment)
    return launched


@contextmanager
def several(hosts: str | None, split: str | None, option: str) -> Iterator[Place | None]:
    """The place of this process, the first of those that run the model; None for one by itself.

    Args:
        hosts: the host file of the command line, whose processes run until the end of the block;
            None for those that `mlx.launch` has started, if it has.
        split: "tensor" or "pipeline"; None for the default.
        option: the command's name for `split`.

    Raises:
        Qwen35Error: the options do not fit, or a process does not start.
    """
    place = Place.of_environment()
    if hosts is not None and place is not None:
        raise Qwen35Error("mlx.launch has started all processes: leave out --hosts")
    if split is not None and hosts is None and place is None:
        raise Qwen35Error(f"{option} {split} is for several machines: give --hosts, too")
    if hosts is None:
        yield place and replace(place, pipeline=split == "pipeline")
        return
    with closing(launch(user_path(hosts))) as launched:
        yield replace(launched.place, pipeline=split == "pipeline")


def _start(host: Host, rank: int, ring: str) -> subprocess.Popen[str]:
    if host.is_here:
        command = python_command(MODULE, str(rank), ring)
    else:
        remote = [sys.executable, "-I", "-m", MODULE, str(rank), ring]
        ssh = find_program("ssh")
        if ssh is None:
            raise Qwen35Error(f"ssh is not on PATH: it starts the process on {host.ssh}")
        command = [ssh, *_SSH_OPTIONS, "--", host.ssh, shlex.join(remote)]
    return subprocess.Popen(
        command,
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl+C in the terminal is for the first process
    )
