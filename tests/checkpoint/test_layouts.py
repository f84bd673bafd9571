import copy
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

from qwen35_mlx.checkpoint.layouts import Checkpoint
from qwen35_mlx.checkpoint.recipes import Quantization
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.cases import (
    GOLDENS,
    Tensors,
    canonical,
    e4m3,
    float8,
    fused,
    golden,
    load,
    mlx_layout,
    one_by_one,
    save,
    text_only,
    with_vision,
    write,
)


def assert_reads(path: Path, wanted: Tensors) -> Checkpoint:
    """All names, shapes, dtypes and values, and no others."""
    checkpoint = Checkpoint.open(path)
    checkpoint.verify()
    assert checkpoint.names() == set(wanted)
    for name, value in wanted.items():
        got = checkpoint.read(name)
        assert (name, got.shape) == (name, checkpoint.shape(name)) == (name, value.shape)
        assert got.dtype == checkpoint.dtype(name)
        assert mx.array_equal(got.astype(mx.float32), value.astype(mx.float32)), name
    return checkpoint


@pytest.mark.parametrize("name", sorted(folder.name for folder in GOLDENS.iterdir()))
def test_published_layout(tmp_path: Path, name: str):
    config, tensors = golden(name)
    wanted = canonical(tensors)
    checkpoint = assert_reads(write(tmp_path / "c", config, with_vision(tensors)), wanted)
    assert checkpoint.has_mtp
    assert checkpoint.config == config
    assert Checkpoint.open(GOLDENS / name).names() == set(wanted)


@pytest.mark.parametrize("arrange", [fused, one_by_one])
def test_experts_fused_or_one_by_one(tmp_path: Path, arrange: Any):
    config, tensors = golden("moe")
    arranged = arrange(tensors)
    assert set(arranged) != set(tensors)
    # Two files, so that experts come in another order than their numbers'.
    assert_reads(write(tmp_path / "c", config, arranged, files=2), canonical(tensors))


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_text_only_layout(tmp_path: Path, name: str):
    config, tensors = golden(name)
    assert_reads(write(tmp_path / "c", *text_only(config, tensors)), canonical(tensors))


@pytest.mark.parametrize("name", ["dense", "moe"])
@pytest.mark.parametrize("mtp", [True, False])
def test_mlx_layout_is_taken_as_it_is_with_and_without_mtp(tmp_path: Path, name: str, mtp: bool):
    config, tensors = golden(name)
    kept = {n: v for n, v in tensors.items() if mtp or not n.startswith("mtp.")}
    checkpoint = assert_reads(write(tmp_path / "c", config, mlx_layout(kept)), canonical(kept))
    assert checkpoint.has_mtp == mtp


def test_norms_are_shifted_in_a_raw_checkpoint_without_mtp(tmp_path: Path):
    config, tensors = golden()
    kept = {n: v for n, v in tensors.items() if not n.startswith("mtp.")}
    assert_reads(write(tmp_path / "c", config, kept), canonical(kept))


@pytest.mark.parametrize("raw", [True, False])
def test_norms_are_shifted_by_the_convolution_not_by_names(tmp_path: Path, raw: bool):
    # Raw tensors under mlx-lm's prefix, and mlx-lm's tensors without it.
    config, tensors = golden()
    wanted = canonical(tensors)
    stored = wanted
    if raw:
        stored = {f"language_model.{n.replace('language_model.', '')}": tensors[n] for n in tensors}
    assert_reads(write(tmp_path / "c", config, stored), wanted)


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
    checkpoint = Checkpoint.open(write(tmp_path / "c", config, half))
    name = "model.layers.0.input_layernorm.weight"
    assert checkpoint.dtype(name) == checkpoint.read(name).dtype == mx.float32
    assert mx.array_equal(checkpoint.read(name), canonical(tensors)[name])
    plain = "model.layers.0.linear_attn.norm.weight"
    assert checkpoint.read(plain).dtype == mx.bfloat16


def test_a_tied_head_is_not_read(tmp_path: Path):
    config, tensors = golden("dense-tied-wide-heads")
    extra = tensors | {"lm_head.weight": mx.zeros((256, 64))}
    assert_reads(write(tmp_path / "c", config, extra), canonical(tensors))


