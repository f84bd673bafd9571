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
from qwen35_mlx.checkpoint.opening import open_checkpoint
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
    network = load_network(open_checkpoint(path), notice=lambda _: None)
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


def note_on_activations(path: Path) -> list[str]:
    """The one line on scales that the values of a checkpoint do not depend on."""
    index = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    names = [n for n in index if n.endswith((".input_scale", "_input_scale", "k_scale", "v_scale"))]
    if not names:
        return []
    # The order is that of the files.
    more = f" and {len(names) - 1} more tensors"
    line = next(line for line in open_checkpoint(path).notes if line.endswith(more))
    assert line.removesuffix(more).split("'")[1] in names
    return [line]


def packed_matrices(checkpoint: Checkpoint) -> dict[str, PackedMatrix]:
    return {n: m for n, m in checkpoint.matrices.items() if isinstance(m, PackedMatrix)}


@pytest.mark.parametrize("name", SOURCES)
def test_logits_are_those_of_the_meaning_before_and_after_a_conversion(
    tmp_path: Path, folders: Any, name: str
):
    source, written = SOURCES[name], folders(name)
    want = logits(written.plain)
    assert_close(logits(written.quantized), want)
    checkpoint = open_checkpoint(written.quantized)
    assert list(checkpoint.notes) == note_on_activations(written.quantized)
    packed = packed_matrices(checkpoint)
    assert (source.packed in {m.quantization for m in packed.values()}) == bool(source.packed)
    assert bool(packed) == bool(source.packed)
    convert(written.quantized, tmp_path / "out")
    result = open_checkpoint(tmp_path / "out")
    after = packed_matrices(result)
    assert {n: m.quantization for n, m in after.items()} == {
        n: m.quantization for n, m in packed.items()
    }
    for tensor, moved in after.items():
        for part, reader in moved.parts.items():
            stored = packed[tensor].parts[part].read(0, reader.shape[0])
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
    source, result = open_checkpoint(written.plain), open_checkpoint(tmp_path / "out")
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


@pytest.mark.parametrize("name", ["awq", "gptq", "compressed-tensors int4, asymmetric"])
def test_scales_of_another_dtype_stay_exact_unless_asked_otherwise(
    tmp_path: Path, folders: Any, name: str
):
    written = folders(name)
    kept = SOURCES[name].scales
    assert open_checkpoint(written.quantized).dtype_of_most == mx.bfloat16
    exact = convert(written.quantized, tmp_path / "exact")
    (line,) = [line for line in exact.warnings if "scales keep their" in line]
    assert f"keep their {str(kept).removeprefix('mlx.core.')}," in line
    assert "--dtype bfloat16" in line
    result = open_checkpoint(tmp_path / "exact")
    assert result.dtype_of_most == mx.bfloat16
    assert {m.dtype for m in packed_matrices(result).values()} == {kept}
    rounded = convert(written.quantized, tmp_path / "rounded", dtype="bfloat16")
    assert not [line for line in rounded.warnings if "scales" in line]
    result = open_checkpoint(tmp_path / "rounded")
    plain = open_checkpoint(written.plain)
    for tensor, matrix in packed_matrices(result).items():
        assert matrix.dtype == mx.bfloat16
        got, meant = (c.plain(tensor).read(0, matrix.shape[0]) for c in (result, plain))
        # Scale and bias lose up to 2 ** -9 of themselves.
        assert mx.abs(got - meant).max().item() < 2**-7 * mx.abs(meant).max().item()


@pytest.mark.parametrize("name", ["fp8 per tensor", "modelopt nvfp4", "gptq", "mlx nvfp4"])
def test_matrices_that_become_larger_are_said(tmp_path: Path, folders: Any, name: str):
    written = folders(name)
    lines: list[str] = []
    load_network(open_checkpoint(written.quantized), dtype="bfloat16", notice=lines.append)
    found = [line for line in lines if "quantised matrices are in a form" in line]
    assert bool(found) == (SOURCES[name].packed is None)
    plain = convert(written.quantized, tmp_path / "plain")
    small = convert(written.quantized, tmp_path / "small", quantize=True, q_group_size=32)
    said = [any("are in a form" in line for line in made.warnings) for made in (plain, small)]
    assert said == [bool(found), False]
    if found:
        assert "as 16-bit values they take 0.0 GB of memory" in found[0]
