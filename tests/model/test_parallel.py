"""Networks that are split over several processes, against the same in one.

All combinations, on more processes: QWEN35_RANKS=2,3,4 scripts/test tests/model/test_parallel.py
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.conversion.converter import convert
from scripts.support.ranks import uses_nccl
from tests.goldens import FOLDER, NAMES, expected
from tests.model.parallel_child import Case, outputs, write_cases
from tests.random_model import write_weights
from tests.ranks import run_ranks

LONG = [int(ranks) for ranks in os.environ.get("QWEN35_RANKS", "").split(",") if ranks]
# Sizes of which several processes have a share of each, in groups of 32.
SIZES = {
    "dense": {"intermediate_size": 128},
    "moe": {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 96},
}
Make = Callable[[str, str], Path]
PACKINGS = {
    "4bit": {"q_bits": 4, "q_group_size": 32},
    "8bit": {"q_bits": 8, "q_group_size": 32},
    "mxfp4": {"q_mode": "mxfp4"},
}


def case_of(name: str, path: Path | None = None) -> Case:
    """The prompt and the reply of a golden, for the network at `path`, or the golden's own."""
    want = expected(name)
    return Case(
        path.name if path else name,
        str(path or FOLDER / name),
        want["prompt"].tolist(),
        [64, 65],
        want["greedy"].tolist(),
        drafts=True,
        together=True,
    )


def short(case: Case, **changes: Any) -> Case:
    """The prompt, and a few tokens of the reply."""
    return replace(case, reply=case.reply[:3], drafts=False, together=False, **changes)


@pytest.fixture
def quantized(checkpoint: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """A random network of a golden's shape, packed."""

    def make(name: str, packing: str) -> Path:
        plain = tmp_path / f"{name}-plain"
        if not plain.exists():
            shutil.copytree(checkpoint, plain)
            write_weights(plain, name, **SIZES[name])
        path = tmp_path / f"{name}-{packing}"
        convert(plain, path, quantize=True, verify=False, **PACKINGS[packing])
        return path

    return make


def check(folder: Path, ranks: int, cases: list[Case]) -> None:
    """Every process has the same bits, and the values that one process has."""
    write_cases(folder, cases)
    run_ranks(ranks, folder, "tests.model.parallel_child", str(folder), seconds=900)
    for case in cases:
        files = [folder / f"{case.name}-{rank}.safetensors" for rank in range(ranks)]
        first, *others = [dict(mx.load(str(file))) for file in files]  # type: ignore[call-overload]
        for name, want in outputs(case).items():
            where = f"{case.name}, {name}, on {ranks} processes"
            for other in others:
                np.testing.assert_array_equal(np.array(other[name]), np.array(first[name]), where)
            # With 8 bits, a difference of rounding may be one of their steps.
            atol = 1e-4 if case.kv_bits is None else 5e-3
            np.testing.assert_allclose(first[name], want, rtol=0, atol=atol, err_msg=where)


def test_two_processes_compute_what_one_does(tmp_path: Path, quantized: Make):
    """64 steps, drafts and conversations together; experts, heads that do not divide; packings."""
    moe = replace(case_of("moe"), reply=[])
    kv = short(moe, name="8-bit keys and values", kv_bits=8)
    packed = [("dense", "4bit"), ("moe", "8bit"), ("moe", "mxfp4")]
    packed_cases = [short(case_of(name, quantized(name, packing))) for name, packing in packed]
    wide = short(case_of("moe-tied-wide-heads"))
    pipeline = replace(moe, name="pipeline", pipeline=True)
    pipelines = [] if uses_nccl(2) else [pipeline]  # NCCL sends nothing from one to another
    check(tmp_path, 2, [case_of("dense"), moe, kv, wide, *pipelines, *packed_cases])


def test_four_processes_compute_what_one_does(tmp_path: Path):
    """With fewer key/value heads than processes, and more processes than heads."""
    wide = short(case_of("dense-tied-wide-heads"))
    check(tmp_path, 4, [replace(short(case_of("moe")), cuts=[]), replace(wide, cuts=[], reply=[])])


@pytest.mark.parametrize("pipeline", [False, True])
@pytest.mark.parametrize("weights", [*PACKINGS, *NAMES])
@pytest.mark.parametrize("ranks", LONG)
def test_any_number_of_processes(
    tmp_path: Path, quantized: Make, ranks: int, weights: str, pipeline: bool
):
    """Packed and plain weights, 8-bit keys and values, prompts in pieces."""
    if weights in PACKINGS:
        plain, whole = [], [case_of(name, quantized(name, weights)) for name in SIZES]
    else:
        plain = whole = [case_of(weights)]
    kv = [replace(one, name=f"{one.name} with 8-bit kv", kv_bits=8) for one in whole]
    splits = [
        replace(one, name=f"{one.name} cut at {cuts}", cuts=cuts, reply=[], together=False)
        for one in plain
        for cuts in ([1], [149], [3, 4, 100], list(range(1, 12)))
    ]
    cases = [replace(one, pipeline=pipeline) for one in (*whole, *kv, *splits)]
    check(tmp_path, ranks, cases)