@pytest.mark.parametrize("block", [(128, 128), (16, 24)])
@pytest.mark.parametrize("arrange", [fused, one_by_one])
def test_float8_with_block_scales(tmp_path: Path, arrange: Any, block: tuple[int, int]):
    # 16x24 leaves ragged blocks everywhere and puts the up half of a fused stack off a block's
    # start; 128x128 is what is published.
    config, tensors = golden("moe")
    tensors = {n: v.astype(mx.bfloat16).astype(mx.float32) for n, v in arrange(tensors).items()}
    config, stored, meant = float8(config, tensors, block)
    checkpoint = assert_reads(write(tmp_path / "c", config, stored), canonical(meant))
    assert checkpoint.dtype("model.layers.0.linear_attn.out_proj.weight") == mx.bfloat16
    assert checkpoint.dtype("mtp.layers.0.mlp.switch_mlp.up_proj.weight") == mx.bfloat16


def test_every_float8_value_is_decoded_as_defined():
    bits = np.array([b for b in range(256) if b & 127 != 127], np.uint8)
    assert np.array_equal(np.array(mx.from_fp8(mx.array(bits), mx.float32)), e4m3(bits))


@pytest.mark.parametrize("kind", ["raw", "float8", "one by one", "mlx"])
def test_row_ranges_are_slices_of_the_whole(tmp_path: Path, kind: str):
    config, tensors = golden("moe")
    stored: Any = fused(tensors) if kind == "raw" else one_by_one(tensors)
    if kind == "float8":
        config, stored, _ = float8(config, fused(tensors), (16, 24))
    elif kind == "mlx":
        stored = mlx_layout(tensors)
    checkpoint = Checkpoint.open(write(tmp_path / "c", config, stored, files=2))
    rng = np.random.default_rng(0)
    for name in checkpoint.names():
        whole, rows = checkpoint.read(name), checkpoint.shape(name)[0]
        for _ in range(3):
            start, stop = sorted(map(int, rng.integers(0, rows + 1, 2)))
            got = checkpoint.read(name, start, stop)
            assert got.dtype == whole.dtype
            assert mx.array_equal(got, whole[start:stop]), (name, start, stop)


QUANTIZED = {
    "affine": Quantization(32, 4),
    "mxfp4": Quantization(32, 4, "mxfp4"),
    "nvfp4": Quantization(16, 4, "nvfp4"),
    "mxfp8": Quantization(32, 8, "mxfp8"),
}


@pytest.fixture
def by_mlx_lm(tmp_path: Path):
    """A checkpoint that mlx-lm wrote: its folder and the parameters that went in."""

    def make(name: str, wanted: Quantization | None = None) -> tuple[Path, Tensors]:
        config, tensors = golden(name)
        source = write(tmp_path / "source", config, fused(tensors))
        model, config = load_model(source)
        if wanted:
            how = (wanted.group_size, wanted.bits)
            model, config = quantize_model(model, config, *how, mode=wanted.mode)
        save_model(tmp_path / "mlx", model)
        save_config(config, tmp_path / "mlx" / "config.json")
        loaded = load(tmp_path / "mlx" / "model.safetensors")
        return tmp_path / "mlx", {n.removeprefix("language_model."): v for n, v in loaded.items()}

    return make


@pytest.mark.parametrize("name", ["dense", "moe", "dense-tied-wide-heads"])
def test_what_mlx_lm_writes(by_mlx_lm: Any, name: str):
    assert_reads(*by_mlx_lm(name))


@pytest.mark.parametrize("mode", QUANTIZED)
def test_what_mlx_lm_quantises(by_mlx_lm: Any, mode: str):
    checkpoint = assert_reads(*by_mlx_lm("moe", QUANTIZED[mode]))
    assert checkpoint.default_quantization == QUANTIZED[mode]
    mlp = "model.layers.0.mlp."
    assert checkpoint.quantization(mlp + "switch_mlp.up_proj") == QUANTIZED[mode]
    assert checkpoint.quantization("model.embed_tokens") == QUANTIZED[mode]
    assert checkpoint.quantization(mlp + "gate") == Quantization(64, 8)
    assert checkpoint.quantization("model.norm") is None
    if mode != "nvfp4":  # 48 columns are no multiple of 32.
        assert checkpoint.quantization(mlp + "shared_expert.down_proj") is None


