"""Control connections between processes, without MLX."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.distributed import commands, link
from qwen35_mlx.distributed.commands import Leader
from qwen35_mlx.distributed.frames import Connection, EndedError
from qwen35_mlx.distributed.hosts import read_hosts, ring_of
from qwen35_mlx.distributed.link import Followers, Listener, ProcessLostError
from qwen35_mlx.distributed.place import Place
from qwen35_mlx.errors import Qwen35Error


class Pair:
    """A leader and its one follower, in this process."""

    def __init__(self) -> None:
        listener = Listener("127.0.0.1")
        self.ended = threading.Event()
        self.lost: list[str] = []
        self.notices: list[str] = []
        self.was_lost = threading.Event()
        self.leader = Leader.connect(
            "127.0.0.1", listener.port, listener.token, {"rank": 1, "host": "b"}, self.ended.set
        )
        ((self.connection, self.about),) = listener.accept(2)
        self.followers = Followers(
            [self.connection], ["rank 1 (b)"], self.notices.append, self._note_loss
        )

    def _note_loss(self, line: str) -> None:
        self.lost.append(line)
        self.was_lost.set()

    def answer(self, **fields: Any) -> dict[str, Any]:
        """Reply to the next command."""
        command = self.leader.next_command()
        self.leader.reply(command, **fields)
        return command


@pytest.fixture
def pair() -> Pair:
    return Pair()


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def in_thread(work: Callable[[], object]) -> None:
    threading.Thread(target=work, daemon=True).start()


def test_what_is_dropped_is_announced_before_the_next_command(pair: Pair):
    pair.followers.drop(7)
    pair.followers.send("pass", cache=1)
    assert pair.leader.next_command() == {"call": "drop", "objects": [7]}
    assert pair.leader.next_command() == {"call": "pass", "cache": 1}


def test_an_error_of_a_follower_names_it(pair: Pair):
    in_thread(lambda: pair.answer(error="no such folder"))
    with pytest.raises(Qwen35Error, match=r"rank 1 \(b\): no such folder"):
        pair.followers.ask("open")
    in_thread(lambda: pair.answer(weights="abc"))
    assert pair.followers.ask("open")[0]["weights"] == "abc"


def test_a_closed_connection_is_a_loss_in_a_wait_and_afterwards(pair: Pair):
    in_thread(lambda: (pair.leader.next_command(), pair.leader._connection.close()))
    with pytest.raises(ProcessLostError, match=r"rank 1 \(b\) has ended"):
        pair.followers.ask("wait")
    assert pair.was_lost.wait(5)
    assert pair.lost == [pair.followers.lost]
    with pytest.raises(ProcessLostError):
        pair.followers.send("pass")


def test_silence_is_a_loss(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link, "LOST_SECONDS", 0.2)
    monkeypatch.setattr(commands, "BEAT_SECONDS", 60)
    pair = Pair()
    assert pair.was_lost.wait(5)
    assert "does not answer" in pair.lost[0]
    assert pair.ended.wait(5)  # and the other one ends, should it go on


@pytest.fixture
def stalls(monkeypatch: pytest.MonkeyPatch) -> Pair:
    """A pair where a pass may take half a second."""
    for name, seconds in (("BEAT_SECONDS", 0.05), ("SETTLE_SECONDS", 0.1)):
        monkeypatch.setattr(commands, name, seconds)
    monkeypatch.setattr(link, "STALLED_SECONDS", 0.5)
    return Pair()


def next_after(pair: Pair, seconds: float) -> None:
    """Have the follower compute the last command for so long, and take the next."""
    time.sleep(seconds)
    pair.followers.send("pass")
    pair.leader.next_command()


def test_a_pass_that_does_not_end_is_reported_once_and_may_be_given_up(stalls: Pair):
    next_after(stalls, 0)
    stalls.followers.give_up_stalled()
    assert not stalls.followers.lost
    wait_until(lambda: stalls.notices)
    time.sleep(0.3)
    (line,) = stalls.notices
    assert line.startswith("rank 1 (b) has made no progress for ")
    stalls.followers.give_up_stalled()
    assert stalls.was_lost.wait(5)
    assert "rank 1 (b) has made no progress" in stalls.lost[0]
    assert "start all processes again" in stalls.lost[0]


def test_a_pass_that_ends_late_is_no_loss(stalls: Pair):
    next_after(stalls, 0)
    wait_until(lambda: stalls.notices)
    next_after(stalls, 0)
    wait_until(lambda: not stalls.followers.stalled)
    stalls.followers.give_up_stalled()
    assert not stalls.followers.lost


def test_long_prompts_loads_and_pauses_are_not_taken_for_a_hang(stalls: Pair):
    """Of one pass after the other, of a command that is none, and without one."""
    for _ in range(4):
        next_after(stalls, 0.3)
    stalls.followers.send("load")
    stalls.leader.next_command()
    time.sleep(0.8)
    next_after(stalls, 0)
    settled = threading.Event()
    in_thread(lambda: stalls.leader.next_command(settled.set))
    assert settled.wait(5)
    time.sleep(0.8)
    assert stalls.notices == []


def test_a_follower_ends_with_its_leader(pair: Pair):
    pair.followers.close()
    assert pair.leader.next_command() == {"call": "end"}
    assert pair.ended.wait(5)
    assert pair.lost == []
    with pytest.raises(ProcessLostError):
        pair.followers.ask("wait")


def test_a_stranger_is_turned_away(monkeypatch: pytest.MonkeyPatch):
    """Without the token, with too much, and with what is no message."""
    monkeypatch.setattr(link, "CONNECT_SECONDS", 1.0)
    listener = Listener("127.0.0.1")
    for data in (b'\0\0\0\x12{"token": "guess"}', b"\xff\xff\xff\xff", b"\0\0\0\x01[", b""):
        stranger = socket.create_connection(("127.0.0.1", listener.port))
        stranger.sendall(data)
        stranger.shutdown(socket.SHUT_WR)
    with pytest.raises(Qwen35Error, match="process 1 does not connect"):
        listener.accept(2)


def test_a_message_may_come_in_pieces_and_is_bounded():
    one, other = socket.socketpair(socket.AF_UNIX)
    for end in (one, other):
        end.settimeout(5)
    reader = Connection.__new__(Connection)
    reader._socket = other
    content = b'{"call":"pass"}'
    data = len(content).to_bytes(4, "big") + content
    for i in range(len(data)):
        one.send(data[i : i + 1])
    assert reader.receive() == {"call": "pass"}
    one.send(data)
    with pytest.raises(EndedError):
        reader.receive(len(content) - 1)


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1, 2]", '[{"ssh": "a", "ips": ["x"]}, {"ssh": "b", "ips": ["10.0.0.1"]}]',
     '[{"ssh": "-oProxyCommand=x", "ips": ["10.0.0.1"]}, {"ssh": "b", "ips": ["10.0.0.2"]}]',
     '[{"ssh": "a", "ips": ["10.0.0.1"]}]',
     '[{"ssh": "a", "ips": ["10.0.0.1"]}, {"ssh": "a", "ips": ["10.0.0.2"]}]',
     '[{"ssh": "a", "ips": ["10.0.0.1"]}, {"ssh": "b", "ips": ["10.0.0.1"]}]'],
)  # fmt: skip
def test_a_wrong_list_of_hosts_is_one_line(tmp_path: Path, content: str):
    file = tmp_path / "hosts.json"
    file.write_text(content)
    with pytest.raises(Qwen35Error, match=r"hosts\.json"):
        read_hosts(file)


def test_hosts_in_both_forms_of_mlx(tmp_path: Path):
    file = tmp_path / "hosts.json"
    entries = '[{"ssh": "a", "ips": ["10.0.0.1", "10.0.1.1"]}, {"ssh": "b", "ips": ["fd00::2"]}]'
    for content in (entries, f'{{"backend": "ring", "hosts": {entries}}}'):
        file.write_text(content)
        hosts = read_hosts(file)
        assert [host.ssh for host in hosts] == ["a", "b"]
    ring = ring_of(hosts)
    assert ring.count("10.0.") == 2
    assert '"[fd00::2]:' in ring


def test_the_place_of_a_process(tmp_path: Path):
    ring = tmp_path / "ring.json"
    ring.write_text('[["[fd00::1]:5000"], ["10.0.0.2:5001"]]')
    assert Place.of_environment({}) is None
    found = Place.of_environment({"MLX_RANK": "1", "MLX_HOSTFILE": str(ring)})
    assert found == Place(1, "ring", "fd00::1")
    jaccl = {"MLX_RANK": "0", "MLX_JACCL_COORDINATOR": "10.0.0.1:32323"}
    assert Place.of_environment(jaccl) == Place(0, "jaccl", "10.0.0.1")
    nccl = {"MLX_RANK": "0", "NCCL_HOST_IP": "10.0.0.1"}
    assert Place.of_environment(nccl) == Place(0, "nccl", "10.0.0.1")
    with pytest.raises(Qwen35Error, match=r"mlx\.launch"):
        Place.of_environment({"MLX_RANK": "0"})
