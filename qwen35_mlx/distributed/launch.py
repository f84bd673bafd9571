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
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.user_paths import user_path

READY = "qwen35-mlx: ready"
START_SECONDS = 60.0
# How long a process may take to end by itself.
END_SECONDS = 3.0
MODULE = "qwen35_mlx.distributed"
# What a process says last, for an error line.
_LAST_LINES = 20


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
        self._names = [f"rank {rank} ({host.ssh})" for rank, host in enumerate(hosts)][1:]
        self._outputs = [_Output() for _ in hosts[1:]]
        self._processes: list[subprocess.Popen[str]] = []
        for rank, host in enumerate(hosts[1:], 1):
            self._processes.append(_start(host, rank, ring))
            self._outputs[rank - 1].read(self._processes[-1])

    def wait(self) -> None:
        """Wait until all are ready to join.

        Raises:
            Qwen35Error: one does not start; all are ended.
        """
        deadline = time.monotonic() + START_SECONDS
        for name, output in zip(self._names, self._outputs, strict=True):
            if not output.ready(deadline):
                reason = output.last or "it says nothing"
                self.close()
                raise Qwen35Error(
                    f"{name} does not start ({reason}): install qwen35-mlx there for "
                    f"{sys.executable}, and let ssh log in without a password"
                )

    def close(self) -> None:
        """End those that have not ended by themselves."""
        deadline = time.monotonic() + END_SECONDS
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.1))
            if process.poll() is None:
                process.kill()
                process.wait()
        self._folder.cleanup()


class _Output:
    """What a process writes: whether it is ready, then its latest lines."""

    def __init__(self) -> None:
        self._ready: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)

    @property
    def last(self) -> str:
        """The last line; "" if there is none."""
        return next((line for line in reversed(self._lines) if line), "")

    def ready(self, deadline: float) -> bool:
        """Wait until the process is ready; False if it has ended or takes too long."""
        try:
            return self._ready.get(timeout=max(deadline - time.monotonic(), 0.1))
        except queue.Empty:
            return False

    def read(self, process: subprocess.Popen[str]) -> None:
        """Read until the process ends, in a thread of its own."""
        threading.Thread(target=self._read, args=(process,), name="output", daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == READY:
                self._ready.put(True)
            else:
                self._lines.append(" ".join(line.split()))
        self._ready.put(False)


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
        command = [ssh, "-o", "BatchMode=yes", "--", host.ssh, shlex.join(remote)]
    return subprocess.Popen(
        command,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl+C in the terminal is for the first process
    )
