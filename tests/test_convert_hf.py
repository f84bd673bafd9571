"""`convert(dequantize=True)`: plain weights in the layout of Hugging Face."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion import plan
from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.convert import main
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.cases import (
    Tensors,
    canonical,
    float8,
    fused,
    golden,
    listing,
    load,
    one_by_one,
    text_only,
    with_vision,
    write,
)

IDS = mx.array(np.random.default_rng(0).integers(0, 250, (1, 40)))


def published(name: str) -> tuple[dict[str, Any], Tensors]:
    """config.json and tensors of a golden in the dtypes of Qwen3.5, experts fused."""
    config, tensors = golden(name)
    wide = ("A_log", "linear_attn.norm.weight")
    half = {n: v if n.endswith(wide) else v.astype(mx.bfloat16) for n, v in tensors.items()}
    config["text_config"]["dtype"] = "bfloat16"
    return config, fused(half)


def stored(folder: Path) -> Tensors:
    """All tensors of a result."""
    found: Tensors = {}
    for file in folder.glob("*.safetensors"):
        found |= load(file)
    return found


def assert_same(got: Tensors, want: Tensors) -> None:
    assert set(got) == set(want)
    for name, value in want.items():
        assert (name, got[name].shape, got[name].dtype) == (name, value.shape, value.dtype)
        assert mx.array_equal(got[name].view(mx.uint8), mx.contiguous(value).view(mx.uint8)), name


@pytest.mark.parametrize("name", ["dense", "dense-tied-wide-heads", "moe", "moe-tied-wide-heads"])
def test_a_plain_conversion_and_back_is_the_original_to_the_bit(tmp_path: Path, name: str):
    config, tensors = published(name)
    source = write(tmp_path / "source", config, with_vision(tensors))
    convert(source, tmp_path / "mlx")
    convert(tmp_path / "mlx", tmp_path / "hf", dequantize=True)
    assert_same(stored(tmp_path / "hf"), tensors)


def test_decay_parameters_in_bfloat16_come_back_in_bfloat16(tmp_path: Path):
    config, tensors = published("dense")
    tensors = {n: v.astype(mx.bfloat16) for n, v in tensors.items()}
    convert(write(tmp_path / "source", config, tensors), tmp_path / "mlx")
    convert(tmp_path / "mlx", tmp_path / "hf", dequantize=True)
    assert_same(stored(tmp_path / "hf"), tensors)


@pytest.mark.parametrize("layout", ["one by one", "text only"])
def test_layouts_of_the_source(tmp_path: Path, layout: str):
    config, tensors = published("moe")
    if layout == "text only":
        config, tensors = text_only(config, tensors)
    source = one_by_one(tensors) if layout == "one by one" else tensors
    convert(write(tmp_path / "source", config, source), tmp_path / "hf", dequantize=True)
    assert_same(stored(tmp_path / "hf"), tensors)
    result = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert ("text_config" in result) == (layout == "one by one")
    assert result["architectures"] == ["Qwen3_5MoeForCausalLM"]
    assert result["model_type"] == "qwen3_5_moe" + ("_text" if layout == "text only" else "")


def test_a_flat_config_of_any_model_type_is_a_text_models(tmp_path: Path):
    config, tensors = text_only(*published("dense"))
    config["model_type"] = "qwen3_5"
    convert(write(tmp_path / "source", config, tensors), tmp_path / "hf", dequantize=True)
    result = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert result["model_type"] == "qwen3_5_text"


@pytest.mark.parametrize("mode", ["affine", "mxfp4", "nvfp4"])
def test_quantised_matrices_are_their_dequantised_values(tmp_path: Path, mode: str):
    config, tensors = published("moe")
    source = write(tmp_path / "source", config, tensors)
    convert(source, tmp_path / "mlx", quantize=True, q_mode=mode)
    convert(tmp_path / "mlx", tmp_path / "hf", dequantize=True)
    quantised, got = open_checkpoint(tmp_path / "mlx"), stored(tmp_path / "hf")
    assert {n: v.shape for n, v in got.items()} == {n: v.shape for n, v in tensors.items()}
    for name, value in canonical(got).items():
        if quantised.quantization(name.removesuffix(".weight")) is None:
            continue
        parts = {
            part: quantised.read(f"{name.removesuffix('.weight')}.{part}")
            for part in ("weight", "scales", "biases")
            if f"{name.removesuffix('.weight')}.{part}" in quantised.names()
        }
        q = quantised.quantization(name.removesuffix(".weight"))
        assert q
        wide = {n: p.astype(mx.float32) if p.dtype == mx.bfloat16 else p for n, p in parts.items()}
        exact = mx.dequantize(
            wide["weight"],
            wide["scales"],
            wide.get("biases"),
            q.group_size,
            q.bits,
            q.mode,
            dtype=mx.float32,
        )
        assert value.dtype == mx.bfloat16
        assert mx.array_equal(value, exact.astype(mx.bfloat16)), name
    plain = [name for name in tensors if len(tensors[name].shape) == 1 or "conv1d" in name]
    assert_same({n: got[n] for n in plain}, {n: tensors[n] for n in plain})


def test_config_has_no_quantisation_and_names_the_text_model(tmp_path: Path):
    config, tensors = golden()
    half = {n: v.astype(mx.bfloat16) for n, v in tensors.items() if v.ndim < 2 or "embed" in n}
    config, stored_tensors, _ = float8(config, tensors)
    config["vision_config"] = {"depth": 2}
    config["text_config"]["dtype"] = "bfloat16"
    source = write(tmp_path / "source", config, stored_tensors | half)
    summary = convert(source, tmp_path / "hf", dequantize=True)
    result = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert not {"quantization", "quantization_config", "vision_config"} & set(result)
    assert result["architectures"] == ["Qwen3_5ForCausalLM"]
    assert result["text_config"]["dtype"] == "bfloat16"
    assert result["model_type"] == config["model_type"]
    assert any("vision tower is left out" in warning for warning in summary.warnings)
    assert {value.dtype for value in stored(tmp_path / "hf").values()} == {mx.bfloat16, mx.float32}


def test_mlx_lm_loads_the_result(tmp_path: Path):
    source = write(tmp_path / "source", *golden("moe"))
    convert(source, tmp_path / "mlx", quantize=True, q_bits=8)
    convert(tmp_path / "mlx", tmp_path / "hf", dequantize=True, dtype="float32")
    before, after = (load_model(tmp_path / name)[0](IDS) for name in ("mlx", "hf"))
    assert np.abs(np.array(before) - np.array(after)).max() < 1e-4


def test_shards_have_an_index_and_the_format_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, tensors = published("moe")
    source = write(tmp_path / "source", config, tensors)
    monkeypatch.setattr(plan, "SHARD_BYTES", 300_000)
    convert(source, tmp_path / "hf", dequantize=True)
    files = sorted(n for n in listing(tmp_path / "hf") if n.endswith(".safetensors"))
    assert files == [
        f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
    ]
    assert len(files) > 2
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    assert {file for name, file in index["weight_map"].items() if name.startswith("mtp.")} <= {
        *files
    }
    for file in files:
        with (tmp_path / "hf" / file).open("rb") as opened:
            header = opened.read(int.from_bytes(opened.read(8), "little"))
        assert json.loads(header)["__metadata__"]["format"] == "pt"


def test_it_is_written_a_few_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config, tensors = published("moe")
    source = write(tmp_path / "source", config, tensors)
    monkeypatch.setattr("qwen35_mlx.conversion.hf_layout.CHUNK_ELEMENTS", 5000)
    convert(source, tmp_path / "hf", dequantize=True)
    assert_same(stored(tmp_path / "hf"), tensors)


_STOP = """
import sys
from qwen35_mlx.conversion.converter import convert
source, out, dequantize = sys.argv[1:]
def progress(done, total, name):
    if done > total / 2:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