def requantize(path: Path, module: str, how: Quantization | None) -> None:
    """Store a module of a quantised checkpoint otherwise, without a word in config.json."""
    file = path / "model.safetensors"
    tensors = load(file)
    parts = [tensors.pop(f"{module}.{last}") for last in ("weight", "scales", "biases")]
    weight, scales, biases = parts
    plain = mx.dequantize(weight, scales, biases, 32, 4)
    if how is None:
        tensors[f"{module}.weight"] = plain
    else:
        packed = mx.quantize(plain, how.group_size, how.bits, mode=how.mode)
        tensors |= {
            f"{module}.{k}": v for k, v in zip(("weight", "scales", "biases"), packed, strict=False)
        }
    save(file, tensors)
    (path / "model.safetensors.index.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "how",
    # The first has the default's ratio of weight to scales: shapes alone do not tell, sizes do.
    [Quantization(64, 2), Quantization(64, 8), Quantization(32, 5), QUANTIZED["nvfp4"], None],
)
def test_a_module_whose_packing_config_does_not_name(by_mlx_lm: Any, how: Quantization | None):
    path, _ = by_mlx_lm("dense", QUANTIZED["affine"])
    requantize(path, "language_model.model.layers.3.self_attn.q_proj", how)
    checkpoint = Checkpoint.open(path)
    checkpoint.verify()
    assert checkpoint.quantization("model.layers.3.self_attn.q_proj") == how
    assert checkpoint.quantization("model.layers.3.self_attn.k_proj") == QUANTIZED["affine"]


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model.", ""])
def test_overrides_are_found_under_any_prefix(by_mlx_lm: Any, prefix: str):
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
    checkpoint = Checkpoint.open(path)
    checkpoint.verify()
    assert checkpoint.quantization("model.layers.3.self_attn.q_proj") == Quantization(64, 8)
    assert checkpoint.quantization("model.layers.3.self_attn.k_proj") is None
    assert checkpoint.quantization("model.layers.3.self_attn.v_proj") == QUANTIZED["affine"]


def test_an_override_that_the_shapes_contradict(by_mlx_lm: Any):
    path, _ = by_mlx_lm("dense", QUANTIZED["affine"])
    config = json.loads((path / "config.json").read_text())
    config["quantization"]["language_model.lm_head"] = {"group_size": 32, "bits": 8}
    (path / "config.json").write_text(json.dumps(config))
    assert "'lm_head.weight' has shape [256, 8] where config.json asks for [256, 16]" in refused(
        path
    )


def test_a_config_that_says_it_only_in_quantization_config(by_mlx_lm: Any):
    path, tensors = by_mlx_lm("dense", QUANTIZED["affine"])
    config = json.loads((path / "config.json").read_text())
    del config["quantization"]
    (path / "config.json").write_text(json.dumps(config))
    assert_reads(path, tensors)


def test_the_mtp_file_is_read_though_the_index_does_not_name_it(tmp_path: Path):
    config, tensors = golden()
    trunk = {n: v for n, v in tensors.items() if not n.startswith("mtp.")}
    path = write(tmp_path / "c", config, trunk, files=2)
    save(path / "mtp.safetensors", {n: v for n, v in tensors.items() if n.startswith("mtp.")})
    assert_reads(path, canonical(tensors))


def test_a_left_over_file_the_index_does_not_name_is_not_read(tmp_path: Path):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, files=2)
    save(path / "model-00003-of-00003.safetensors", {"other": mx.zeros((1,))})
    assert_reads(path, canonical(tensors))


def test_of_a_tensor_in_two_files_the_index_chooses(tmp_path: Path):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, files=2)
    index = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    for file in path.glob("*.safetensors"):
        other = next(name for name in index if index[name] != file.name)
        save(file, load(file) | {other: mx.zeros((1,))})
    assert_reads(path, canonical(tensors))


