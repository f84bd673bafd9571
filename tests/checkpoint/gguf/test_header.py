"""One parser of GGUF headers: what it reads, and the bounds within which it reads it."""

import os
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from qwen35_mlx.checkpoint.gguf import header as parser
from qwen35_mlx.checkpoint.gguf.header import GGUFTensor, read_header
from qwen35_mlx.errors import Qwen35Error


def text(value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def entry(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, *sizes: int, kind: int = 0, offset: int = 0) -> bytes:
    """A description; the sizes in ggml's order."""
    dims = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


def write(
    path: Path,
    entries: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    *,
    start: bytes = b"GGUF\3\0\0\0",
    counts: tuple[int, int] | None = None,
    data: int = 1024,
) -> Path:
    entries, tensors = entries or [], tensors or []
    counts = counts or (len(tensors), len(entries))
    body = start + struct.pack("<QQ", *counts) + b"".join(entries) + b"".join(tensors)
    path.write_bytes(body + bytes(-len(body) % 32) + bytes(data))
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_values_of_every_type(tmp_path: Path, version: int):
    writer = gguf.GGUFWriter(tmp_path / "f", "qwen35")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -3)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -30000)
    writer.add_uint32("u32", 1 << 31)
    writer.add_int32("i32", -5)
    writer.add_uint64("u64", 1 << 63)
    writer.add_int64("i64", -(1 << 62))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "Grüße\n")
    writer.add_array("texts", ["a", "", "ü"])
    writer.add_array("numbers", [1, -2])
    writer.add_array("floats", [0.5, 2.0])
    writer.add_array("bools", [True, False])
    writer.add_tensor("w", np.zeros((3, 64), np.float32))
    writer.add_tensor("q", np.zeros((2, 5, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = bytearray((tmp_path / "f").read_bytes())
    content[4] = version
    (tmp_path / "f").write_bytes(content)
    header = read_header(tmp_path / "f")
    assert dict(header.metadata) == {
        **{"general.architecture": "qwen35", "u8": 200, "i8": -3, "u16": 60000, "i16": -30000},
        **{"u32": 1 << 31, "i32": -5, "u64": 1 << 63, "i64": -(1 << 62), "f32": 0.5, "f64": 0.1},
        **{"yes": True, "text": "Grüße\n", "texts": ["a", "", "ü"]},
        **{"numbers": array("i", [1, -2]), "floats": array("f", [0.5, 2])},
        "bools": array("B", [1, 0]),
    }
    oracle = gguf.GGUFReader(tmp_path / "f")
    expected = {
        found.name: GGUFTensor(
            tmp_path / "f",
            found.name,
            found.tensor_type.name,
            tuple(int(size) for size in reversed(found.shape)),
            int(found.data_offset),
            gguf.GGML_QUANT_SIZES[found.tensor_type],
        )
        for found in oracle.tensors
    }
    assert header.tensors == expected
    assert [t.nbytes for t in header.tensors.values()] == [t.n_bytes for t in oracle.tensors]


def test_another_alignment(tmp_path: Path):
    path = tmp_path / "f"
    alignment = entry("general.alignment", 4, struct.pack("<I", 256))
    write(path, [alignment], [tensor("a", 4), tensor("b", 4, offset=256)])
    tensors = read_header(path).tensors
    assert [t.offset for t in tensors.values()] == [256, 512]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start": b"GGML\3\0\0\0"}, "is not a GGUF file"),
        ({"start": b"version https://git-lfs"}, "is a Git LFS pointer, not weights"),
        ({"start": b"GGUF\1\0\0\0"}, "of version 1, and versions 2 and 3 are read"),
        ({"start": b"GGUF\4\0\0\0"}, "of version 4"),
        ({"start": b"GGUF\0\0\0\3"}, "is a big-endian GGUF file"),
        ({"counts": (1 << 60, 0)}, "tensors and 0 entries"),
        ({"counts": (0, 1 << 60)}, "0 tensors and"),
        ({"entries": [entry("a", 4, bytes(4))] * 2}, "has 'a' twice"),
        ({"entries": [entry("a", 13, b"")]}, "unknown type 13"),
        ({"entries": [entry("", 4, bytes(4))]}, "'' is no name"),
        ({"entries": [entry("a\n", 4, bytes(4))]}, "is no name"),
        ({"entries": [entry("a" * 513, 4, bytes(4))]}, "is no name"),
        ({"entries": [entry("a", 8, text(b"\xff"))]}, "not UTF-8"),
        ({"entries": [entry("a", 8, struct.pack("<Q", 1 << 63))]}, "is truncated"),
        ({"entries": [entry("a", 9, struct.pack("<IQ", 8, 1 << 62))]}, "more than 3,000,000 texts"),
        ({"entries": [entry("a", 9, struct.pack("<IQ", 8, 2_999_999))]}, "is truncated"),
        ({"entries": [entry("a", 9, struct.pack("<IQ", 6, 1 << 62))]}, "is truncated"),
        ({"entries": [entry("a", 9, struct.pack("<IQ", 9, 1))]}, "an array of the type 9"),
        ({"entries": [entry("general.alignment", 4, struct.pack("<I", 24))]}, "alignment' is 24"),
        ({"entries": [entry("general.alignment", 4, bytes(4))]}, "alignment' is 0"),
        ({"entries": [entry("general.alignment", 8, text("32"))]}, "alignment' is '32'"),
        ({"entries": [entry("general.alignment", 7, b"\1")]}, "alignment' is True"),
        ({"tensors": [tensor("a", 8)] * 2}, "the tensor 'a' twice"),
        ({"tensors": [tensor("a", 8), tensor("b", 8)]}, "'a' and 'b' overlap"),
        ({"tensors": [tensor("a", 8, offset=16)]}, "tensor 'a' is not aligned"),
        ({"tensors": [tensor("a", 8, offset=1 << 62)]}, "is truncated: tensor 'a' ends"),
        ({"tensors": [tensor("a", 257)]}, "is truncated: tensor 'a' ends at byte"),
        ({"tensors": [tensor("a", 1 << 31)]}, "'a' has the sizes"),
        ({"tensors": [tensor("a", (1 << 31) - 1, (1 << 31) - 1)]}, "is truncated"),
        ({"tensors": [tensor("a", *[1] * 5)]}, "'a' has 5 axes"),
        ({"tensors": [tensor("a", 33, kind=8)]}, "a row of 33 does not divide into blocks of 32"),
        ({"tensors": [tensor("a", 64, kind=36)]}, "in ggml's type 36, which is not known here"),
    ],
)
def test_a_bad_header_is_named(tmp_path: Path, options: dict[str, Any], says: str):
    path = write(tmp_path / "f", **options)
    with pytest.raises(Qwen35Error, match=says) as caught:
        read_header(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("size", [0, 3, 7, 15, 20, 40])
def test_a_file_that_ends_in_its_header_is_named(tmp_path: Path, size: int):
    path = write(tmp_path / "f", [entry("name", 8, text("some value"))], data=0)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(Qwen35Error, match=r"is truncated|is not a GGUF file"):
        read_header(path)


def test_empty_tensors_may_share_a_place(tmp_path: Path):
    write(tmp_path / "f", tensors=[tensor("a", 0), tensor("b", 0), tensor("c", 8)])
    assert len(read_header(tmp_path / "f").tensors) == 3


def test_a_header_is_not_read_beyond_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parser, "MAX_HEADER_BYTES", 4096)
    count = 5000
    write(tmp_path / "f", [entry("a", 9, struct.pack("<IQ", 0, count) + bytes(count))])
    with pytest.raises(Qwen35Error, match="has a header of more than"):
        read_header(tmp_path / "f")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, make: Callable[[Path], Any]):
    make(tmp_path / "f")
    with pytest.raises(Qwen35Error, match="cannot read"):
        read_header(tmp_path / "f")


