"""Which files of a checkpoint folder are read, and the errors of broken folders."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.prompt_cache.fingerprint import of_weights
from tests.checkpoint.cases import (
    Raw,
    assert_reads,
    canonical,
    float8,
    golden,
    load,
    one_by_one,
    refused,
    save,
    write,
)

EXPERTS = "model.language_model.layers.0.mlp.experts"


def test_the_mtp_file_is_read_without_being_in_the_index(tmp_path: Path):
    config, tensors = golden()
    trunk = {n: v for n, v in tensors.items() if not n.startswith("mtp.")}
    path = write(tmp_path / "c", config, trunk, files=2)
    save(path / "mtp.safetensors", {n: v for n, v in tensors.items() if n.startswith("mtp.")})
    assert_reads(path, canonical(tensors))


def test_a_file_that_is_not_in_the_index_is_not_read(tmp_path: Path):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, files=2)
    save(path / "model-00003-of-00003.safetensors", {"other": mx.zeros((1,))})
    assert_reads(path, canonical(tensors))


def test_the_index_decides_between_two_files_with_one_tensor(tmp_path: Path):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, files=2)
    index = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    for file in path.glob("*.safetensors"):
        other = next(name for name in index if index[name] != file.name)
        save(file, load(file) | {other: mx.zeros((1,))})
    assert_reads(path, canonical(tensors))


def test_shards_without_an_index_are_read(tmp_path: Path):
    config, tensors = golden()
    assert_reads(write(tmp_path / "c", config, tensors, files=3, index=False), canonical(tensors))


def test_the_error_of_a_missing_tensor_names_the_missing_shard(tmp_path: Path):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, files=3, index=False)
    (path / "model-00002-of-00003.safetensors").unlink()
    message = refused(path)
    assert "has no tensor 'm" in message
    assert "model-00002-of-00003.safetensors is missing, fetch it" in message


def test_an_index_that_names_a_missing_file_is_refused(tmp_path: Path):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, files=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    message = refused(path)
    assert "model-00002-of-00003.safetensors is missing, which model.safetensors.index" in message


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_left_over_index_beside_a_whole_file_is_not_read(tmp_path: Path, left: int):
    config, tensors = golden()
    old = {name: value * 2 for name, value in tensors.items()}
    path = write(tmp_path / "c", config, old, files=3)
    for number in range(left, 3):
        (path / f"model-0000{number + 1}-of-00003.safetensors").unlink()
    save(path / "model.safetensors", tensors)
    checkpoint = assert_reads(path, canonical(tensors))
    (note,) = checkpoint.notes
    assert note.startswith("model.safetensors is read; model.safetensors.index.json and the files")
    # The same without the index.
    (path / "model.safetensors.index.json").unlink()
    assert assert_reads(path, canonical(tensors)).notes == ()


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("files", [1, 2])
def test_copies_under_names_of_other_programs_are_not_read(tmp_path: Path, index: bool, files: int):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, files=files, index=index)
    for name in ("consolidated.safetensors", "consolidated-00001-of-00001.safetensors"):
        save(path / name, {n: v * 2 for n, v in tensors.items()})
    save(path / "copy of model.safetensors", {n: v * 2 for n, v in tensors.items()})
    assert assert_reads(path, canonical(tensors)).notes == ()


def test_an_index_that_names_the_wrong_file_is_refused(tmp_path: Path):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, files=2)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.bias"] = "model-00001-of-00002.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "00001-of-00002.safetensors has no tensor 'lm_head.bias'" in refused(path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {"a": 1}}'])
def test_an_unreadable_index_is_refused(tmp_path: Path, text: str):
    path = write(tmp_path / "c", *golden())
    (path / "model.safetensors.index.json").write_text(text)
    assert "index.json" in refused(path)


def test_an_index_that_names_a_file_outside_is_refused(tmp_path: Path):
    path = write(tmp_path / "c", *golden())
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
    assert "outside its folder" in refused(path)


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/dev/zero", "/x.safetensors", ".", "..", "", "a\0b.safetensors",
     "x" * 300 + ".safetensors", "é" * 200 + ".safetensors", "sub/model.safetensors",
     "a\nb.safetensors", "config.json"],
)  # fmt: skip
def test_an_index_names_only_weights_of_its_folder(tmp_path: Path, name: str):
    path = write(tmp_path / "c", *golden())
    (path / "sub").mkdir()
    shutil.copy(path / "model.safetensors", path / "sub")
    index = {"weight_map": {"a": name}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    message = refused(path)
    assert "is outside its folder or has no name of a safetensors file" in message
    assert len(message) < 400


def test_a_tensor_that_the_index_lists_twice_is_refused(tmp_path: Path):
    path = write(tmp_path / "c", *golden())
    index = '{"weight_map": {"a": "model.safetensors", "a": "mtp.safetensors"}}'
    (path / "model.safetensors.index.json").write_text(index)
    assert "a key appears twice" in refused(path)


def put_link_to_itself(file: Path) -> None:
    file.symlink_to(file)


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, put_link_to_itself])
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model.safetensors.index.json"]
)
def test_only_regular_files_are_opened(tmp_path: Path, name: str, put: Any):
    path = write(tmp_path / "c", *golden())
    (path / name).unlink(missing_ok=True)
    put(path / name)
    message = refused(path)
    assert (
        f"{name} cannot be read" in message
        or f"cannot read {path / name}" in message
        or (f"{name} is missing" in message)
    )


def test_a_pipe_that_no_index_names_does_not_stop_a_fingerprint(tmp_path: Path):
    path = write(tmp_path / "c", *golden())
    os.mkfifo(path / "other.safetensors")
    assert_reads(path, canonical(golden()[1]))
    of_weights(open_checkpoint(path).files)
    with pytest.raises(Qwen35Error, match="not a regular file"):
        of_weights([path / "other.safetensors"])


@pytest.mark.parametrize(
    "gone",
    [
        "lm_head.weight",
        "model.language_model.layers.1.linear_attn.A_log",
        "model.language_model.layers.3.self_attn.q_norm.weight",
    ],
)
def test_a_missing_tensor_is_named(tmp_path: Path, gone: str):
    config, tensors = golden()
    del tensors[gone]
    message = refused(write(tmp_path / "c", config, tensors))
    assert f"has no tensor '{gone.replace('language_model.', '')}'" in message


@pytest.mark.parametrize("gone", ["0.up_proj", "3.gate_proj", "7.down_proj"])
def test_a_missing_expert_is_named(tmp_path: Path, gone: str):
    config, tensors = golden("moe")
    tensors = one_by_one(tensors)
    del tensors[f"{EXPERTS}.{gone}.weight"]
    message = refused(write(tmp_path / "c", config, tensors))
    assert f"no expert {gone[0]} for 'model.layers.0.mlp.switch_mlp.{gone[2:]}.weight'" in message


def test_an_expert_of_another_shape_is_named(tmp_path: Path):
    config, tensors = golden("moe")
    tensors = one_by_one(tensors)
    tensors[f"{EXPERTS}.2.up_proj.weight"] = mx.zeros((31, 64))
    assert "experts.2.up_proj.weight' is F32 [31, 64]" in refused(
        write(tmp_path / "c", config, tensors)
    )


@pytest.mark.parametrize(
    "extra",
    [
        "model.language_model.layers.4.input_layernorm.weight",
        "surprise",
    ],
)
def test_an_unknown_tensor_is_named(tmp_path: Path, extra: str):
    config, tensors = golden()
    message = refused(write(tmp_path / "c", config, tensors | {extra: mx.zeros((64,))}))
    assert f"unknown tensor '{extra.replace('language_model.', '')}'" in message


def test_tensors_for_other_programs_are_named_and_not_read(tmp_path: Path):
    config, tensors = golden()
    layer = "model.language_model.layers.3.self_attn."
    more = {"k_scale": (), "q_proj.input_scale": (1,), "q_proj.bias": (512,)}
    more = {f"{layer}{name}": mx.zeros(shape) for name, shape in more.items()}
    more["mtp.fc.weight_scale_inv"] = mx.ones((1, 1))  # left by a program that dequantised
    checkpoint = assert_reads(write(tmp_path / "c", config, tensors | more), canonical(tensors))
    (note,) = checkpoint.notes
    assert note.startswith("not read, as only other programs use them: '")
    assert note.endswith("' and 2 more tensors")


def test_a_bias_that_is_not_zero_is_refused(tmp_path: Path):
    config, tensors = golden()
    name = "model.language_model.layers.3.self_attn.q_proj.bias"
    message = refused(write(tmp_path / "c", config, tensors | {name: mx.ones((512,))}))
    assert f"'{name}' is a bias that is not zero" in message


def test_a_wrong_shape_is_named(tmp_path: Path):
    config, tensors = golden()
    tensors["lm_head.weight"] = mx.zeros((256, 63))
    message = refused(write(tmp_path / "c", config, tensors))
    assert "'lm_head.weight' has shape [256, 63] where config.json asks for [256, 64]" in message


def test_a_wrong_dtype_is_named(tmp_path: Path):
    config, tensors = golden()
    tensors["lm_head.weight"] = mx.zeros((256, 64), mx.uint32)
    assert "'lm_head.weight' is U32 [256, 64], but 'lm_head' has no scales" in refused(
        write(tmp_path / "c", config, tensors)
    )


def test_one_tensor_under_two_names_is_refused(tmp_path: Path):
    config, tensors = golden()
    tensors["model.norm.weight"] = tensors["model.language_model.norm.weight"]
    assert "both hold 'model.norm.weight'" in refused(write(tmp_path / "c", config, tensors))


def test_one_tensor_in_two_files_is_refused(tmp_path: Path):
    config, tensors = golden()
    path = write(tmp_path / "c", config, tensors, index=False)
    save(path / "model-2.safetensors", {"mtp.fc.weight": tensors["mtp.fc.weight"]})
    assert "both hold 'mtp.fc.weight'" in refused(path)


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "by 'bitsandbytes'"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size [0, 128]"),
        ({"quant_method": "fp8", "weight_block_size": [-128, 128]}, "weight_block_size [-128"),
        ({"quant_method": "fp8", "weight_block_size": [128, 2**31]}, "[128, 2147483648]"),
        ({"quant_method": ["fp8"]}, "quantisation by ['fp8']"),
        (5, "'quantization_config' is 5, not an object"),
        ("group_size", "'quantization_config' is 'group_size', not an object"),
    ],
)
def test_an_unsupported_quantisation_is_named(tmp_path: Path, quantization: Any, says: str):
    config, tensors = golden()
    path = write(tmp_path / "c", config | {"quantization_config": quantization}, tensors)
    assert says in refused(path)


def test_float8_with_missing_or_wrong_scales_is_refused(tmp_path: Path):
    config, tensors = golden()
    config, stored, _ = float8(config, tensors)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    scales = stored.pop(name + "_scale_inv")
    message = refused(write(tmp_path / "c", config, stored))
    assert f"'{name}' is F8_E4M3 [96, 64], but" in message
    assert "has no weight_scale_inv or weight_scale" in message
    stored[name + "_scale_inv"] = mx.ones((2, 1))
    assert "is F32 [2, 1], which fits neither [96, 64] nor its blocks" in refused(
        write(tmp_path / "d", config, stored)
    )
    stored[name + "_scale_inv"] = scales
    open_checkpoint(write(tmp_path / "e", config, stored)).verify()


def test_a_float8_tensor_without_rows_is_refused(tmp_path: Path):
    config, stored, _ = float8(*golden())
    name = "model.language_model.norm.weight"
    stored |= {name: Raw("F8_E4M3", (), b"0"), f"{name}_scale_inv": mx.ones(())}
    message = refused(write(tmp_path / "c", config, stored))
    assert f"'{name}' is F8_E4M3 [], which is no matrix" in message


@pytest.mark.parametrize(
    ("extra", "shape", "says"),
    [
        # 128 digits, other digits and leading zeros are no numbers of experts.
        (f"{EXPERTS}.{'9' * 128}.up_proj.weight", (32, 64), "unknown tensor"),
        (f"{EXPERTS}.٣.up_proj.weight", (32, 64), "unknown tensor"),
        (f"{EXPERTS}.01.up_proj.weight", (32, 64), "unknown tensor"),
        (f"{EXPERTS}.999999.up_proj.weight", (32, 64), "no expert 8"),
        (f"{EXPERTS}.gate_up_proj", (8, 64, 64), "both hold 'model.layers.0.mlp.switch_mlp.gate"),
        (f"{EXPERTS}.down_proj", (8, 64, 32), "both hold 'model.layers.0.mlp.switch_mlp.down"),
        (f"{EXPERTS}.gate_up_proj", (8, 65, 64), "65 rows, which are not 2 matrices"),
        (f"{EXPERTS}.gate_up_proj", (0, 64, 64), "no stack of matrices for 8 experts"),
    ],
)
def test_odd_experts_are_refused(tmp_path: Path, extra: str, shape: tuple[int, ...], says: str):
    config, tensors = golden("moe")
    stored = one_by_one(tensors) | {extra: mx.zeros(shape)}
    assert says in refused(write(tmp_path / "c", config, stored))


def test_folders_that_are_not_checkpoints(tmp_path: Path):
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


def test_another_model_is_refused(tmp_path: Path):
    config, tensors = golden()
    config = copy.deepcopy(config) | {"model_type": "llama"}
    assert "'llama', which is not Qwen3.5" in refused(write(tmp_path / "c", config, tensors))
