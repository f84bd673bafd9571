"""A small sparse model with random weights: its replies are noise, but repeatable."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np

from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from tests.goldens import FOLDER

CONTEXT = 1000


def write_weights(path: Path, golden: str = "moe", **sizes: int) -> None:
    """config.json and model.safetensors in mlx-lm's layout, float32, MTP head included.

    Args:
        golden: whose config.json is taken.
        sizes: that are changed in it, beside the usual changes.
    """
    config = json.loads((FOLDER / golden / "config.json").read_text())
    config["text_config"] |= {
        "vocab_size": 512,
        "max_position_embeddings": CONTEXT,
        "eos_token_id": 511,
        "shared_expert_intermediate_size": 64,
        **sizes,
    }
    (path / "config.json").write_text(json.dumps(config))
    sizes = ModelConfig.from_dict(config)
    rng = np.random.default_rng(0)
    tensors = {
        f"language_model.{name}": _draw(name, shape, rng)
        for name, shape in (trunk_tensors(sizes) | mtp_tensors(sizes)).items()
    }
    mx.save_safetensors(str(path / "model.safetensors"), tensors, {"format": "mlx"})


def _draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> mx.array:
    if name.endswith("A_log"):
        return mx.array(rng.uniform(-5, 0.5, shape).astype(np.float32))
    if name.endswith("dt_bias"):
        return mx.array(rng.uniform(-4, 1, shape).astype(np.float32))
    if len(shape) == 1:
        return mx.array(rng.normal(1, 0.2, shape).astype(np.float32))
    scale = 0.4 if "conv1d" in name else shape[-1] ** -0.5
    return mx.array(rng.normal(0, scale, shape).astype(np.float32))
