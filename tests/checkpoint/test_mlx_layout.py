"""Checkpoints that mlx-lm wrote, plain and quantised."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.checkpoint.recipes import Quantization
from tests.checkpoint.cases import (
    Tensors,
    assert_reads,
    fused,
    golden,
    load,
    mlx_layout,
    refused,
    save,
    write,
)

QUANTIZED = {
    "affine": Quantization(32, 4),
    "mxfp4": Quantization(32, 4, "mxfp4"),
    "nvfp4": Quantization(16, 4, "nvfp4"),
    "mxfp8": Quantization(32, 8, "mxfp8"),
}


@pytest.fixture
def by_mlx_lm(tmp_path: Path):
    """Makes a checkpoint with mlx-lm; returns its folder and its parameters by canonical name."""

    def make(name: str, quantization: Quantization | None = None) -> tuple[Path, Tensors]:
        config, tensors = golden(name)
        source = write(tmp_path / "source", config, fused(tensors))
        model, config = load_model(source)
        if quantization:
            q = quantization
            model, config = quantize_model(model, config, q.group_size, q.bits, mode=q.mode)
        save_model(tmp_path / "mlx", model)
        save_config(config, tmp_path / "mlx" / "config.json")
        loaded = load(tmp_path / "mlx" / "model.safetensors")
        return tmp_path / "mlx", {n.removeprefix("language_model."): v for n, v in loaded.items()}

    return make


@pytest.mark.parametrize("name", ["dense", "moe", "dense-tied-wide-heads"])
def test_a_plain_checkpoint(by_mlx_lm: Any, name: str):
    assert_reads(*by_mlx_lm(name))


@pytest.mark.parametrize("mode", QUANTIZED)
def test_a_quantised_checkpoint(by_mlx_lm: Any, mode: str):
    checkpoint = assert_reads(*by_mlx_lm("moe", QUANTIZED[mode]))
    mlp = "model.layers.0.mlp."
    assert checkpoint.quantization(mlp + "switch_mlp.up_proj") == QUANTIZED[mode]
    assert checkpoint.quantization("model.embed_tokens") == QUANTIZED[mode]
    assert checkpoint.quantization(mlp + "gate") == Quantization(64, 8)
    assert checkpoint.quantization("model.norm") is None
    if mode != "nvfp4":  # 48 columns are not a multiple of 32
        assert checkpoint.quantization(mlp + "shared_expert.down_proj") is None


def requantize(path: Path, module: str, quantization: Quantization | None) -> None:
    """Requantise a module of a checkpoint, without a change to config.json."""
    file = path / "model.safetensors"
    tensors = load(file)
    parts = [tensors.pop(f"{module}.{last}") for last in ("weight", "scales", "biases")]
    weight, scales, biases = parts
    plain = mx.dequantize(weight, scales, biases, 32, 4)
    if quantization is None:
        tensors[f"{module}.weight"] = plain
    else:
        packed = mx.quantize(
            plain, quantization.group_size, quantization.bits, mode=quantization.mode
        )
        tensors |= {
            f"{module}.{k}": v for k, v in zip(("weight", "scales", "biases"), packed, strict=False)
        }
    save(file, tensors)
    (path / "model.safetensors.index.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "quantization",
    # The first has the default's ratio of weight to scales, but another number of columns.
    [Quantization(64, 2), Quantization(64, 8), Quantization(32, 5), QUANTIZED["nvfp4"], None],
)
def test_a_module_whose_quantisation_is_not_in_the_config(
    by_mlx_lm: Any, quantization: Quantization | None
):
    path, _ = by_mlx_lm("dense", QUANTIZED["affine"])
    requantize(path, "language_model.model.layers.3.self_attn.q_proj", quantization)
    checkpoint = open_checkpoint(path)
    checkpoint.verify()
    assert checkpoint.quantization("model.layers.3.self_attn.q_proj") == quantization
    assert checkpoint.quantization("model.layers.3.self_attn.k_proj") == QUANTIZED["affine"]


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model.", ""])
def test_a_module_override_may_have_any_prefix(by_mlx_lm: Any, prefix: str):
    path, _ = by_mlx_lm("dense", QUANTIZED["affine"])
    module = "language_model.model.layers.3.self_attn.q_proj"
    requantize(path, module, Quantization(64, 8))
    requantize(path, module.replace("q_proj", "k_proj"), None)
    config = json.loads((path / "config.json").read_text())
    layer = prefix + ("layers." if "model." in prefix[1:] else "model.layers.")
    if prefix == "language_model.":
        layer = "language_model.model.layers."
    config["quantization"] |= {
        f"{layer}3.self_attn.q_proj": {"group_size": 64, "bits": 8},
        f"{layer}3.self_attn.k_proj": False,
        f"{layer}3.self_attn.v_proj": True,
    }
    (path / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(path)
    checkpoint.verify()
    assert checkpoint.quantization("model.layers.3.self_attn.q_proj") == Quantization(64, 8)
    assert checkpoint.quantization("model.layers.3.self_attn.k_proj") is None
    assert checkpoint.quantization("model.layers.3.self_attn.v_proj") == QUANTIZED["affine"]


def test_the_tensors_decide_where_an_override_contradicts_them(by_mlx_lm: Any):
    path, tensors = by_mlx_lm("dense", QUANTIZED["affine"])
    config = json.loads((path / "config.json").read_text())
    config["quantization"] |= {
        "language_model.lm_head": {"group_size": 32, "bits": 8},
        "language_model.model.embed_tokens": {"bits": 4},
        "language_model.model.layers.3.self_attn.q_proj": False,
    }
    (path / "config.json").write_text(json.dumps(config))
    assert_reads(path, tensors)


def test_a_config_with_quantization_config_only(by_mlx_lm: Any):
    path, tensors = by_mlx_lm("dense", QUANTIZED["affine"])
    config = json.loads((path / "config.json").read_text())
    del config["quantization"]
    (path / "config.json").write_text(json.dumps(config))
    assert_reads(path, tensors)


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ({"bits": 4}, "does not give the group_size"),
        ({"bits": 4, "group_size": 48}, "4 bits in groups of 48"),
        ({"bits": 4, "group_size": 64, "mode": "q4_k"}, "mode 'q4_k'"),
        ([4, 64], "'quantization' is [4, 64], not an object"),
        ({"bits": 4.5, "group_size": 64}, "'bits' is 4.5, not a positive whole number"),
        ({"bits": [4], "group_size": 64}, "'bits' is [4], not a number"),
        ({"bits": True, "group_size": 64}, "'bits' is True, not a number"),
        ({"bits": 4, "group_size": 2**63}, "'group_size' is 9.223372036854776e+18, more than"),
        ({"bits": 4, "group_size": 64, "mode": ["affine"]}, "'mode' is ['affine'], not a text"),
    ],
)
def test_an_invalid_mlx_quantisation_is_refused(tmp_path: Path, quantization: Any, says: str):
    config, tensors = golden()
    assert says in refused(
        write(tmp_path / "c", config | {"quantization": quantization}, mlx_layout(tensors))
    )


def test_a_quantised_tensor_of_a_wrong_width_is_refused(by_mlx_lm: Any):
    path, _ = by_mlx_lm("dense", QUANTIZED["affine"])
    file = path / "model.safetensors"
    tensors = load(file)
    tensors["language_model.lm_head.biases"] = mx.zeros((256, 3))
    save(file, tensors)
    assert "lm_head.biases' is F32 [256, 3], where affine" in refused(path)


@pytest.mark.parametrize(
    ("part", "shape"),
    [("scales", ()), ("scales", (256, 0)), ("scales", (256, 3000)), ("weight", ()),
     ("weight", (256, 1)), ("weight", (256, 500))],
)  # fmt: skip
def test_shapes_of_which_no_quantisation_follows_are_refused(
    by_mlx_lm: Any, part: str, shape: tuple[int, ...]
):
    path, _ = by_mlx_lm("dense", QUANTIZED["affine"])
    file = path / "model.safetensors"
    name = f"language_model.lm_head.{part}"
    stored = load(file)
    save(file, stored | {name: mx.zeros(shape, stored[name].dtype)})
    message = refused(path)
    assert "language_model.lm_head." in message
    assert "fetch the checkpoint again" in message


def test_nvfp4_with_a_scale_per_expert_is_refused(by_mlx_lm: Any):
    path, _ = by_mlx_lm("moe", QUANTIZED["nvfp4"])
    file = path / "model.safetensors"
    name = "model.layers.0.mlp.switch_mlp.up_proj.global_scale"
    save(file, load(file) | {f"language_model.{name}": mx.ones((8,))})
    assert f"unknown tensor '{name}'" in refused(path)