def test_shards_without_an_index(tmp_path: Path):
    config, tensors = golden()
    assert_reads(write(tmp_path / "c", config, tensors, files=3, index=False), canonical(tensors))


def refused(path: Path) -> str:
    with pytest.raises(Qwen35Error) as caught:
        Checkpoint.open(path).verify()
    message = str(caught.value)
    assert "\n" not in message
    assert "/" in message or "config.json" in message
    return message


def test_a_missing_tensor_is_named_with_the_missing_shard(tmp_path: Path):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, files=3, index=False)
    (path / "model-00002-of-00003.safetensors").unlink()
    message = refused(path)
    assert "has no tensor 'm" in message
    assert "model-00002-of-00003.safetensors is missing, fetch it" in message


def test_a_stale_index(tmp_path: Path):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, files=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    message = refused(path)
    assert "model-00002-of-00003.safetensors is missing, which model.safetensors.index" in message


def test_an_index_that_places_a_tensor_wrongly(tmp_path: Path):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, files=2)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"]["mtp.fc.bias"] = "model-00001-of-00002.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "00001-of-00002.safetensors has no tensor 'mtp.fc.bias'" in refused(path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {"a": 1}}'])
def test_an_unreadable_index(tmp_path: Path, text: str):
    path = write(tmp_path / "c", *golden())
    (path / "model.safetensors.index.json").write_text(text)
    assert "index.json" in refused(path)


def test_an_index_that_leaves_its_folder(tmp_path: Path):
    path = write(tmp_path / "c", *golden())
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
    assert "outside its folder" in refused(path)


@pytest.mark.parametrize(
    "gone",
    [
        "lm_head.weight",
        "model.language_model.layers.1.linear_attn.A_log",
        "model.language_model.layers.3.self_attn.q_norm.weight",
        "mtp.fc.weight",
        "mtp.layers.0.mlp.up_proj.weight",
    ],
)
def test_a_missing_tensor(tmp_path: Path, gone: str):
    config, tensors = golden()
    del tensors[gone]
    message = refused(write(tmp_path / "c", config, tensors))
    assert f"has no tensor '{gone.replace('language_model.', '')}'" in message


@pytest.mark.parametrize("gone", ["0.up_proj", "3.gate_proj", "7.down_proj"])
def test_a_missing_expert(tmp_path: Path, gone: str):
    config, tensors = golden("moe")
    del tensors[f"mtp.layers.0.mlp.experts.{gone}.weight"]
    message = refused(write(tmp_path / "c", config, tensors))
    assert f"no expert {gone[0]} for 'mtp.layers.0.mlp.switch_mlp.{gone[2:]}.weight'" in message


def test_an_expert_of_another_shape(tmp_path: Path):
    config, tensors = golden("moe")
    tensors["mtp.layers.0.mlp.experts.2.up_proj.weight"] = mx.zeros((31, 64))
    assert "experts.2.up_proj.weight' is F32 [31, 64]" in refused(
        write(tmp_path / "c", config, tensors)
    )


@pytest.mark.parametrize(
    "extra",
    [
        "model.language_model.layers.4.input_layernorm.weight",
        "model.language_model.layers.0.self_attn.q_proj.bias",
        "mtp.layers.1.input_layernorm.weight",
        "mtp.fc.weight_scale_inv",
        "surprise",
    ],
)
def test_an_extra_tensor(tmp_path: Path, extra: str):
    config, tensors = golden()
    message = refused(write(tmp_path / "c", config, tensors | {extra: mx.zeros((64,))}))
    assert f"unknown tensor '{extra.replace('language_model.', '')}'" in message


def test_a_wrong_shape(tmp_path: Path):
    config, tensors = golden()
    tensors["lm_head.weight"] = mx.zeros((256, 63))
    message = refused(write(tmp_path / "c", config, tensors))
    assert "'lm_head.weight' has shape [256, 63] where config.json asks for [256, 64]" in message


def test_a_wrong_dtype(tmp_path: Path):
    config, tensors = golden()
    tensors["lm_head.weight"] = mx.zeros((256, 64), mx.uint32)
    assert "'lm_head.weight' has the dtype U32" in refused(write(tmp_path / "c", config, tensors))


