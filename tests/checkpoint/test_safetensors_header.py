"""One parser of safetensors headers: for weights, snapshots and fingerprints."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.checkpoint.safetensors_header import (
    HeaderError,
    SafetensorsHeader,
    TensorEntry,
    encode_header,
    read_header,
)

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "U8", "shape": [4], "data_offsets": [24, 28]}


def parse(path: Path, header: Any, data: int = 28, **options: int) -> SafetensorsHeader:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    with io.FileIO(path) as file:
        return read_header(file, **options)


def test_entries_metadata_and_text(tmp_path: Path):
    content = {"b": B, "__metadata__": {"x": "y"}, "a": A}
    header = parse(tmp_path / "f", content)
    assert header.text == json.dumps(content).encode()
    assert header.data_start == 8 + len(header.text)
    assert header.metadata == {"x": "y"}
    assert list(header.tensors.items()) == [
        ("b", TensorEntry("U8", (4,), 24, 28)),
        ("a", TensorEntry("F32", (2, 3), 0, 24)),
    ]


@pytest.mark.parametrize("metadata", [None, [], "x"])
def test_metadata_of_another_type_counts_as_none(tmp_path: Path, metadata: object):
    assert parse(tmp_path / "f", {"__metadata__": metadata, "a": A}).metadata == {}


def test_a_dtype_that_is_not_known_is_no_error(tmp_path: Path):
    header = parse(tmp_path / "f", {"a": A | {"dtype": "F4"}})
    assert header.tensors["a"].dtype == "F4"


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        ({"a": A, "b": B}, 27, r"is truncated: tensor 'b' ends at byte \d+ of \d+"),
        ({"a": A, "b": B | {"data_offsets": [20, 24]}}, 28, "'a' and 'b' overlap"),
        ({"a": A, "b": B | {"data_offsets": [0, 4]}}, 28, "'a' and 'b' overlap"),
        ({"a": A | {"data_offsets": [24, 0]}}, 28, "tensor 'a' is damaged"),
        ({"a": A | {"data_offsets": [0, True]}}, 28, "tensor 'a' is damaged"),
        ({"a": A | {"data_offsets": [0, 8, 24]}}, 28, "tensor 'a' is damaged"),
        (b'{"a": ' + b"[" * 100_000, 28, "unreadable safetensors header"),
        (b"[]", 28, "is not an object"),
        (b'{"a": 1, "a": 1}', 28, "a key appears twice"),
        (b"", 28, "unreadable safetensors header"),
        (b'{"a": NaN}', 28, "'NaN' is not finite"),
        (b'{"a": "\xff"}', 28, "unreadable safetensors header"),
        ('{"a": 1}'.encode("utf-16"), 28, "unreadable safetensors header"),
        # Their product would take minutes.
        ({"a": A | {"shape": [2**62] * 200_000}}, 28, "tensor 'a' is damaged"),
        ({"a": A | {"shape": [1e30, 0]}}, 28, "tensor 'a' is damaged"),
        ({"a": A | {"data_offsets": [0, 2**64]}}, 28, "tensor 'a' is damaged"),
        ({"a" * 10**6: A}, 28, "is no name of a tensor"),
        ({"a\n\x1b[31m": A}, 28, r"'a\\n\\x1b\[31m' is no name of a tensor"),
        (b'{"a\\ud800": 1}', 28, "surrogates not allowed"),
    ],
)
def test_an_invalid_header(tmp_path: Path, header: Any, data: int, says: str):
    with pytest.raises(HeaderError, match=says) as caught:
        parse(tmp_path / "f", header, data)
    assert caught.value.advice == "fetch it again"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_empty_tensor_overlaps_nothing(tmp_path: Path):
    empty = {"dtype": "F32", "shape": [0, 4], "data_offsets": [8, 8]}
    assert set(parse(tmp_path / "f", {"a": A, "e": empty}).tensors) == {"a", "e"}


def test_a_header_longer_than_allowed(tmp_path: Path):
    length = len(json.dumps({"a": A}))
    assert parse(tmp_path / "f", {"a": A}, max_bytes=length).tensors
    with pytest.raises(HeaderError, match=f"is not a safetensors file .a header of {length} bytes"):
        parse(tmp_path / "f", {"a": A}, max_bytes=length - 1)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 20])
def test_a_file_that_ends_within_its_header(tmp_path: Path, length: int):
    (tmp_path / "f").write_bytes(((100).to_bytes(8, "little") + b"{" * 50)[:length])
    with io.FileIO(tmp_path / "f") as file, pytest.raises(HeaderError, match="is truncated"):
        read_header(file)


def test_a_git_lfs_pointer_has_its_own_advice(tmp_path: Path):
    (tmp_path / "f").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0")
    with io.FileIO(tmp_path / "f") as file, pytest.raises(HeaderError) as caught:
        read_header(file)
    assert caught.value.advice == "run `git lfs pull` in its folder"


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_an_encoded_header_is_read_back(tmp_path: Path, separators: tuple[str, str]):
    tensors = {"ä": TensorEntry("BF16", (3, 2), 0, 12), "s": TensorEntry("F32", (), 12, 16)}
    text = encode_header({"format": "x"}, tensors, separators)
    assert len(text) % 8 == 0
    header = parse(tmp_path / "f", text, data=16)
    assert (header.metadata, header.tensors) == ({"format": "x"}, tensors)


def test_needs_neither_mlx_nor_numpy():
    code = (
        "import sys, qwen35_mlx.checkpoint.safetensors_header\n"
        "print({'mlx', 'numpy'} & {name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
