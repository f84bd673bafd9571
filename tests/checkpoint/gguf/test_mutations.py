"""Every damaged GGUF header is used or refused in one line: no traceback, hang or huge allocation.

By default few files are damaged. For a long run:

    QWEN35_MUTATIONS=10000 scripts/test tests/checkpoint/gguf/test_mutations.py
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from tests.checkpoint.cases import golden
from tests.checkpoint.gguf.cases import convert, write_gguf

MUTATIONS = int(os.environ.get("QWEN35_MUTATIONS", "100"))
FIRST = int(os.environ.get("QWEN35_FIRST_MUTATION", "0"))
SECONDS = 5
GROWTH = 1 << 30


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Undamaged files: dense in float32 with a vocabulary, and sparse in Q8_0 as a split of one."""
    folder = tmp_path_factory.mktemp("bases")
    metadata, arrays = convert(*golden("dense"))
    metadata |= {"tokenizer.ggml.tokens": ["a", "bc", ""], "tokenizer.ggml.token_type": [1, 3, 4]}
    write_gguf(folder / "dense.gguf", metadata, arrays)
    metadata, arrays = convert(*golden("moe"), fuse_experts=True)
    metadata |= {"split.count": 1, "split.no": 0, "general.alignment": 32}
    arrays["blk.1.attn_qkv.scale"] = np.ones(1, np.float32)
    matrices = [n for n, v in arrays.items() if v.ndim > 1 and v.shape[-1] % 32 == 0]
    write_gguf(folder / "moe.gguf", metadata, arrays, dict.fromkeys(matrices, Type.Q8_0))
    return folder


def test_a_damaged_header_is_used_or_refused(bases: Path, tmp_path: Path) -> None:
    arguments = [str(bases), str(tmp_path), str(FIRST), str(MUTATIONS)]
    run = subprocess.run(
        [sys.executable, "-m", "tests.checkpoint.gguf.mutation_worker", *arguments],
        capture_output=True,
        text=True,
        timeout=60 + MUTATIONS,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) == 2 * MUTATIONS, (lines[-1:], run.returncode, run.stderr[-3000:])
    reports = [before | after for before, after in zip(lines[::2], lines[1::2], strict=True)]
    counts = Counter(report["result"] for report in reports)
    slowest, grown = (max(report[key] for report in reports) for key in ("seconds", "grown"))
    print(f"{MUTATIONS} mutations, {counts['ok']} ok, {counts['refused']} refused")
    print(f"slowest {slowest:.2f} s, grown by {grown >> 20} MB")
    faults = [
        report
        for report in reports
        if report["result"] not in ("ok", "refused")
        or report["seconds"] > SECONDS
        or report["grown"] > GROWTH
    ]
    for fault in faults[:10]:
        print(json.dumps(fault, indent=1).replace("\\n", "\n"))
    assert not faults
    # The damage is neither harmless nor always found.
    assert min(counts["ok"], counts["refused"]) > MUTATIONS // 10
