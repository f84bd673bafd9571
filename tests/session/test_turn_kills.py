"""A turn killed at any system call loses nothing that it has shown.

By default few turns are killed. For a kill at every system call on files, some hundreds:

    QWEN35_KILLS=1000 scripts/test tests/session/test_turn_kills.py -s
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.library.conversation import Message
from qwen35_mlx.library.library import Library
from qwen35_mlx.session import __main__ as session_command
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.model import Model
from tests.session.durable_child import done_of

KILLS = int(os.environ.get("QWEN35_KILLS", "2"))
# System calls that change files, or wait until they are on disk. Not every one is on every machine.
CALLS = (
    "open,openat,mkdir,mkdirat,write,writev,pwrite64,pwritev,fsync,fdatasync,ftruncate,fallocate,"
    "close,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,flock,chmod,fchmod,fchmodat"
)
CALL = re.compile(r"(\w+)\(")
OPTIONS: dict[str, Any] = {"temperature": 0.0, "presence_penalty": 0.5}
QUESTION = "What is the second question about?"

# Waits until one of its threads is traced, by its name.
WORKER = f"""
import json, os, sys, threading
from pathlib import Path
from qwen35_mlx.library.library import Library
from qwen35_mlx.session import recorder
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Answer, Done, Thinking
from qwen35_mlx.session.load import load

def report(**values):
    os.write(1, json.dumps(values).encode() + b"\\n")

recorder.SAVE_SECONDS = 0
with Library(Path(sys.argv[2])) as library:
    chat = Chat(load(sys.argv[1]), library=library, conversation=1, **{OPTIONS!r})
    report(threads={{t.name: t.native_id for t in threading.enumerate()}})
    sys.stdin.readline()
    text = ""
    for event in chat.send({QUESTION!r}, max_tokens=6):
        if isinstance(event, Answer | Thinking):
            text += event.text
        report(text=text, done=isinstance(event, Done))
    chat.close()
"""


@dataclass(frozen=True, slots=True)
class Run:
    """A turn under strace: its exit code, what it reported, and its system calls by name."""

    code: int
    reports: Sequence[dict[str, Any]]
    calls: Sequence[str]


def run(model: Path, home: Path, thread: str, *inject: str) -> Run:
    log = home.parent / "strace.txt"
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(model), str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout
    threads = json.loads(worker.stdout.readline())["threads"]
    # strace counts the calls of each thread by themselves, so one thread is traced at a time.
    tracer = subprocess.Popen(
        ["strace", "-p", str(threads[thread]), "-o", log, "-e", f"trace={CALLS}", *inject],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr
    attached = tracer.stderr.readline()
    output, _ = worker.communicate("go on\n", timeout=120)
    tracer.communicate(timeout=60)
    if "attached" not in attached:
        pytest.skip(f"strace may not attach here: {attached}")
    names = [match[1] for line in log.read_text().splitlines() if (match := CALL.match(line))]
    log.unlink()
    lines = [line for line in output.splitlines(keepends=True) if line.endswith("\n")]
    return Run(worker.returncode, [json.loads(line) for line in lines], names)


@pytest.fixture
def before(model: Model, tmp_path: Path) -> Path:
    """A library with a conversation of one turn."""
    home = tmp_path / "before"
    with Library(home) as library:
        chat = Chat(model, library=library, **OPTIONS)
        done_of(chat.send("The first question", max_tokens=6))
        chat.close()
    return home


def text_of(message: Message) -> str:
    return (message.thinking + message.content).strip()


def check(model: Model, home: Path, first: Sequence[Message], killed: Run) -> str:
    """Compare the library with what the turn had reported; how far that had come."""
    with Library(home) as library:
        conversation = library.conversation(1)
        assert conversation.path()[:2] == first
        new = conversation.path()[2:]
        assert [message.role for message in new] == ["user", "assistant"][: len(new)]
        assert all(message.content == QUESTION for message in new[:1])
        if killed.reports:  # it was stored before anything of the reply was shown
            last = killed.reports[-1]
            assert len(new) == 2
            assert text_of(new[1]).startswith(last["text"].strip())
            assert new[1].state == "complete" or not last["done"]
        assert library.claim(1)  # the kill released it
        chat = Chat(model, library=library, conversation=1, **OPTIONS)
        messages = [*chat.conversation.for_template(), {"role": "user", "content": "And now?"}]
        fresh = done_of(model.stream(messages, max_tokens=4, **OPTIONS))
        assert done_of(chat.send("And now?", max_tokens=4)).message == fresh.message
        chat.close()
    return "done" if new and new[-1].state == "complete" else "partial" if new else "nothing yet"


def test_a_kill_at_any_system_call_of_a_turn_loses_nothing(
    model: Model, model_folder: Path, before: Path, tmp_path: Path, capsys
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    with Library(before) as library:
        first = library.conversation(1).path()
    points: list[tuple[str, str, int]] = []
    for thread in ("MainThread", "snapshots"):
        home = shutil.copytree(before, tmp_path / "home")
        whole = run(model_folder, home, thread)
        assert whole.code == 0
        assert whole.reports[-1]["done"]
        shutil.rmtree(home)
        seen: Counter[str] = Counter()
        points += [(thread, n, seen[n]) for n in whole.calls if seen.update([n]) is None]
    assert {thread for thread, _, _ in points} == {"MainThread", "snapshots"}
    outcomes: Counter[str] = Counter()
    for thread, name, number in random.Random(KILLS).sample(points, min(KILLS, len(points))):
        at = f"inject={name}:signal=KILL:when={number}"
        home = shutil.copytree(before, tmp_path / "home")
        killed = run(model_folder, home, thread, "-e", at)
        # A call that waits for the other thread may be needed once less in another run.
        assert killed.code in (-signal.SIGKILL, 0), at
        outcomes["not reached"] += killed.code == 0
        assert session_command.main(["--folder", str(home), "verify"]) == 0, at
        assert "all whole" in capsys.readouterr().out
        outcomes[check(model, home, first, killed)] += 1
        shutil.rmtree(home)
    assert outcomes["not reached"] <= len(points) // 20 + 1
    with capsys.disabled():
        print(f"\n{min(KILLS, len(points))} kills at {len(points)} system calls: {dict(outcomes)}")
