"""Each type of ggml against its definition, and the packing of MLX equal to the bit."""

from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.gguf import blocks
from qwen35_mlx.checkpoint.gguf.blocks import BlockReader, StoredRows, TiledHeads, is_readable
from qwen35_mlx.checkpoint.gguf.header import GGUFTensor
from qwen35_mlx.checkpoint.gguf.packing import packed_matrix
from qwen35_mlx.checkpoint.tensor_readers import Matrix
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.gguf import oracle
from tests.checkpoint.gguf.cases import read, tiled

PACKED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "MXFP4")
K_TYPES = ("Q4_K", "Q5_K")
PLAIN = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
GAP = 100  # bytes before the tensor


def stored(path: Path, dtype: str, rows: np.ndarray, columns: int) -> GGUFTensor:
    path.write_bytes(bytes(GAP) + rows.tobytes())
    block = oracle.BLOCKS[dtype][:2]
    return GGUFTensor(path, "w", dtype, (len(rows), columns), GAP, block)


def whole(tensor: GGUFTensor, heads: TiledHeads | None = None) -> StoredRows:
    return StoredRows(tensor, tensor.shape[1], ((0, tensor.shape[0]),), heads)


@pytest.mark.parametrize("dtype", oracle.BLOCKS)
def test_the_block_sizes_of_the_oracle_are_those_of_ggml(dtype: str):
    kind = gguf.GGMLQuantizationType[dtype]
    assert gguf.GGML_QUANT_SIZES[kind] == oracle.BLOCKS[dtype][:2]
    assert is_readable(dtype)


@pytest.mark.parametrize("dtype", oracle.BLOCKS)
def test_the_values_are_those_of_the_definition(tmp_path: Path, dtype: str):
    rows = oracle.random_rows(dtype, 5, 512)
    reader = BlockReader(whole(stored(tmp_path / "f", dtype, rows, 512)), (5, 512))
    assert reader.dtype == PLAIN.get(dtype, mx.float32)
    np.testing.assert_array_equal(read(reader, rows=2), oracle.values_of(dtype, rows))


@pytest.mark.parametrize("dtype", PACKED)
def test_the_packed_values_are_those_of_the_definition(tmp_path: Path, dtype: str):
    columns = 512 if dtype in K_TYPES else 96
    rows = oracle.random_rows(dtype, 70, columns)
    matrix = packed_matrix(whole(stored(tmp_path / "f", dtype, rows, columns)), (70, columns))
    assert matrix is not None
    np.testing.assert_array_equal(read(matrix, rows=33), oracle.values_of(dtype, rows))


@pytest.mark.parametrize("dtype", [dtype for dtype in PACKED if dtype not in ("MXFP4", *K_TYPES)])
def test_packing_is_exact_for_every_scale_whose_bias_fits(tmp_path: Path, dtype: str):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    factor = {"Q8_0": 128, "Q4_0": 8, "Q5_0": 16}.get(dtype, 1)
    limit = np.float32(65504) / factor
    scales = every[np.abs(every.astype(np.float32)) <= limit]  # subnormal, zero, negative ones too
    rows = oracle.random_rows(dtype, 1, 32 * len(scales)).reshape(len(scales), -1)
    rows[:, :2] = scales[:, None].view(np.uint8)
    # Each code beside each scale would be too much: codes of a block are random.
    matrix = packed_matrix(whole(stored(tmp_path / "f", dtype, rows, 32)), (len(rows), 32))
    assert matrix is not None
    kind = gguf.GGMLQuantizationType[dtype]
    np.testing.assert_array_equal(read(matrix), gguf.quants.dequantize(rows, kind))


@pytest.mark.parametrize("dtype", K_TYPES)
def test_packing_of_k_types_is_exact_for_every_scale(tmp_path: Path, dtype: str):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    scales = every[np.abs(every.astype(np.float32)) <= 65504 / 63]  # times 6 bits
    rows = oracle.random_rows(dtype, len(scales), 256)
    rows[:, :2] = scales[:, None].view(np.uint8)
    rows[:, 2:4] = np.random.default_rng(1).permutation(scales)[:, None].view(np.uint8)
    matrix = packed_matrix(whole(stored(tmp_path / "f", dtype, rows, 256)), (len(rows), 256))
    assert matrix is not None
    kind = gguf.GGMLQuantizationType[dtype]
    np.testing.assert_array_equal(read(matrix), gguf.quants.dequantize(rows, kind))


@pytest.mark.parametrize("exponent", [0, 1, 2, 127, 252])
def test_every_exponent_of_mxfp4_is_exact(tmp_path: Path, exponent: int):
    rows = np.arange(17, dtype=np.uint8)[None] * 15
    rows[:, 0] = exponent
    matrix = packed_matrix(whole(stored(tmp_path / "f", "MXFP4", rows, 32)), (1, 32))
    assert matrix is not None
    np.testing.assert_array_equal(read(matrix), oracle.values_of("MXFP4", rows))


@pytest.mark.parametrize(
    ("dtype", "head"),
    [
        ("Q8_0", np.float16(512).tobytes()),
        ("Q4_0", np.float16(-8192).tobytes()),
        ("Q5_0", np.float16(np.nan).tobytes()),
        ("Q4_1", np.array([1, np.inf], np.float16).tobytes()),
        ("Q4_K", np.array([1, -np.inf], np.float16).tobytes() + bytes(12)),
        ("Q5_K", np.array([1200, 1], np.float16).tobytes() + b"\xff" * 12),
        ("MXFP4", b"\xff"),
    ],
)
def test_a_scale_beyond_the_packing_is_named(tmp_path: Path, dtype: str, head: bytes):
    columns = 256 if dtype in K_TYPES else 64
    rows = oracle.random_rows(dtype, 3, columns)
    rows[1, : len(head)] = np.frombuffer(head, np.uint8)
    matrix = packed_matrix(whole(stored(tmp_path / "f", dtype, rows, columns)), (3, columns))
    assert matrix is not None
    with pytest.raises(Qwen35Error, match="tensor 'w' has a scale that is not finite or too large"):
        read(matrix)


