"""Every damaged checkpoint is used or refused in one line: no traceback, hang or huge allocation.

By default few checkpoints are damaged. For a long run, split among some processes:

    QWEN35_MUTATIONS=10000 scripts/test tests/checkpoint/test_mutations.py
"""

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.conversion.gguf_export import export_gguf
from tests.checkpoint.cases import float8, golden, write
from tests.checkpoint.cases import unmeasured as convert
from tests.checkpoint.formats.published import SOURCES
from tests.checkpoint.formats.sources import write_quantized
from tests.checkpoint.test_hadamard import pack, store

MUTATIONS = int(os.environ.get("QWEN35_MUTATIONS", "40"))
FIRST = int(os.environ.get("QWEN35_FIRST_MUTATION", "0"))
# Each has small tensors, or config files, that say what the large ones mean.
METHODS = (
    "gptq",
    "gptq in the order of activations",
    "awq",
    "auto-round of experts alone",
    "compressed-tensors int4, asymmetric",
    "compressed-tensors int4 in the order of activations",
    "compressed-tensors int8",
    "compressed-tensors nvfp4 that folds",
    "compressed-tensors mxfp4",
    "modelopt nvfp4 by its own file",
    "modelopt mixed",
    "mlx affine, 8 bits and others",
    "mlx nvfp4",
)
SECONDS = 5
GROWTH = 1 << 30
# How long a worker may be silent before it counts as hanging; the machine may be busy.
SILENCE = 30


@pytest.fixture(scope="session")
def bases(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Undamaged checkpoints: mlx-lm's layout, published, of other methods, and GGUF."""
    folder = tmp_path_factory.mktemp("bases")
    small = shutil.copytree(model_folder, folder / "plain")
    text = {"eos_token_id": [511, 2], "temperature": 0.6, "top_k": 20, "do_sample": True}
    (small / "generation_config.json").write_text(json.dumps(text))
    convert(small, folder / "quantized", quantize=True, q_group_size=32)
    config, tensors = golden("dense-yarn")
    write(folder / "published", config, tensors, files=3)
    config, stored, _ = float8(*golden("moe"))
    write(folder / "float8", config, stored)
    for name in METHODS:
        write_quantized(folder / name, SOURCES[name])
    store(folder / "hadamard", pack())
    for name in ("published", "float8", "hadamard", *METHODS):
        for file in small.iterdir():
            if file.suffix == ".jinja" or file.name.startswith(("tokenizer", "generation")):
                shutil.copy(file, folder / name / file.name)
    (folder / "gguf").mkdir()
    export_gguf("demo", folder / "gguf" / "q8_0.gguf", gguf_type="Q8_0")
    return folder


def run_worker(bases: Path, scratch: Path, first: int, count: int) -> list[dict[str, Any]]:
    """Reports of damaged checkpoints, up to the first that the worker does not survive."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    command = ["-m", "tests.checkpoint.mutation_worker", str(bases), str(scratch)]
    process = subprocess.Popen(
        [sys.executable, *command, str(first), str(count)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    output = process.stdout
    assert output
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in output:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    reports: list[dict[str, Any]] = []
    problem = ""
    while not problem:
        try:
            line = lines.get(timeout=SILENCE)
        except queue.Empty:
            problem = f"silent for {SILENCE} s"
            break
        if not line:
            break
        report = json.loads(line)
        if "results" in report:
            reports[-1].update(report)
        else:
            reports.append(report)
    process.kill()
    error = process.communicate()[1]
    if not reports or "results" not in reports[-1]:
        problem = f"{problem or 'died'}, exit code {process.returncode}: {error[-3000:]}"
        assert reports, problem
        reports[-1].update(seconds=SILENCE, grown=0, results={"worker": problem})
    return reports


def test_a_damaged_checkpoint_is_used_or_refused(bases: Path, tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    while len(reports) < MUTATIONS:
        first, count = FIRST + len(reports), MUTATIONS - len(reports)
        reports += run_worker(bases, tmp_path / "scratch", first, count)
    counts = Counter(result for report in reports for result in report["results"].values())
    faults = [
        report
        for report in reports
        if not {*report["results"].values()} <= {"ok", "refused"}
        or report["seconds"] > SECONDS
        or report["grown"] > GROWTH
    ]
    print(f"{MUTATIONS} mutations, {counts['ok']} steps ok, {counts['refused']} refused")
    print(f"slowest {max(report['seconds'] for report in reports):.2f} s", end=", ")
    print(f"grown by {max(report['grown'] for report in reports) >> 20} MB")
    for fault in faults:
        print(json.dumps(fault, indent=1).replace("\\n", "\n"))
    assert not faults
    # The damage is neither harmless nor always found at the first step.
    assert min(counts["ok"], counts["refused"]) > MUTATIONS // 4
