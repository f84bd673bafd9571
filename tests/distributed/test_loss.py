"""A process that is killed or stopped while it runs a model with another one.

At random moments: QWEN35_RANK_KILLS=20 scripts/test tests/distributed/test_loss.py
"""

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.loss_child import QUESTION
from tests.ranks import start_ranks

KILLS = int(os.environ.get("QWEN35_RANK_KILLS", "0"))
HOW = {signal.SIGKILL: "has ended", signal.SIGSTOP: "does not answer", 0: "has made no progress"}


def lose(folder: Path, number: int, moment: str) -> dict[str, Any]:
    """What the first process reports; see `loss_child`."""
    first, other = start_ranks(
        2, folder, "tests.distributed.loss_child", *map(str, (folder, number, moment))
    )
    try:
        code = first.wait(120)
    finally:
        for process in (first, other):
            process.kill()
            process.wait()
    assert code == 0, (folder / "0.txt").read_text()
    return json.loads((folder / "loss.json").read_text())


def check(found: dict[str, Any], number: int, moment: str) -> None:
    """One line names the process; the message and the reply so far are stored."""
    failed = [line for name, line in found["events"] if name == "Failed"]
    lost = [line for name, line in found["events"] if name == "ProcessesLost"]
    (line,) = lost
    assert line.startswith("rank 1 (")
    assert HOW[number] in line
    assert set(failed) == {line}
    assert found["seconds"] < 12
    if moment.startswith("idle"):
        return
    stored = found["stored"]
    assert stored[0][:2] == ["user", QUESTION]
    if found["text"]:
        _, text, state, error = stored[1]
        assert (text, state, error) == (found["text"].strip(), "failed", line)


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGKILL, "prefill+0.2"), (signal.SIGSTOP, "decode"), (0, "decode")],
)
def test_a_lost_process_ends_the_turn(tmp_path: Path, number: int, moment: str):
    check(lose(tmp_path, number, moment), number, moment)


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_process_that_is_lost_at_any_moment_ends_the_turn(tmp_path: Path, seed: int):
    chance = random.Random(seed)
    phase, delay = chance.choice(["idle", "prefill", "decode"]), chance.uniform(0.0, 1.5)
    number, moment = chance.choice([signal.SIGKILL, signal.SIGSTOP]), f"{phase}+{delay:.3f}"
    check(lose(tmp_path, number, moment), number, moment)