def test_the_same_tensor_under_two_names(tmp_path: Path):
    config, tensors = golden()
    tensors["model.norm.weight"] = tensors["model.language_model.norm.weight"]
    assert "both hold 'model.norm.weight'" in refused(write(tmp_path / "c", config, tensors))


def test_the_same_tensor_in_two_files(tmp_path: Path):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, index=False)
    save(path / "model-2.safetensors", {"mtp.fc.weight": tensors["mtp.fc.weight"]})
    assert "both hold 'mtp.fc.weight'" in refused(path)


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "quantisation by 'gptq'"),
        ({"quant_method": "awq", "bits": 4}, "quantisation by 'awq'"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "by 'bitsandbytes'"),
        ({"quant_method": "compressed-tensors"}, "by 'compressed-tensors'"),
        ({"quant_algo": "NVFP4"}, "is not read here"),
        ({"quant_method": "fp8", "weight_block_size": None}, "weight_block_size None"),
    ],
)
def test_an_unknown_quantisation(tmp_path: Path, quantization: dict[str, Any], says: str):
    config, tensors = golden()
    path = write(tmp_path / "c", config | {"quantization_config": quantization}, tensors)
    assert says in refused(path)


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ({"bits": 4}, "does not give the group_size"),
        ({"bits": 4, "group_size": 48}, "4 bits in groups of 48"),
        ({"bits": 4, "group_size": 64, "mode": "q4_k"}, "mode q4_k"),
        ({"bits": 4, "group_size": 64, "lm_head": {"bits": 4}}, "'lm_head' does not give"),
    ],
)
def test_a_damaged_mlx_quantisation(tmp_path: Path, quantization: dict[str, Any], says: str):
    config, tensors = golden()
    assert says in refused(
        write(tmp_path / "c", config | {"quantization": quantization}, mlx_layout(tensors))
    )


def test_float8_without_scales_or_with_others(tmp_path: Path):
    config, tensors = golden()
    config, stored, _ = float8(config, tensors)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    scales = stored.pop(name + "_scale_inv")
    assert f"'{name}' has no '{name}_scale_inv'" in refused(write(tmp_path / "c", config, stored))
    stored[name + "_scale_inv"] = mx.ones((2, 1))
    assert "is F32 [2, 1] where blocks of 128x128 need" in refused(
        write(tmp_path / "d", config, stored)
    )
    stored[name + "_scale_inv"] = scales
    Checkpoint.open(write(tmp_path / "e", config, stored)).verify()


def test_a_quantised_tensor_of_the_wrong_width(by_mlx_lm: Any):
    path, _ = by_mlx_lm("dense", QUANTIZED["affine"])
    file = path / "model.safetensors"
    tensors = load(file)
    tensors["language_model.lm_head.biases"] = mx.zeros((256, 3))
    save(file, tensors)
    assert "'lm_head.biases' has shape [256, 3]" in refused(path)


def test_nvfp4_with_a_scale_per_expert_is_not_taken_for_one_without(by_mlx_lm: Any):
    path, _ = by_mlx_lm("moe", QUANTIZED["nvfp4"])
    file = path / "model.safetensors"
    name = "model.layers.0.mlp.switch_mlp.up_proj.global_scale"
    save(file, load(file) | {f"language_model.{name}": mx.ones((8,))})
    assert f"unknown tensor '{name}'" in refused(path)


def test_a_folder_that_is_no_checkpoint(tmp_path: Path):
    assert "does not exist" in refused(tmp_path / "c")
    (tmp_path / "f").touch()
    assert "is a file" in refused(tmp_path / "f")
    assert "has no config.json" in refused(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "config.json is not JSON" in refused(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "config.json does not hold a JSON object" in refused(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(golden()[0]))
    assert "has no weights" in refused(tmp_path)
    (tmp_path / "m.gguf").touch()
    assert "has a GGUF file" in refused(tmp_path)


def test_another_model(tmp_path: Path):
    config, tensors = golden()
    config = copy.deepcopy(config) | {"model_type": "llama"}
    assert "'llama', which is not Qwen3.5" in refused(write(tmp_path / "c", config, tensors))