convert(source, out, dequantize=bool(dequantize), resume=True, progress=progress)
"""


def kill_half_way(source: Path, out: Path, *, dequantize: bool = True) -> None:
    words = [str(source), str(out), "1" if dequantize else ""]
    done = subprocess.run([sys.executable, "-c", _STOP, *words], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_killed_one_is_resumed(tmp_path: Path):
    source = write(tmp_path / "source", *published("moe"))
    convert(source, tmp_path / "whole", dequantize=True)
    kill_half_way(source, tmp_path / "out")
    written: list[str] = []
    convert(
        source,
        tmp_path / "out",
        dequantize=True,
        resume=True,
        progress=lambda done, total, name: written.append(name),
    )
    assert 0 < len(written) < len(stored(tmp_path / "whole"))
    for name in listing(tmp_path / "whole"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_kind_of_conversion_is_not_resumed(tmp_path: Path):
    source = write(tmp_path / "source", *published("dense"))
    kill_half_way(source, tmp_path / "out", dequantize=False)
    with pytest.raises(Qwen35Error, match="resume"):
        convert(source, tmp_path / "out", dequantize=True, resume=True)


def test_quantise_and_dequantise_exclude_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = write(tmp_path / "source", *golden())
    words = ["--hf-path", str(source), "--mlx-path", str(tmp_path / "out"), "-q", "-d"]
    assert main(words) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_model_card_names_the_library_that_loads_the_result(tmp_path: Path):
    source = write(tmp_path / "source", *golden())
    for dequantize, library in ((True, "transformers"), (False, "mlx")):
        out = tmp_path / library
        convert(source, out, dequantize=dequantize, verify=False)
        card = (out / "README.md").read_text()
        assert f"library_name: {library}\n" in card
        assert ("- mlx\n" in card) is not dequantize
