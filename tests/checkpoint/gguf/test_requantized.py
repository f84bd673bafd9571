"""What MLX has no equal for, in affine groups."""

from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.gguf.blocks import BlockReader
from qwen35_mlx.checkpoint.gguf.packing import packed_matrix
from qwen35_mlx.checkpoint.gguf.requantized import (
    GROUP_SIZE,
    quantize,
    requantization_note,
    requantized,
)
from qwen35_mlx.checkpoint.tensor_readers import Matrix
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.gguf import oracle
from tests.checkpoint.gguf.cases import read
from tests.checkpoint.gguf.test_blocks import stored, whole

# Bits, and the largest part of a step of its own type that a value may move, on random blocks.
BITS = {"Q6_K": 8, "Q3_K": 5, "Q2_K": 4, "IQ4_NL": 6, "IQ4_XS": 6}


def dequantized(parts: list[np.ndarray], bits: int, dtype: mx.Dtype = mx.float32) -> np.ndarray:
    scales, biases = (mx.array(part).astype(dtype).astype(mx.float32) for part in parts[1:])
    values = mx.dequantize(mx.array(parts[0]), scales, biases, GROUP_SIZE, bits)
    return np.array(values.astype(mx.float32))


def reader(path: Path, dtype: str, rows: int, columns: int) -> tuple[Matrix, np.ndarray]:
    blocks = oracle.random_rows(dtype, rows, columns)
    view = whole(stored(path, dtype, blocks, columns))
    return BlockReader(view, (rows, columns)), oracle.values_of(dtype, blocks)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_every_value_is_within_half_a_step(bits: int, dtype: mx.Dtype):
    values = np.random.default_rng(1).standard_normal((3, 256)).astype(np.float32) - 0.5
    last = 2**bits - 1
    parts = quantize(values, bits, last, dtype)
    got = dequantized(parts, bits, dtype)
    groups = values.reshape(3, -1, GROUP_SIZE)
    step = np.repeat((groups.max(axis=2) - groups.min(axis=2)) / last, GROUP_SIZE, axis=1)
    # Where the least value or the step was rounded, the ends of a group are cut off by that.
    slack = {mx.float32: 0.001, mx.float16: 0.15, mx.bfloat16: 1.2}[dtype]
    errors = np.abs(got - values) / step
    assert errors.max() < 0.5 + slack
    assert np.sqrt((errors**2).mean()) < 0.31
    for part in parts[1:]:  # already numbers of the dtype
        np.testing.assert_array_equal(
            np.array(mx.array(part).astype(dtype).astype(mx.float32)), part
        )


@pytest.mark.parametrize("value", [0.0, -0.25, 3.0])
def test_a_group_of_equal_values_is_exact(value: float):
    values = np.full((1, 32), value, np.float32)
    np.testing.assert_array_equal(dequantized(quantize(values, 4, 15, mx.float16), 4), values)


@pytest.mark.parametrize("dtype", BITS)
def test_the_types_and_their_bits(tmp_path: Path, dtype: str):
    matrix, values = reader(tmp_path / "f", dtype, 5, 512)
    packed = requantized({"a.weight": matrix, "norm.weight": matrix}, mx.float32)
    assert packed["a.weight"].quantization.bits == BITS[dtype]
    got = read(packed["a.weight"], rows=2)
    groups = values.reshape(5, -1, GROUP_SIZE)
    step = (groups.max(axis=2) - groups.min(axis=2)) / (2 ** BITS[dtype] - 1)
    assert (np.abs(got - values) <= np.repeat(step, GROUP_SIZE, axis=1) * 0.501 + 1e-30).all()
    assert f"{dtype} to {BITS[dtype]} bits" in requantization_note(packed)


@pytest.mark.parametrize("dtype", ["TQ1_0", "TQ2_0"])
def test_ternary_types_are_exact(tmp_path: Path, dtype: str):
    signs = np.random.default_rng(1).integers(-1, 2, (4, 256)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[dtype]
    blocks = gguf.quants.quantize(signs * np.float32(0.03), kind)
    path = tmp_path / "f"
    path.write_bytes(bytes(100) + blocks.tobytes())
    tensor = stored(tmp_path / "g", "F32", np.zeros((4, 1024), np.uint8), 256)
    tensor = type(tensor)(path, "w", dtype, (4, 256), 100, gguf.GGML_QUANT_SIZES[kind])
    (packed,) = requantized({"a.weight": BlockReader(whole(tensor), (4, 256))}, mx.float16).values()
    assert packed.quantization.bits == 2
    np.testing.assert_array_equal(read(packed), gguf.quants.dequantize(blocks, kind))


def test_other_tensors_are_left_alone(tmp_path: Path):
    plain, _ = reader(tmp_path / "a", "F16", 4, 64)
    blocks, _ = reader(tmp_path / "b", "Q6_K", 4, 256)
    exact = packed_matrix(
        whole(stored(tmp_path / "c", "Q8_0", oracle.random_rows("Q8_0", 4, 64), 64)), (4, 64)
    )
    assert exact
    tensors: dict[str, Matrix] = {"a.weight": plain, "c.weight": exact, "x.conv1d.weight": blocks}
    assert requantized(tensors, mx.float16) == {}


@pytest.mark.parametrize("scale", [np.float16(np.nan), np.float16(np.inf), np.float16(60000)])
def test_values_beyond_float16_are_named(tmp_path: Path, scale: np.float16):
    rows = oracle.random_rows("Q6_K", 3, 256)
    rows[1, 208:210] = np.frombuffer(scale.tobytes(), np.uint8)
    matrix = BlockReader(whole(stored(tmp_path / "f", "Q6_K", rows, 256)), (3, 256))
    (packed,) = requantized({"a.weight": matrix}, mx.float16).values()
    with pytest.raises(Qwen35Error, match="tensor 'w' has a scale that is not finite or too large"):
        read(packed)
