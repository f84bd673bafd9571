"""A checkpoint folder as a network, ready to run."""

from pathlib import Path

import mlx.core as mx

from qwen35_mlx.checkpoint.layouts import Checkpoint
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.weights import DTYPES, Weights


def load_network(path: Path, dtype: str | None = None) -> Network:
    """Read config.json and all weights of a folder, whatever its layout.

    Args:
        dtype: of activations, KV cache and unquantised weights. None takes the checkpoint's own
            on a GPU, and float32 on a CPU, where MLX's half-precision matmuls are several times
            slower.

    Raises:
        Qwen35Error: the folder is not a complete Qwen3.5 checkpoint.
    """
    if dtype is None and mx.default_device() == mx.cpu:
        dtype = "float32"
    if dtype is not None and dtype not in DTYPES:
        raise Qwen35Error(f"dtype '{dtype}' is not known: use one of {', '.join(DTYPES)}")
    checkpoint = Checkpoint.open(path)
    checkpoint.verify()
    return Network(checkpoint.model, Weights(checkpoint, DTYPES[dtype] if dtype else None))
