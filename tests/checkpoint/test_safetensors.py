"""Safetensors files are read by rows, written in chunks, and refused if anything is wrong."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from qwen35_mlx import files
from qwen35_mlx.checkpoint.safetensors import list_tensors
from qwen35_mlx.checkpoint.safetensors_writer import FileWriter, TensorSpec
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.cases import Raw, save

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "U8", "shape": [4], "data_offsets": [24, 28]}


def write_file(path: Path, header: Any, data: int = 28) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


def test_lists_the_tensors_of_a_valid_file(tmp_path: Path):
    tensors = list_tensors(write_file(tmp_path / "f", {"__metadata__": {"x": "y"}, "a": A, "b": B}))
    assert {n: (t.shape, t.dtype, t.nbytes) for n, t in tensors.items()} == {
        "a": ((2, 3), mx.float32, 24),
        "b": ((4,), mx.uint8, 4),
    }


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        ({"a": A, "b": B}, 27, "truncated: tensor 'b' ends at"),
        ({"a": A, "b": B | {"data_offsets": [20, 24]}}, 28, "'a' and 'b' overlap"),
        ({"a": A, "b": B | {"data_offsets": [23, 27]}}, 28, "'a' and 'b' overlap"),
        ({"a": A | {"shape": [2, 4]}}, 28, "takes 32 bytes but its header gives it 24"),
        ({"a": A | {"data_offsets": [24, 0]}}, 28, "tensor 'a' is damaged"),
        ({"a": A | {"data_offsets": [-24, 0]}}, 28, "tensor 'a' is damaged"),
        ({"a": A | {"data_offsets": [0]}}, 28, "tensor 'a' is damaged"),
        ({"a": A | {"shape": [2, 3.0]}}, 28, "tensor 'a' is damaged"),
        ({"a": A | {"shape": None}}, 28, "tensor 'a' is damaged"),
        ({"a": 7}, 28, "tensor 'a' is damaged"),
        ({"a": A | {"dtype": "F4"}}, 28, "dtype 'F4', which is not known"),
        ({"a": A | {"dtype": ["F32"]}}, 28, "is damaged"),
        (b"[]", 0, "is not an object"),
        (b'{"a": ', 0, "unreadable safetensors header"),
        (b"\xff\xfe{}", 0, "unreadable safetensors header"),
        (b'{"a": {}, "a": {}}', 0, "a key appears twice"),
    ],
)
def test_refuses_an_invalid_header(tmp_path: Path, header: Any, data: int, says: str):
    with pytest.raises(Qwen35Error, match=says) as caught:
        list_tensors(write_file(tmp_path / "f.safetensors", header, data))
    assert "f.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "truncated"),
        (b"\x10\0\0\0", "truncated"),
        ((100).to_bytes(8, "little") + b"{}", "truncated"),
        (b"<html><body>404</body></html>", "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    ],
)
def test_refuses_a_file_of_another_kind(tmp_path: Path, content: bytes, says: str):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(Qwen35Error, match=says):
        list_tensors(tmp_path / "f")


def test_refuses_a_missing_file(tmp_path: Path):
    with pytest.raises(Qwen35Error, match=r"cannot read .*f: No such file"):
        list_tensors(tmp_path / "f")


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16, mx.uint32, mx.uint8])
def test_rows_are_slices_of_the_whole_tensor(tmp_path: Path, dtype: mx.Dtype):
    value = (mx.random.uniform(shape=(7, 3, 2)) * 200).astype(dtype)
    save(tmp_path / "f", {"pad": mx.zeros((3,), mx.uint8), "x": value})
    tensor = list_tensors(tmp_path / "f")["x"]
    for start, stop in ((0, 7), (0, 1), (2, 5), (6, 7), (3, 3)):
        got = tensor.read(start, stop)
        assert (got.dtype, got.shape) == (dtype, (stop - start, 3, 2))
        assert mx.array_equal(got, value[start:stop])
    with pytest.raises(IndexError):
        tensor.read(5, 8)


def test_scalars_and_empty_tensors(tmp_path: Path):
    save(tmp_path / "f", {"one": mx.array(3.5), "none": mx.zeros((0, 4))})
    tensors = list_tensors(tmp_path / "f")
    assert tensors["one"].read().item() == 3.5
    assert tensors["none"].read().shape == (0, 4)


def test_float8_is_read_as_bytes(tmp_path: Path):
    save(tmp_path / "f", {"x": Raw("F8_E4M3", (2, 2), b"\x01\x02\x03\x04")})
    assert list_tensors(tmp_path / "f")["x"].read(1, 2).tolist() == [[3, 4]]


def test_reads_only_the_bytes_of_the_rows(tmp_path: Path):
    save(tmp_path / "f", {"x": mx.arange(12).astype(mx.float32).reshape(4, 3)})
    tensor = list_tensors(tmp_path / "f")["x"]
    with (tmp_path / "f").open("r+b") as file:
        file.truncate(tensor.offset + 2 * 12)
    assert tensor.read(0, 2).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(Qwen35Error, match="ends inside tensor 'x'"):
        tensor.read(1, 3)


def test_reads_and_writes_larger_tensors_than_one_system_call_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "MAX_IO_BYTES", 5)
    value = mx.arange(9).astype(mx.float32)
    with FileWriter(tmp_path / "f", [TensorSpec("x", mx.float32, (9,))], {}) as writer:
        writer.write("x", value)
    assert mx.array_equal(list_tensors(tmp_path / "f")["x"].read(), value)


def test_writer_round_trip_in_interleaved_chunks(tmp_path: Path):
    specs = [
        TensorSpec("w", mx.uint32, (5, 4)),
        TensorSpec("scales", mx.bfloat16, (5, 3)),
        TensorSpec("u", mx.uint8, (3,)),
        TensorSpec("h", mx.float16, ()),
        TensorSpec("empty", mx.float32, (0, 2)),
    ]
    values = {
        "w": mx.random.randint(0, 1 << 30, (5, 4)).astype(mx.uint32),
        "scales": mx.random.normal((3, 5)).astype(mx.bfloat16).T,  # not contiguous
        "u": mx.array([1, 2, 255], mx.uint8),
        "h": mx.array(0.5, mx.float16),
        "empty": mx.zeros((0, 2)),
    }
    path = tmp_path / "f.safetensors"
    with FileWriter(path, specs, {"format": "mlx"}) as writer:
        for start in range(0, 5, 2):
            writer.write("w", values["w"][start : start + 2])
            writer.write("scales", values["scales"][start : start + 2])
        for name in ("u", "h", "empty"):
            writer.write(name, values[name])
    assert path.stat().st_size == writer.nbytes
    found: Any = mx.load(str(path), return_metadata=True)
    loaded, metadata = found
    assert metadata == {"format": "mlx"}
    assert all(mx.array_equal(loaded[name], value) for name, value in values.items())


@pytest.mark.parametrize("name", ["x" * length for length in range(1, 9)])
def test_tensor_data_begins_at_a_multiple_of_eight_bytes(tmp_path: Path, name: str):
    with FileWriter(tmp_path / "f", [TensorSpec(name, mx.float32, (1,))], {}) as writer:
        writer.write(name, mx.ones((1,)))
    assert list_tensors(tmp_path / "f")[name].offset % 8 == 0


def test_the_reference_implementation_reads_what_is_written(tmp_path: Path):
    path = tmp_path / "f"
    with FileWriter(path, [TensorSpec("x", mx.float32, (2, 2))], {"format": "mlx"}) as writer:
        writer.write("x", mx.array([[1.0, 2.0], [3.0, 4.0]]))
    assert np.array_equal(load_file(path)["x"], [[1, 2], [3, 4]])


def test_writer_refuses_an_incomplete_file(tmp_path: Path):
    writer = FileWriter(tmp_path / "f", [TensorSpec("x", mx.float32, (2, 2))], {})
    writer.write("x", mx.zeros((1, 2)))
    with pytest.raises(ValueError, match="x is not complete"):
        writer.close()


def test_writer_refuses_values_that_do_not_match_the_spec(tmp_path: Path):
    with FileWriter(tmp_path / "f", [TensorSpec("x", mx.float32, (2,))], {}) as writer:
        with pytest.raises(ValueError, match="longer"):
            writer.write("x", mx.zeros((3,)))
        with pytest.raises(ValueError, match="not"):
            writer.write("x", mx.zeros((2,), mx.float16))
        writer.write("x", mx.zeros((2,)))


def test_writer_does_not_overwrite_a_file(tmp_path: Path):
    (tmp_path / "f").write_text("mine")
    with pytest.raises(FileExistsError):
        FileWriter(tmp_path / "f", [], {})
    assert (tmp_path / "f").read_text() == "mine"
