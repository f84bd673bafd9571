"""Types of GGUF as they are loaded: the error that requantising adds, and the speed of reading.

    python -m scripts.benchmarks.gguf --ggml libggml-base.so

The library is that of llama.cpp, which quantises random weights to each type.
"""

import argparse
import ctypes
import json
import tempfile
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from qwen35_mlx.checkpoint.gguf.blocks import BlockReader, StoredRows
from qwen35_mlx.checkpoint.gguf.header import GGUFTensor
from qwen35_mlx.checkpoint.gguf.packing import packed_matrix
from qwen35_mlx.checkpoint.gguf.requantized import requantized
from qwen35_mlx.checkpoint.tensor_readers import plain
from qwen35_mlx.kernels.quantized import Quantization

TYPES = (
    *("Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q5_K", "Q6_K", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS"),
    *("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ1_0", "TQ2_0"),
)
ROWS, COLUMNS = 64, 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ggml", required=True, help="libggml-base of llama.cpp")
    parser.add_argument("--repeats", type=int, default=16, help="copies of the rows, for the speed")
    options = parser.parse_args()
    ggml = ctypes.CDLL(options.ggml)
    rng = np.random.default_rng(0)
    weights = {
        "normal": rng.normal(0, 0.02, (ROWS, COLUMNS)).astype(np.float32),
        "heavy-tailed": (rng.standard_t(4, (ROWS, COLUMNS)) * 0.02).astype(np.float32),
    }
    results: list[dict[str, object]] = []
    print(f"{'type':9}{'bits':>5}  added to its squared error{'':14}elements/s")
    with tempfile.TemporaryDirectory() as folder:
        for name in TYPES:
            added: dict[str, float] = {}
            bits, speed = 0, 0.0
            for kind, values in weights.items():
                blocks = quantised(ggml, values, name)
                own = quants.dequantize(blocks, GGMLQuantizationType[name])
                path = Path(folder, name)
                path.write_bytes(np.tile(blocks, (options.repeats, 1)).tobytes())
                quantization, got, seconds = loaded(path, name, ROWS * options.repeats)
                bits = quantization.bits
                speed = ROWS * options.repeats * COLUMNS / seconds
                added[kind] = float(((got - own) ** 2).mean() / ((own - values) ** 2).mean())
            shares = "  ".join(f"{kind} {share:7.2%}" for kind, share in added.items())
            print(f"{name:9}{bits:5}  {shares}  {speed / 1e6:6.0f} M")
            results.append({"type": name, "bits": bits, "added": added, "elements/s": speed})
    print(json.dumps(results))


def quantised(ggml: ctypes.CDLL, values: np.ndarray, name: str) -> np.ndarray:
    """Blocks uint8 [rows, bytes] by ggml's own quantiser, all weights equally important."""
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = np.empty((ROWS, COLUMNS // elements * size), np.uint8)
    importance = np.ones(COLUMNS, np.float32)
    quantise = ggml.ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64),
        *(ctypes.c_int64, ctypes.c_void_p),
    ]
    data, out, weights = (array.ctypes.data for array in (values, blocks, importance))
    quantise(int(kind), data, out, 0, ROWS, COLUMNS, weights)
    return blocks


def loaded(path: Path, name: str, rows: int) -> tuple[Quantization, np.ndarray, float]:
    """How a matrix is packed, its first values in the network, and seconds to read the parts."""
    block = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    tensor = GGUFTensor(path, "w.weight", name, (rows, COLUMNS), 0, block)
    view, shape = StoredRows(tensor, COLUMNS, ((0, rows),)), (rows, COLUMNS)
    matrix = packed_matrix(view, shape)
    if matrix is None:
        matrix = requantized({"w.weight": BlockReader(view, shape)}, mx.float16)["w.weight"]
    start = time.perf_counter()
    for part in matrix.parts.values():
        part.read(0, rows)
    seconds = time.perf_counter() - start
    return matrix.quantization, np.array(plain(matrix).read(0, ROWS)), seconds


if __name__ == "__main__":
    main()