@pytest.mark.parametrize("dtype", ["Q6_K", "F16", "IQ4_NL"])
def test_types_without_an_equal_in_mlx_are_not_packed(tmp_path: Path, dtype: str):
    rows = oracle.random_rows(dtype, 2, 256)
    assert packed_matrix(whole(stored(tmp_path / "f", dtype, rows, 256)), (2, 256)) is None


@pytest.mark.parametrize(
    ("dtype", "width"),
    [
        ("Q8_0", 32),
        ("Q8_0", 128),
        ("Q8_0", 16),
        ("Q4_1", 64),
        ("Q5_K", 64),
        ("Q4_K", 128),
        ("Q6_K", 128),
        ("BF16", 8),
    ],
)
def test_columns_by_heads_come_back_in_the_order_of_the_model(
    tmp_path: Path, dtype: str, width: int
):
    columns = 768
    rows = oracle.random_rows(dtype, 4, columns)
    heads = TiledHeads(2, columns // width // 2, width)
    view = whole(stored(tmp_path / "f", dtype, rows, columns), heads)
    reader: Matrix = packed_matrix(view, (4, columns)) or BlockReader(view, (4, columns))
    assert isinstance(reader, BlockReader) == (dtype not in PACKED or width % 32 != 0)
    got = read(reader, rows=3)
    np.testing.assert_array_equal(tiled(got, 1, 2, width), oracle.values_of(dtype, rows))


@pytest.mark.parametrize("dtype", ["Q6_K", "Q4_0", "Q5_K"])
def test_many_rows_are_computed_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
):
    monkeypatch.setattr(blocks, "CHUNK_ELEMENTS", 1024)
    rows = oracle.random_rows(dtype, 11, 512)
    view = whole(stored(tmp_path / "f", dtype, rows, 512))
    matrix: Matrix = packed_matrix(view, (11, 512)) or BlockReader(view, (11, 512))
    np.testing.assert_array_equal(read(matrix), oracle.values_of(dtype, rows))


def test_only_the_bytes_of_the_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = oracle.random_rows("Q8_0", 12, 64)
    tensor = stored(tmp_path / "f", "Q8_0", rows, 64)
    heads = TiledHeads(2, 2, 2)
    view = StoredRows(tensor, 64, ((0, 4), *heads.runs(4)))
    ranges: list[tuple[int, int]] = []
    original = blocks.read_exactly

    def counted(file, out, offset):
        ranges.append((offset - GAP, len(out)))
        original(file, out, offset)

    monkeypatch.setattr(blocks, "read_exactly", counted)
    expected = oracle.values_of("Q8_0", rows)[[3, 4, 5, 8, 9, 6]]
    np.testing.assert_array_equal(view.values(3, 9), expected)
    # Rows 3, 4 and 5 lie side by side: one range.
    assert ranges == [(3 * 68, 3 * 68), (8 * 68, 2 * 68), (6 * 68, 68)]


@pytest.mark.parametrize(("size", "factors"), [(1, [0.5] * 6), (3, [2, 2, 3, 3, 5, 5])])
def test_a_factor_beside_a_matrix_multiplies_its_values(
    tmp_path: Path, size: int, factors: list[float]
):
    rows = oracle.random_rows("MXFP4", 6, 32)
    tensor = stored(tmp_path / "f", "MXFP4", rows, 32)
    numbers = np.array({1: [0.5], 3: [2, 3, 5]}[size], np.float32)
    (tmp_path / "s").write_bytes(numbers.tobytes())
    scale = GGUFTensor(tmp_path / "s", "w.scale", "F32", (size,), 0, (1, 4))
    view = StoredRows(tensor, 32, ((0, 6),), None, scale)
    assert packed_matrix(view, (6, 32)) is None
    expected = oracle.values_of("MXFP4", rows) * np.array(factors, np.float32)[:, None]
    np.testing.assert_array_equal(read(BlockReader(view, (6, 32)), rows=3), expected)


def test_decay_is_read_as_its_logarithm(tmp_path: Path):
    decay = np.array([[-1.5], [-1e-3], [-0.0]], np.float32)
    view = whole(stored(tmp_path / "f", "F32", decay, 1))
    got = read(BlockReader(view, (3,), is_decay=True))
    np.testing.assert_allclose(-np.exp(got), decay[:, 0], rtol=1e-6)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_decay_that_grows_is_refused(tmp_path: Path, value: float):
    view = whole(stored(tmp_path / "f", "F32", np.array([[value]], np.float32), 1))
    with pytest.raises(Qwen35Error, match="tensor 'w' has a value that is not negative"):
        BlockReader(view, (1,), is_decay=True).read(0, 1)


def test_a_file_that_became_shorter_is_named(tmp_path: Path):
    rows = oracle.random_rows("Q4_K", 2, 256)
    tensor = stored(tmp_path / "f", "Q4_K", rows, 256)
    (tmp_path / "f").write_bytes(bytes(GAP + 150))
    with pytest.raises(Qwen35Error, match="ends inside tensor 'w': fetch it again"):
        whole(tensor).values(1, 2)


def test_an_empty_range_of_rows_is_empty(tmp_path: Path):
    view = whole(stored(tmp_path / "f", "Q4_K", oracle.random_rows("Q4_K", 2, 256), 256))
    assert BlockReader(view, (2, 256)).read(1, 1).shape == (0, 256)
