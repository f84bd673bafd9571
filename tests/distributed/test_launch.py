"""Processes that do not start, or do not fit: one line that names the thing and the next step."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen35_mlx.distributed import launch
from qwen35_mlx.distributed.hosts import read_hosts
from qwen35_mlx.distributed.launch import READY, Launched
from qwen35_mlx.distributed.reachable import RingCheck
from qwen35_mlx.errors import Qwen35Error
from scripts.support.ranks import free_ports
from tests.ranks import ROOT, run_ranks

FakeSsh = Callable[[str], Path]


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSsh:
    """Puts a shell script named ssh first on PATH, and returns a host file with mac-2 in it."""

    def make(script: str) -> Path:
        (tmp_path / "ssh").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return two_hosts(tmp_path, "mac-2")

    return make


def two_hosts(folder: Path, ssh: str, address: str = "127.0.0.1") -> Path:
    file = folder / "hosts.json"
    hosts = [{"ssh": "mac-1", "ips": ["127.0.0.1"]}, {"ssh": ssh, "ips": [address]}]
    file.write_text(json.dumps(hosts))
    return file


def error_of(hosts: Path) -> str:
    """Why processes do not start; none is left running."""
    launched = Launched(read_hosts(hosts))
    with pytest.raises(Qwen35Error) as caught:
        launched.wait()
    assert all(process.poll() is not None for process in launched._processes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("ssh: Could not resolve hostname mac-2: nodename nor servname provided", "correct its na"),
        ("ada@mac-2: Permission denied (publickey,password).", "with ssh-copy-id mac-2"),
        ("Host key verification failed.", "run ssh mac-2 once, and accept its key"),
        ("ssh: connect to host mac-2 port 22: Connection refused", "switch Remote Login on there"),
        ("ssh: connect to host mac-2 port 22: Operation timed out", "see whether it is on"),
        ("ssh: connect to host mac-2 port 22: No route to host", "see whether it is on"),
        ("zsh: no such file or directory: /opt/python", "install qwen35-mlx there for "),
        ("/opt/python: No module named qwen35_mlx", "install qwen35-mlx there for "),
        ("", "(it says nothing): install qwen35-mlx there for "),
    ],
)  # fmt: skip
def test_what_ssh_says_becomes_a_line_with_advice(fake_ssh: FakeSsh, said: str, advice: str):
    line = error_of(fake_ssh(f'echo "{said}" >&2; exit 255'))
    assert line.startswith(f"rank 1 (mac-2) does not start ({said or 'it says nothing'}): ")
    assert advice in line


def test_ssh_may_not_ask(fake_ssh: FakeSsh, tmp_path: Path):
    """For a password, or whether a key is right; and one that is off is noticed."""
    error_of(fake_ssh(f'echo "$@" > {tmp_path}/args; exit 255'))
    words = (tmp_path / "args").read_text()
    assert "-o BatchMode=yes -o ConnectTimeout=10 -- mac-2 " in words


def test_a_silent_host_is_given_up(fake_ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "START_SECONDS", 0.3)
    monkeypatch.setattr(launch, "END_SECONDS", 0.3)
    assert "rank 1 (mac-2) does not start (it says nothing)" in error_of(fake_ssh("exec sleep 60"))


def test_one_that_fails_is_named_before_others_that_wait_for_it(
    fake_ssh: FakeSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(launch, "END_SECONDS", 0.3)
    file = fake_ssh('case "$*" in *mac-3*) echo "no module named qwen35_mlx"; exit 1;; esac; '
                    "exec sleep 60")  # fmt: skip
    hosts = json.loads(file.read_text())
    file.write_text(json.dumps([*hosts, {"ssh": "mac-3", "ips": ["127.0.0.1"]}]))
    assert error_of(file).startswith("rank 2 (mac-3) does not start (no module")


def test_an_address_of_another_machine_is_named(tmp_path: Path):
    line = error_of(two_hosts(tmp_path, "127.0.0.1", "192.0.2.1"))
    assert line.startswith("rank 1 (127.0.0.1) does not start: 192.0.2.1 is not an address of ")
    assert line.endswith(": correct the host file")
    hosts = read_hosts(two_hosts(tmp_path, "127.0.0.1"))
    with pytest.raises(Qwen35Error, match=r"192\.0\.2\.1 is not an address of .*correct the host"):
        Launched([type(hosts[0])("mac-1", ("192.0.2.1",)), hosts[1]])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_port_in_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int):
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = [*free_ports(1), other.getsockname()[1]]
        ring = json.dumps([[f"127.0.0.1:{port}"] for port in (ports if rank else ports[::-1])])
        monkeypatch.setattr(launch, "ring_of", lambda _: ring)
        hosts = two_hosts(tmp_path, "127.0.0.1")
        with pytest.raises(Qwen35Error, match=f"port {ports[1]} of 127.0.0.1 is in use: start ag"):
            Launched(read_hosts(hosts)).wait()


def test_what_is_not_reached_is_named():
    """A port where nobody listens stands for a firewall."""
    ring = json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)])
    with (
        RingCheck(ring, 0) as check,
        pytest.raises(Qwen35Error, match=r"does not reach 127\.0\.0\.1 \(.*cable or a firewall"),
    ):
        check.reach_next(0.3)


def test_a_process_that_is_ready_ends_with_the_first_one(tmp_path: Path):
    ports = free_ports(2)
    ring = json.dumps([[f"127.0.0.1:{port}"] for port in ports])
    with RingCheck(ring, 0):
        process = subprocess.Popen(
            [sys.executable, "-m", launch.MODULE, "1", ring],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip() == READY
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_command_ends_with_the_line(fake_ssh: FakeSsh, tmp_path: Path):
    file = fake_ssh('echo "Host key verification failed." >&2; exit 255')
    path = os.pathsep.join([str(ROOT), str(ROOT / "app")])
    found = subprocess.run(
        [sys.executable, "-m", "qwen35_chat.main", "-p", "Hello", "--hosts", str(file)],
        env={**os.environ, "PYTHONPATH": path, "QWEN35_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("error: rank 1 (mac-2) does not start (Host key verification")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("version", "has qwen35-mlx 0.0.0, and rank 0 has "),
        ("missing", "no-model"),
        ("other", "copy its files to all machines"),
    ],
)
def test_a_process_that_does_not_fit_is_named(tmp_path: Path, what: str, line: str):
    """And both end."""
    run_ranks(2, tmp_path, "tests.distributed.start_child", str(tmp_path), what)
    found = (tmp_path / "line.txt").read_text()
    assert found.startswith("rank 1 (")
    assert line in found
