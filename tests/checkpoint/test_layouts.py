"""Plain and float-8 checkpoints in every layout are read as the same tensors."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.opening import open_checkpoint
from tests.checkpoint.cases import (
    GOLDENS,
    assert_reads,
    canonical,
    e4m3,
    float8,
    fused,
    golden,
    mlx_layout,
    one_by_one,
    text_only,
    with_vision,
    write,
)


@pytest.mark.parametrize("name", sorted(folder.name for folder in GOLDENS.iterdir()))
def test_published_layout(tmp_path: Path, name: str):
    config, tensors = golden(name)
    expected = canonical(tensors)
    checkpoint = assert_reads(write(tmp_path / "c", config, with_vision(tensors)), expected)
    assert checkpoint.has_mtp
    assert checkpoint.config == config
    assert open_checkpoint(GOLDENS / name).names() == set(expected)


@pytest.mark.parametrize("arrange", [fused, one_by_one])
def test_experts_in_one_tensor_or_one_tensor_each(tmp_path: Path, arrange: Any):
    config, tensors = golden("moe")
    arranged = arrange(tensors)
    assert set(arranged) != set(tensors)
    # Two files, so that the experts are not read in numerical order.
    assert_reads(write(tmp_path / "c", config, arranged, files=2), canonical(tensors))


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_text_only_layout(tmp_path: Path, name: str):
    config, tensors = golden(name)
    assert_reads(write(tmp_path / "c", *text_only(config, tensors)), canonical(tensors))


@pytest.mark.parametrize("name", ["dense", "moe"])
@pytest.mark.parametrize("mtp", [True, False])
def test_mlx_layout_with_and_without_mtp(tmp_path: Path, name: str, mtp: bool):
    config, tensors = golden(name)
    kept = {n: v for n, v in tensors.items() if mtp or not n.startswith("mtp.")}
    checkpoint = assert_reads(write(tmp_path / "c", config, mlx_layout(kept)), canonical(kept))
    assert checkpoint.has_mtp == mtp


def test_norms_of_a_published_checkpoint_without_mtp_are_shifted(tmp_path: Path):
    config, tensors = golden()
    kept = {n: v for n, v in tensors.items() if not n.startswith("mtp.")}
    assert_reads(write(tmp_path / "c", config, kept), canonical(kept))


@pytest.mark.parametrize("raw", [True, False])
def test_the_convolution_decides_whether_norms_are_shifted(tmp_path: Path, raw: bool):
    # Published tensors with mlx-lm's prefix, and mlx-lm's tensors without it.
    config, tensors = golden()
    expected = canonical(tensors)
    stored = expected
    if raw:
        stored = {f"language_model.{n.replace('language_model.', '')}": tensors[n] for n in tensors}
    assert_reads(write(tmp_path / "c", config, stored), expected)


@pytest.mark.parametrize("raw", [True, False])
def test_norms_of_a_model_without_convolutions(tmp_path: Path, raw: bool):
    config, tensors = golden()
    config["text_config"] |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    kept = {
        name.replace("layers.3.", "layers.0."): value
        for name, value in tensors.items()
        if "layers.3." in name or "model.language_model.layers." not in name
    }
    stored = kept if raw else mlx_layout(kept)
    assert_reads(write(tmp_path / "c", config, stored), canonical(kept))


def test_the_shift_of_norms_is_exact_for_bfloat16(tmp_path: Path):
    # 1 + w needs more than bfloat16's 8 bits of mantissa.
    config, tensors = golden()
    half = {n: v.astype(mx.bfloat16) for n, v in tensors.items()}
    checkpoint = open_checkpoint(write(tmp_path / "c", config, half))
    name = "model.layers.0.input_layernorm.weight"
    assert checkpoint.dtype(name) == checkpoint.read(name).dtype == mx.float32
    assert mx.array_equal(checkpoint.read(name), canonical(tensors)[name])
    plain = "model.layers.0.linear_attn.norm.weight"
    assert checkpoint.read(plain).dtype == mx.bfloat16


def test_a_head_that_is_there_is_read_whatever_the_config_says_of_ties(tmp_path: Path):
    config, tensors = golden("dense-tied-wide-heads")
    extra = tensors | {"lm_head.weight": mx.ones((256, 64))}
    checkpoint = assert_reads(write(tmp_path / "c", config, extra), canonical(extra))
    assert "the weights have an lm_head: it is used" in checkpoint.notes[0]


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod."]
)
def test_prefixes_of_other_programs_are_removed(tmp_path: Path, prefix: str):
    config, tensors = golden("moe")
    renamed = {f"{prefix}{name}": value for name, value in tensors.items()}
    assert_reads(write(tmp_path / "c", config, renamed), canonical(tensors))


def test_a_save_of_the_bare_model_is_read(tmp_path: Path):
    # AutoModel has neither an output head nor the prefix of the text model.
    config, tensors = golden("dense-tied-wide-heads")
    kept = {n: v for n, v in tensors.items() if not n.startswith("mtp.")}
    for folder, bare in (("text", "model.language_model."), ("whole", "model.")):
        renamed = {name.removeprefix(bare): value for name, value in kept.items()}
        assert_reads(write(tmp_path / folder, config, renamed), canonical(kept))


@pytest.mark.parametrize("block", [(128, 128), (16, 24)])
@pytest.mark.parametrize("arrange", [fused, one_by_one])
def test_float8_with_block_scales(tmp_path: Path, arrange: Any, block: tuple[int, int]):
    # 128x128 is the published size. 16x24 divides no matrix, and the up half of a fused stack
    # starts inside a block.
    config, tensors = golden("moe")
    tensors = {n: v.astype(mx.bfloat16).astype(mx.float32) for n, v in arrange(tensors).items()}
    config, stored, meant = float8(config, tensors, block)
    checkpoint = assert_reads(write(tmp_path / "c", config, stored), canonical(meant))
    assert checkpoint.dtype("model.layers.0.linear_attn.out_proj.weight") == mx.bfloat16
    assert checkpoint.dtype("mtp.layers.0.mlp.switch_mlp.up_proj.weight") == mx.bfloat16


def test_mlx_decodes_every_float8_value_by_its_definition():
    bits = np.array([b for b in range(256) if b & 127 != 127], np.uint8)
    assert np.array_equal(np.array(mx.from_fp8(mx.array(bits), mx.float32)), e4m3(bits))


@pytest.mark.parametrize("layout", ["raw", "float8", "one by one", "mlx"])
def test_row_ranges_are_slices_of_the_whole(tmp_path: Path, layout: str):
    config, tensors = golden("moe")
    stored: Any = fused(tensors) if layout == "raw" else one_by_one(tensors)
    if layout == "float8":
        config, stored, _ = float8(config, fused(tensors), (16, 24))
    elif layout == "mlx":
        stored = mlx_layout(tensors)
    checkpoint = open_checkpoint(write(tmp_path / "c", config, stored, files=2))
    rng = np.random.default_rng(0)
    for name in checkpoint.names():
        whole, rows = checkpoint.read(name), checkpoint.shape(name)[0]
        for _ in range(3):
            start, stop = sorted(map(int, rng.integers(0, rows + 1, 2)))
            got = checkpoint.read(name, start, stop)
            assert got.dtype == whole.dtype
            assert mx.array_equal(got, whole[start:stop]), (name, start, stop)
