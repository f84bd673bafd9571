"""The same MLX checkpoint gives the same logits here and in mlx-lm."""

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion.converter import convert
from tests.goldens import FOLDER, NAMES

IDS = list(range(3, 203))


def mlx_lm_logits(folder: Path) -> np.ndarray:
    """Logits of all ids: a prefill of all but the last four, then those one by one."""
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    cache: Any = model.make_cache()
    pieces = [IDS[:-4], *([i] for i in IDS[-4:])]
    logits = [model(mx.array([piece]), cache=cache)[0] for piece in pieces]
    return np.array(mx.concatenate(logits))


def assert_agree(folder: Path) -> None:
    net = load_network(open_checkpoint(folder), dtype="float32")
    hidden = net(mx.array([IDS]), net.make_cache())
    got, want = np.array(net.logits(hidden)[0]), mlx_lm_logits(folder)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-3)
    np.testing.assert_array_equal(got.argmax(-1), want.argmax(-1))


@pytest.fixture
def published(name: str, checkpoint: Path, tmp_path: Path) -> str:
    """A golden checkpoint with the tokenizer that the converter requires."""
    folder = shutil.copytree(FOLDER / name, tmp_path / "published")
    shutil.copy(checkpoint / "tokenizer.json", folder)
    return str(folder)


@pytest.mark.parametrize("name", NAMES)
def test_converted(published, tmp_path):
    convert(published, tmp_path / "out", dtype="float32", verify=False)
    assert_agree(tmp_path / "out")


@pytest.mark.parametrize("name", ["dense", "moe"])
@pytest.mark.parametrize("format", [("affine", 4, 32), ("affine", 8, 64), ("mxfp4", 4, 32)])
def test_quantised(published, format, tmp_path):
    mode, bits, group = format
    convert(
        published,
        tmp_path / "out",
        quantize=True,
        q_mode=mode,
        q_bits=bits,
        q_group_size=group,
        dtype="float32",
    )
    assert_agree(tmp_path / "out")
