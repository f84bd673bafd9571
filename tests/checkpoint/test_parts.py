"""The parts of a checkpoint that processes read, against slices of the whole."""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.gguf.requantized import requantized
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import PackedMatrix
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import Shard
from qwen35_mlx.model.split import Part, own_name, part_of
from tests.checkpoint.cases import GOLDENS, golden, unmeasured
from tests.checkpoint.gguf.cases import convert as gguf_tensors
from tests.checkpoint.gguf.cases import write_gguf
from tests.checkpoint.hub_layouts import (
    NAMES,
    canonical_tensors,
    read_layout,
    stored_tensors,
    write_layout,
)
from tests.checkpoint.test_hadamard import pack, store
from tests.checkpoint.test_lora import pair, peft
from tests.random_model import write_weights

LAYOUTS = [name for name in NAMES if "hadamard" not in read_layout(name).quantized.values()]


def values(checkpoint: Checkpoint, name: str, rows: slice | None = None) -> np.ndarray:
    reader = checkpoint.plain(name)
    rows = rows or slice(0, reader.shape[0])
    return np.array(reader.read(rows.start, rows.stop).astype(mx.float32))


def sliced(whole: np.ndarray, part: Part | None) -> np.ndarray:
    if part is None:
        return whole
    axis = part.axis % whole.ndim
    shape = list(whole.shape)
    pieces = []
    for first, count in part.pieces:
        shape[axis] = count
        index = np.arange(count) + (first or 0)
        pieces.append(np.zeros(shape, whole.dtype) if first is None else whole.take(index, axis))
    return np.concatenate(pieces, axis)


def assert_parts(checkpoint: Checkpoint, ranks: int, pipeline: bool = False) -> None:
    """All tensors of all parts are slices of the whole ones, read as a whole and by rows."""
    for rank in range(ranks):
        shard = Shard(rank, ranks, pipeline)
        own = checkpoint.part(shard)
        own.verify()
        for whole_name, matrix in checkpoint.matrices.items():
            name = own_name(whole_name, checkpoint.model, shard)
            if name is None:
                continue
            part = part_of(whole_name, checkpoint.model, own.model)
            want = sliced(values(checkpoint, whole_name), part)
            np.testing.assert_array_equal(values(own, name), want, f"{name} of rank {rank}")
            middle = slice(len(want) // 3, len(want) // 2)
            rows = values(own, name, middle)
            np.testing.assert_array_equal(rows, want[middle], f"rows of {name} of rank {rank}")
            assert isinstance(own.matrices[name], PackedMatrix) == isinstance(matrix, PackedMatrix)


@pytest.mark.parametrize("name", LAYOUTS)
def test_parts_of_every_layout_are_slices(tmp_path: Path, name: str):
    layout = read_layout(name)
    tensors = stored_tensors(layout, canonical_tensors(layout))
    assert_parts(open_checkpoint(write_layout(tmp_path / "repository", layout, tensors)), 2)


@pytest.mark.parametrize("packing", ["Q8_0", "IQ4_NL"])
def test_parts_of_a_gguf_file_are_slices(tmp_path: Path, packing: str):
    """Of a type that MLX lacks after it is requantised, as `load_network` does."""
    metadata, arrays = gguf_tensors(*golden("moe"), fuse_experts=True)
    matrices = [name for name, v in arrays.items() if v.ndim > 1 and v.shape[-1] % 32 == 0]
    if packing == "IQ4_NL":  # random blocks, as the package writes none
        for name in matrices:
            blocks = np.zeros((*arrays[name].shape[:-1], arrays[name].shape[-1] // 32, 18), "u1")
            blocks[..., 2:] = np.random.default_rng(0).integers(0, 256, blocks[..., 2:].shape)
            blocks[..., :2] = np.float16(0.01).reshape(1).view("u1")
            arrays[name] = blocks.reshape(*blocks.shape[:-2], -1)
    kinds = dict.fromkeys(matrices, Type[packing])
    checkpoint = open_checkpoint(write_gguf(tmp_path / "f.gguf", metadata, arrays, kinds))
    packed = requantized(checkpoint.matrices, mx.float32)
    assert bool(packed) == (packing == "IQ4_NL")
    assert_parts(checkpoint.with_matrices(packed), 2)


@pytest.mark.parametrize("ranks", [3, 4])
def test_parts_that_are_filled_up_are_slices_and_zeros(tmp_path: Path, ranks: int):
    assert_parts(open_checkpoint(GOLDENS / "moe"), ranks)


def test_an_adapter_is_split_with_its_matrices(tmp_path: Path):
    name = "model.layers.3.self_attn.o_proj.weight"
    factors = pair(name.removesuffix(".weight"), 64, 128)
    plain = open_checkpoint(GOLDENS / "dense")
    assert_parts(plain.with_adapter(peft(tmp_path / "adapter", factors)), 2)


def test_a_pipeline_has_whole_layers(tmp_path: Path):
    """Also rotated ones, which cannot be split in columns."""
    assert_parts(open_checkpoint(GOLDENS / "moe"), 3, pipeline=True)
    assert_parts(open_checkpoint(store(tmp_path / "rotated", pack())), 2, pipeline=True)


def test_a_process_reads_only_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All bytes of columns and of small tensors; a quarter of the rows, of experts too."""
    write_weights(tmp_path)
    bytes_read: dict[str, int] = {}
    read = FileTensor._read

    def counting(self: FileTensor, *arguments: Any) -> mx.array:
        array = read(self, *arguments)
        bytes_read[self.name] = bytes_read.get(self.name, 0) + array.nbytes
        return array

    monkeypatch.setattr(FileTensor, "_read", counting)
    whole = open_checkpoint(tmp_path)
    own = whole.part(Shard(1, 4))
    bytes_read.clear()
    for name in own.names():
        own.read(name)
        nbytes = bytes_read["language_model." + name]
        part = part_of(name, whole.model, own.model)
        if part is None or (part.axis == -1 and len(whole.shape(name)) > 1):
            assert nbytes == math.prod(whole.shape(name)) * 4, name
        else:
            assert nbytes <= math.prod(own.shape(name)) * 4, name


def test_columns_that_share_a_scale_are_not_separated(model_folder: Path, tmp_path: Path):
    """Heads of 32 columns, in groups of 64."""
    unmeasured(model_folder, tmp_path / "packed", quantize=True, q_bits=4, q_group_size=64)
    checkpoint = open_checkpoint(tmp_path / "packed")
    with pytest.raises(Qwen35Error) as caught:
        checkpoint.part(Shard(0, 4))
    assert str(caught.value) == (
        "the 128 inputs of 'model.layers.3.self_attn.o_proj.weight' cannot be split over 4 "
        "processes, as neighbours share a scale in groups of 64: choose fewer processes or another "
        "quantisation"
    )


def test_rotated_columns_are_not_separated(tmp_path: Path):
    path = store(tmp_path / "rotated", pack())
    with pytest.raises(Qwen35Error, match=r"inputs of 'model.* as they are rotated together"):
        open_checkpoint(path).part(Shard(0, 2))
