"""A fingerprint belongs to one network: its weights and how it computes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.prompt_cache.fingerprint import of_network, of_weights
from qwen35_mlx.session.load import load


def of_folder(path: Path) -> str:
    return of_weights(list(path.glob("*.safetensors")))


def test_equal_for_a_copy_and_different_for_changed_weights(model_folder, tmp_path):
    copy = Path(shutil.copytree(model_folder, tmp_path / "copy"))
    assert of_folder(copy) == of_folder(model_folder)
    file = copy / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert of_folder(copy) != of_folder(model_folder)


def test_never_changes_for_the_same_weights(tmp_path):
    """Stored snapshots are found by it, also those that an earlier version stored."""
    write_weights(tmp_path / "model.safetensors")
    assert of_folder(tmp_path) == "d598bd0011a246856f4a4d598b3d6a5f"


def write_weights(file):
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "F32", "shape": [700], "data_offsets": [8, 2808]},
        "a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
    }
    text = json.dumps(header).encode()
    data = bytes(i % 251 for i in range(2808))
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is truncated"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        ((3).to_bytes(8, "little") + b"{ ]", "has an unreadable safetensors header"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, says):
    write_weights(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(content)
    with pytest.raises(Qwen35Error, match=rf"b\.safetensors {says}"):
        of_folder(tmp_path)


def test_every_tensor_is_sampled(model_folder, tmp_path):
    copy = Path(shutil.copytree(model_folder, tmp_path / "copy"))
    file = copy / "model.safetensors"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    for name, entry in list(header.items())[:30]:
        if name == "__metadata__":
            continue
        damaged = bytearray(whole)
        damaged[8 + length + entry["data_offsets"][0]] ^= 1
        file.write_bytes(damaged)
        assert of_folder(copy) != of_folder(model_folder), name


def test_different_for_every_way_to_compute(model):
    config = model.network.config
    ones = {
        of_network("w", config, "float32", None),
        of_network("x", config, "float32", None),
        of_network("w", config, "bfloat16", None),
        of_network("w", config, "float32", 8),
        of_network("w", config.with_context(4 * config.max_position_embeddings), "float32", None),
        of_network("w", replace(config, rms_norm_eps=1e-5), "float32", None),
    }
    assert len(ones) == 6


@pytest.mark.parametrize("bits", [3, 4, 16])
def test_unsupported_kv_bits_are_refused(model_folder, bits):
    with pytest.raises(Qwen35Error, match=f"kv_bits is {bits}"):
        load(model_folder, kv_bits=bits)


def test_eight_bit_keys_and_values_are_close_and_smaller(model_folder, model):
    packed = load(model_folder, kv_bits=8)
    ids = [(7 * i) % 300 for i in range(200)]
    difference = abs(packed.logits(ids) - model.logits(ids)).max()
    assert 0 < difference < 0.1
    sizes = []
    for one in (packed, model):
        cache = one.make_cache()
        one.network(mx.array([ids]), cache)
        sizes.append(sum(a.nbytes for layer in cache.layers[3::4] for a in layer.arrays))
    assert sizes[0] < 0.4 * sizes[1]
