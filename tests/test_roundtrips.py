"""Every quantised checkpoint computes what its format means, as it is and once converted."""

import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.tensor_readers import PackedMatrix
from tests.checkpoint.cases import load
from tests.checkpoint.cases import unmeasured as convert
from tests.checkpoint.formats.published import SOURCES
from tests.checkpoint.formats.sources import write_source

IDS = mx.array(np.random.default_rng(0).integers(0, 250, (1, 24)))
# float32 on a CPU: rounding alone.
EXACT = 1e-4
TRUNK = re.compile(r"model\..*")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return cache(lambda name: write_source(tmp_path_factory.mktemp("source"), SOURCES[name]))


def logits(path: Path) -> np.ndarray:
    """Of all but two tokens at once, then one by one."""
    network = load_network(Checkpoint.open(path), notice=lambda _: None)
    cache, count = network.make_cache(), IDS.shape[1]
    pieces = mx.split(IDS, [count - 2, count - 1], axis=1)
    return np.concatenate([np.array(network.logits(network(ids, cache))[0]) for ids in pieces])


def mlx_lm_logits(path: Path, copy: Path) -> np.ndarray:
    """Of a copy in float32: mlx-lm adds 1 to norms in the dtype in which they are stored."""
    shutil.copytree(path, copy)
    for file in copy.glob("*.safetensors"):
        tensors = load(file)
        floats = (mx.float16, mx.bfloat16)
        wide = {n: v.astype(mx.float32) if v.dtype in floats else v for n, v in tensors.items()}
        mx.save_safetensors(str(file), wide, {"format": "mlx"})
    model: Any = load_model(copy)[0]
    return np.array(model(IDS)[0])


def assert_close(got: np.ndarray, want: np.ndarray, tolerance: float = EXACT) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
    assert np.abs(want).max() > 1


def packed_matrices(checkpoint: Checkpoint) -> dict[str, PackedMatrix]:
    return {n: m for n, m in checkpoint.matrices.items() if isinstance(m, PackedMatrix)}


@pytest.mark.parametrize("name", SOURCES)
def test_logits_are_those_of_the_meaning_before_and_after_a_conversion(
    tmp_path: Path, folders: Any, name: str
):
    source, written = SOURCES[name], folders(name)
    want = logits(written.plain)
    assert_close(logits(written.quantized), want)
    checkpoint = Checkpoint.open(written.quantized)
    packed = packed_matrices(checkpoint)
    assert (source.packed in {m.quantization for m in packed.values()}) == bool(source.packed)
    assert bool(packed) == bool(source.packed)
    convert(written.quantized, tmp_path / "out")
    result = Checkpoint.open(tmp_path / "out")
    after = packed_matrices(result)
    assert {n: m.quantization for n, m in after.items()} == {
        n: m.quantization for n, m in packed.items()
    }
    for matrix, moved in zip(map(packed.get, after), after.values(), strict=True):
        assert matrix
        for part, reader in moved.parts.items():
            stored = matrix.parts[part].read(0, reader.shape[0])
            assert reader.dtype == stored.dtype
            assert mx.array_equal(reader.read(0, reader.shape[0]), stored)
    assert_close(logits(tmp_path / "out"), want)
    assert_close(mlx_lm_logits(tmp_path / "out", tmp_path / "wide"), want, 1e-3)


@pytest.mark.parametrize("name", SOURCES)
def test_requantised_matrices_have_the_error_of_the_new_quantisation(
    tmp_path: Path, folders: Any, name: str
):
    written = folders(name)
    summary = convert(written.quantized, tmp_path / "out", quantize=True, q_group_size=32, q_bits=6)
    assert summary.quantization
    source, result = Checkpoint.open(written.plain), Checkpoint.open(tmp_path / "out")
    assert result.dtype_of_most == mx.bfloat16
    assert json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]["dtype"] == (
        "bfloat16"
    )
    compared = 0
    for tensor, matrix in packed_matrices(result).items():
        assert matrix.dtype == mx.bfloat16
        q, rows = matrix.quantization, matrix.shape[0]
        meant = source.plain(tensor).read(0, rows)
        # Scales are rounded to bfloat16, as those of any bfloat16 model are.
        best = mx.quantize(meant.astype(mx.bfloat16), q.group_size, q.bits)
        best = mx.dequantize(
            best[0], *(part.astype(mx.float32) for part in best[1:]), q.group_size, q.bits
        )
        errors = [
            mx.sqrt(mx.mean(mx.square(values - meant))).item()
            for values in (result.plain(tensor).read(0, rows), best, mx.zeros(meant.shape))
        ]
        assert errors[0] <= 1.03 * errors[1], tensor
        assert errors[0] < 0.03 * errors[2], tensor
        compared += 1
    assert compared > 20
