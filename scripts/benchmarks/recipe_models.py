"""Networks for `recipes`: a model's matrices quantised by a recipe, and unpacked again.

A network of the unpacked values computes what one of the packed matrices does, up to rounding in
float32. It needs no kernels for packed matrices, which are slow on a CPU and, for some formats,
missing on CUDA.
"""

from dataclasses import replace
from typing import Any
from zlib import crc32

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.recipes import Assignment, Recipe
from qwen35_mlx.conversion.calibration import Importance
from qwen35_mlx.conversion.quantizer import quantize
from qwen35_mlx.kernels.quantized import Quantization, dequantize
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.operations import select_kernels
from qwen35_mlx.model.weight_shapes import trunk_tensors
from qwen35_mlx.model.weights import Weights
from scripts.support.random_weights import SHAPES

Tensors = dict[str, mx.array]


def named_recipes() -> dict[str, Recipe]:
    """Every recipe of the package, and plain quantisation, by the name of its row."""
    plain = {f"plain_{bits}": Quantization(64, bits) for bits in (2, 3, 4, 5, 6, 8)}
    plain["plain_4_of_32"] = Quantization(32, 4)
    plain |= {f"plain_{mode}": recipes.quantization(mode) for mode in ("nvfp4", "mxfp4", "mxfp8")}
    found = {"bfloat16": Recipe("bfloat16", None)}
    for name, quantization in plain.items():
        recipe = replace(recipes.plain(quantization), name=name)
        found[name] = recipe
        found[f"{name}_searched"] = replace(recipe, name=f"{name}_searched", search=True)
    for name, recipe in recipes.RECIPES.items():
        found[name] = recipe
        if recipe.search:
            found[f"{name}_unsearched"] = replace(recipe, name=f"{name}_unsearched", search=False)
    return found


def plain_tensors(checkpoint: Checkpoint) -> Tensors:
    """The text network's tensors in float32, packed ones unpacked."""
    stored, tensors = checkpoint.names(), {}
    for name in trunk_tensors(checkpoint.model):
        module = name.removesuffix(".weight")
        q = checkpoint.quantization(module)
        if q is not None and f"{module}.scales" in stored:
            parts = [checkpoint.read(f"{module}.{part}") for part in q.packed((1, q.group_size))]
            tensors[name] = _unpacked(parts, q)
        else:
            tensors[name] = checkpoint.read(name).astype(mx.float32)
        mx.eval(tensors[name])
    return tensors


def _unpacked(parts: list[mx.array], q: Quantization) -> mx.array:
    """Packed weight, scales and, in affine mode, biases -> float32 values."""
    weight, *others = parts
    if q.mode == "affine":  # else the products would be rounded to the dtype of the scales
        others = [part.astype(mx.float32) for part in others]
    return dequantize(weight, others[0], others[1] if others[1:] else None, q, mx.float32)


class RecipeNetworks:
    """Networks of one model's float32 tensors, as recipes quantise them.

    Matrices are rounded to bfloat16 first, as are scales and biases. What a matrix is in one format
    is computed once, on the CPU, where every format exists. All networks run the variants of
    operations that were selected for the exact one.

    Args:
        importance: of inputs, which searches for scales weight errors by where that is asked for.
    """

    def __init__(self, config: ModelConfig, tensors: Tensors, importance: Importance | None = None):
        self.importance = importance or {}
        self.config, self.tensors = config, tensors
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.parameters = sum(tensor.size for tensor in tensors.values())
        self._packed: dict[tuple[str, Quantization, bool, bool], list[mx.array]] = {}
        self.exact = Network(config, Weights(config, _Source(tensors), mx.float32))
        select_kernels(self.exact, print)

    def nbytes(self, recipe: Recipe) -> int:
        return recipes.nbytes(self.shapes, recipes.assign(recipe, self.shapes, self.config))

    def network(self, recipe: Recipe, *, calibrated: bool = False) -> Network:
        assignment = recipes.assign(recipe, self.shapes, self.config)
        values = self._quantized(assignment, recipe.search, calibrated)
        weights = Weights(self.config, _Source(values), mx.float32)
        weights.selection = self.exact.selection
        return Network(self.config, weights)

    def _quantized(self, assignment: Assignment, search: bool, calibrated: bool) -> Tensors:
        values: Tensors = {}
        with mx.stream(mx.cpu):
            for name, tensor in self.tensors.items():
                q = assignment[name]
                if q is not None:
                    values[name] = _unpacked(self._parts(name, q, search, calibrated), q)
                elif recipes.is_quantizable(name, tensor.shape):
                    values[name] = tensor.astype(mx.bfloat16).astype(mx.float32)
                else:
                    values[name] = tensor
                mx.eval(values[name])
        return values

    def _parts(self, name: str, q: Quantization, search: bool, calibrated: bool) -> list[mx.array]:
        key = name, q, search, calibrated
        if key not in self._packed:
            values = self.tensors[name].astype(mx.bfloat16)
            plain = mx.quantize(values, q.group_size, q.bits, mode=q.mode)
            importance = self.importance.get(name) if calibrated else None
            parts = quantize(values, q, importance) if search else list(plain)
            mx.eval(parts)
            self._packed[key] = parts
        return self._packed[key]


class _Source:
    """A `TensorSource` of plain tensors."""

    def __init__(self, tensors: Tensors):
        self._tensors = tensors

    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def read(self, name: str) -> mx.array:
        return self._tensors[name]

    def quantization(self, module: str) -> None:
        return None

    def rotation(self, module: str) -> None:
        return None


def random_config() -> ModelConfig:
    """A dense model with an untied head, of the proportions of the 27B model."""
    text: dict[str, Any] = SHAPES["27b"]["text_config"] | {
        "hidden_size": 640, "num_hidden_layers": 8, "num_attention_heads": 6,
        "num_key_value_heads": 1, "head_dim": 128, "linear_num_key_heads": 2,
        "linear_num_value_heads": 6, "intermediate_size": 2176, "vocab_size": 4096,
    }  # fmt: skip
    return ModelConfig.from_dict(SHAPES["27b"] | {"text_config": text})


_GAINS = {"embed": 25.0, "conv1d": 0.8, "out_proj": 0.1, "o_proj": 0.1, "down_proj": 0.1}


def random_tensors(config: ModelConfig) -> Tensors:
    """Student's t with 5 degrees of freedom; one input in 64 is 5 times as large."""
    tensors = {}
    for name, shape in trunk_tensors(config).items():
        rng = np.random.default_rng(crc32(name.encode()))
        if name.endswith(".A_log"):
            values = rng.uniform(-5, 0.5, shape)
        elif name.endswith(".dt_bias"):
            values = rng.uniform(-4, 1, shape)
        elif len(shape) == 1:
            values = np.exp(rng.normal(0, 0.3, shape))
        else:
            # Layers add a tenth of what the embeddings are, so that errors stay small.
            gain = next((gain for end, gain in _GAINS.items() if end in name), 1.0)
            values = rng.standard_t(5, shape) * gain * shape[-1] ** -0.5
            if shape[-1] >= 64:
                values[..., rng.choice(shape[-1], shape[-1] // 64, replace=False)] *= 5
        tensors[name] = mx.array(values.astype(np.float32))
    return tensors
