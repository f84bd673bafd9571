"""GGUF files of published sizes with random weights, as `random_weights` has them for MLX.

Matrices are of variance 1 / inputs, routers and decays are drawn as `RandomSource` draws them, so
that experts are chosen evenly and no value overflows. A file of any size costs no memory: a few MB
of random blocks are written again and again, each tensor from a place of its own.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import gguf
import numpy as np

from qwen35_mlx.conversion.gguf_plan import PlannedTensor
from qwen35_mlx.conversion.new_folder import partial_file
from qwen35_mlx.model.config import ModelConfig
from scripts.support.gguf_source import GgufLayout, stored_nbytes

KINDS = {4: "Q4_0", 8: "Q8_0"}  # by bits

_BLOCKS = 1 << 18


def random_gguf_layout(config: ModelConfig, bits: int) -> GgufLayout:
    """All matrices in one type, the embedding and the head too; routers and vectors in float32.

    There is no MTP head.

    Args:
        bits: a key of `KINDS`.
    """
    return GgufLayout.of(config, KINDS[bits], mtp=False)


def general_name(shape: str, bits: int) -> str:
    """What `general.name` of such a file is, to know it again."""
    return f"random {shape} in {KINDS[bits]}"


def write_random_gguf(path: Path, layout: GgufLayout, name: str) -> None:
    """Write the new file `path`, which appears when it is complete.

    Args:
        name: for `general.name`.
    """
    with partial_file(path, []) as partial:
        layout.write_header(partial, {"general.name": name})
        with partial.open("ab", buffering=0) as file:
            for tensor, stored in layout.tensors:
                for piece in random_values(tensor, stored):
                    file.write(piece)
                file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))


def random_values(tensor: PlannedTensor, stored: str) -> Iterator[memoryview]:
    """The bytes of one tensor, a few MB at a time."""
    seed = crc32(tensor.source.encode())
    if stored == "F32":
        yield _bytes(_float32(tensor, np.random.default_rng(seed)).astype(np.float32))
        return
    blocks = _blocks(stored, tensor.shape[-1])
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[stored]][1]
    left = stored_nbytes(tensor, stored)
    start = seed % _BLOCKS * size
    while left:
        piece = blocks[start : start + left]
        yield piece
        left, start = left - len(piece), 0


def _float32(tensor: PlannedTensor, rng: np.random.Generator) -> np.ndarray:
    match tensor.name.removesuffix(".weight").rpartition(".")[2]:
        case "ssm_a":
            return -np.exp(rng.uniform(-5, 0.5, tensor.shape))
        case "bias":
            return rng.uniform(-4, 1, tensor.shape)
        case "ssm_conv1d":
            return 0.4 * rng.normal(size=tensor.shape)
        case _ if len(tensor.shape) == 1:  # norms
            return np.ones(tensor.shape)
        case _:
            return tensor.shape[-1] ** -0.5 * rng.normal(size=tensor.shape)


@cache
def _blocks(kind: str, inputs: int) -> memoryview:
    """Random blocks of Q4_0 or Q8_0: a float16 scale, and 32 codes of one variance.

    The sign of the scales is random, since the mean code is not quite zero.
    """
    rng = np.random.default_rng(0)
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    blocks = rng.integers(0, 256, (_BLOCKS, size), np.uint8)
    codes = 16 if kind == "Q4_0" else 256
    scale = (12 / inputs) ** 0.5 / codes
    scales = rng.choice([-scale, scale], _BLOCKS).astype(np.float16)
    blocks[:, :2] = scales.view(np.uint8).reshape(_BLOCKS, 2)
    return _bytes(blocks)


def _bytes(values: np.ndarray) -> memoryview:
    data: Any = values.reshape(-1)
    return memoryview(data).cast("B")
