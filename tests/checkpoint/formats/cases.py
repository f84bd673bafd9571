"""Tensors of quantised checkpoints, packed by the definitions of their formats in plain numpy."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.formats.matrices import read_matrix
from qwen35_mlx.checkpoint.formats.method import Method
from qwen35_mlx.checkpoint.layouts import parts_of_experts
from qwen35_mlx.checkpoint.safetensors import FileTensor, list_tensors
from qwen35_mlx.checkpoint.tensor_readers import Matrix, PackedMatrix, RowReader, stack
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization
from tests.checkpoint.cases import Raw, save

Array = np.ndarray[Any, Any]
MODULE = "model.layers.0.mlp.down_proj"

_NUMPY = {"I32": np.int32, "I64": np.int64, "I8": np.int8, "U32": np.uint32, "F32": np.float32}
_NUMPY |= {"F16": np.float16}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def raw(dtype: str, values: Array) -> Raw:
    """A tensor of the given dtype; for U8 and float-8 `values` are bits, else numbers."""
    if dtype == "BF16":
        stored = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        stored = values.astype(_NUMPY.get(dtype, np.uint8))
    return Raw(dtype, values.shape, np.ascontiguousarray(stored).tobytes())


def stored(path: Path, parts: dict[str, Raw]) -> dict[str, FileTensor]:
    """The parts of a module, written to a file and listed from it."""
    path.mkdir(exist_ok=True)
    file = path / "model.safetensors"
    # A tensor in front, so that offsets matter.
    save(file, {"first": raw("U8", np.zeros(7)), **parts})
    return {name: t for name, t in list_tensors(file).items() if name != "first"}


def read(path: Path, parts: dict[str, Raw], method: Method | None, **more: Any) -> Matrix:
    """The matrix of a module; of a stack, that of all experts."""
    tensors = stored(path, parts)
    names = [name for name in ("weight", "weight_packed", "qweight") if name in tensors]
    main = tensors[names[0]] if names else None
    if main is None or len(main.shape) != 3 or main.stored_dtype == "U32":
        return read_matrix(MODULE, tensors, method, **more)[0]
    own = parts_of_experts(tensors, main.shape[0])
    return stack([read_matrix(MODULE, parts, method, **more)[0] for parts in own.values()])


def refusal(path: Path, parts: dict[str, Raw], method: Method | None, **more: Any) -> str:
    """The one-line error of reading a module, or its rows."""
    with pytest.raises(Qwen35Error) as caught:
        read_all(read(path, parts, method, **more))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read_all(matrix: Matrix) -> Array:
    """All values as float32, after the same rows in random pieces were found to be equal."""
    rows = matrix.shape[0]
    if not isinstance(matrix, PackedMatrix):
        return _in_pieces(matrix, rows)
    parts = {name: _array_in_pieces(reader, rows) for name, reader in matrix.parts.items()}
    q = matrix.quantization
    assert {name: part.shape for name, part in parts.items()} == q.packed(matrix.shape)
    floats = {n: p.astype(mx.float32) for n, p in parts.items() if q.mode == "affine"}
    scales, biases = floats.get("scales", parts["scales"]), floats.get("biases")
    return np.array(
        mx.dequantize(
            parts["weight"], scales, biases, q.group_size, q.bits, q.mode, dtype=mx.float32
        )
    )


def _in_pieces(reader: RowReader, rows: int) -> Array:
    return np.array(_array_in_pieces(reader, rows).astype(mx.float32))


def _array_in_pieces(reader: RowReader, rows: int) -> mx.array:
    whole = reader.read(0, rows)
    assert (whole.shape, whole.dtype) == (reader.shape, reader.dtype)
    rng = np.random.default_rng(rows)
    for _ in range(6):
        start, stop = sorted(map(int, rng.integers(0, rows + 1, 2)))
        assert mx.array_equal(reader.read(start, stop), whole[start:stop], equal_nan=True)
    empty = reader.read(1, 1)
    assert (empty.shape, empty.dtype) == ((0, *reader.shape[1:]), reader.dtype)
    return whole


def packed_as(matrix: Matrix, dtype: mx.Dtype | None, *quantization: Any) -> None:
    """Check how a matrix is packed, and the dtype of its scales and biases."""
    assert isinstance(matrix, PackedMatrix)
    assert matrix.quantization == Quantization(*quantization)
    assert matrix.parts["weight"].dtype == mx.uint32
    assert {r.dtype for name, r in matrix.parts.items() if name != "weight"} == {dtype or mx.uint8}


def plain_as(matrix: Matrix, dtype: mx.Dtype) -> None:
    assert not isinstance(matrix, PackedMatrix)
    assert matrix.dtype == dtype


def bit_stream(codes: Array, bits: int) -> Array:
    """Codes of each row as int32 words, without gaps from the lowest bit on."""
    *leading, count = codes.shape
    places = codes[..., None].astype(np.uint8) >> np.arange(bits, dtype=np.uint8) & 1
    stream = np.zeros((*leading, -(-count * bits // 32) * 32), np.uint8)
    stream[..., : count * bits] = places.reshape(*leading, -1)
    return np.packbits(stream, axis=-1, bitorder="little").view(np.int32)


def awq_words(codes: Array) -> Array:
    """AWQ's GEMM packing of [n, m]: the codes 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits on."""
    blocks = codes.reshape(len(codes), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
    return bit_stream(blocks.reshape(codes.shape), 4)


def float_codes(rng: np.random.Generator, *shape: int) -> Array:
    """Random E4M3 bits without NaN."""
    bits = rng.integers(0, 256, shape)
    return np.where(bits & 127 == 127, 0, bits)


def e2m1(codes: Array) -> Array:
    """E2M1 values by definition."""
    return np.where(codes & 8, -1, 1) * E2M1[codes & 7]


def nibbles(codes: Array) -> Array:
    """Two codes in a byte, the even column in the low half."""
    return codes[..., 0::2] | codes[..., 1::2] << 4


def bfloat16(values: Array) -> Array:
    """float32 values rounded to bfloat16, as float32."""
    return np.array(mx.array(values.astype(np.float32)).astype(mx.bfloat16).astype(mx.float32))


def widened(groups: Array, columns: int) -> Array:
    """One value per group of a row -> one per column."""
    return np.repeat(groups, columns // groups.shape[-1], axis=-1)
