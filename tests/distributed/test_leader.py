"""A model in two processes, against the same in one."""

import json
from pathlib import Path

import qwen35_mlx
from tests.distributed.chat_child import replies
from tests.ranks import run_ranks


def test_two_processes_reply_what_one_does(tmp_path: Path):
    run_ranks(2, tmp_path, "tests.distributed.chat_child", str(tmp_path))
    found = json.loads((tmp_path / "replies.json").read_text())
    for mtp in ("off", 3):
        assert found[str(mtp)] == replies(qwen35_mlx.load("demo", mtp=mtp))
