"""A model in two processes, against the same in one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen35_mlx.distributed.place import Place
from qwen35_mlx.distributed.processes import Processes
from qwen35_mlx.errors import Qwen35Error
from tests.distributed import chat_child
from tests.ranks import run_ranks


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of all processes."""
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path))
    return tmp_path


def run(folder: Path, command: str, *arguments: str, ranks: int = 2) -> Any:
    """What the first process found; see `chat_child`."""
    run_ranks(ranks, folder, "tests.distributed.chat_child", command, str(folder), *arguments)
    return json.loads((folder / f"{command}.json").read_text())


def test_two_processes_reply_what_one_does(home: Path):
    """With and without a grammar and drafts."""
    assert run(home, "reply") == chat_child.reply(None, home)


def test_a_pipeline_over_nccl_is_refused():
    """Its backend cannot send."""
    place = Place(0, "nccl", "127.0.0.1", pipeline=True)
    with pytest.raises(Qwen35Error, match="leave out --parallel pipeline"):
        Processes.join(place, print)


def test_whole_layers_in_each_process_reply_the_same(home: Path):
    found = run(home, "pipeline")
    assert found == chat_child.pipeline(None, home / "alone")
    assert found[1] > 0


def test_resumes_to_the_bit_where_every_process_has_its_part(home: Path):
    number = str(run(home, "start"))
    cached, whole, damaged, again, lost, files = run(home, "resume", number)
    assert cached > 0
    np.testing.assert_array_equal(np.load(home / "start.npy"), np.load(home / "resume.npy"))
    assert whole > damaged == again > lost == 0
    assert files == 0
    # One process has none of these states, and reads the conversation.
    with pytest.raises(AssertionError):
        chat_child.resume(None, home, number)