def test_a_real_vocabulary_is_read_in_a_moment(tmp_path: Path):
    words = [f"Ġw{i:07d}" for i in range(250_000)]  # Qwen3.5 has as many tokens, and merges
    merges = [f"{word[:5]} {word[5:]}" for word in words]
    count = struct.pack("<Q", len(words))
    entries = [
        entry("tokenizer.ggml.tokens", 9, b"\x08\0\0\0" + count + b"".join(map(text, words))),
        entry("tokenizer.ggml.merges", 9, b"\x08\0\0\0" + count + b"".join(map(text, merges))),
        entry("tokenizer.ggml.token_type", 9, b"\5\0\0\0" + count + b"\1\0\0\0" * len(words)),
    ]
    tensors = [tensor(f"blk.{i}.w", 32, offset=128 * i) for i in range(1000)]
    path = write(tmp_path / "f", entries, tensors, data=128_000)
    start = time.process_time()
    header = read_header(path)
    seconds = time.process_time() - start
    print(f"{path.stat().st_size / 1e6:.1f} MB in {seconds:.2f} s")
    assert seconds < 1.5
    assert header.metadata["tokenizer.ggml.tokens"] == words
    assert header.metadata["tokenizer.ggml.merges"] == merges
    assert header.metadata["tokenizer.ggml.token_type"] == array("i", [1] * 250_000)
    assert len(header.tensors) == 1000


def test_headers_need_neither_mlx_nor_numpy():
    code = (
        "import sys, qwen35_mlx.checkpoint.gguf.file\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"mlx", "numpy", "gguf"} & set(run.stdout.split()) == set()
