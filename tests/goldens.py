"""The committed references of tests/goldens and their networks."""

from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.model.network import Network

FOLDER = Path(__file__).parent / "goldens"
NAMES = sorted(path.name for path in FOLDER.iterdir())


@cache
def network(name: str, mtp: bool = False) -> Network:
    return load_network(open_checkpoint(FOLDER / name), dtype="float32", mtp=mtp)


@cache
def expected(name: str) -> dict[str, mx.array]:
    """prompt [P] and greedy [S] ids; prefill [P, V], decode [S, V], mtp [P - 1, V] logits."""
    return mx.load(str(FOLDER / name / "expected.safetensors"))  # type: ignore[return-value]


def assert_logits(got: mx.array, want: mx.array, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(np.array(got), np.array(want), rtol=0, atol=tolerance)
