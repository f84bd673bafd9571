"""Networks of published sizes with random weights; speed does not depend on the values."""

import math
from collections.abc import Iterable
from typing import Any
from zlib import crc32

import mlx.core as mx

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.kernels import (
    decode_attention,
    experts,
    gpu_kernel,
    matvec,
    qk_norm_rope,
    quantized,
)
from qwen35_mlx.kernels.hadamard import HadamardRotation
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.kernels.selection import KernelSelection
from qwen35_mlx.model import moe
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.linear import packing_name
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.operations import select_kernels
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from qwen35_mlx.model.weights import Weights


def _config(
    hidden: int, layers: int, heads: int, kv_heads: int, value_heads: int, **sizes: Any
) -> dict[str, Any]:
    sparse = "num_experts" in sizes
    return {
        "model_type": "qwen3_5_moe" if sparse else "qwen3_5",
        "text_config": {
            "model_type": "qwen3_5_moe_text" if sparse else "qwen3_5_text",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "full_attention_interval": 4,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": value_heads,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4,
            "vocab_size": 248320,
            "max_position_embeddings": 262144,
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e7,
                "partial_rotary_factor": 0.25,
            },
            **sizes,
        },
    }


def _experts(count: int, top_k: int, inner: int) -> dict[str, int]:
    return {
        "num_experts": count,
        "num_experts_per_tok": top_k,
        "moe_intermediate_size": inner,
        "shared_expert_intermediate_size": inner,
    }


_TIED = {"tie_word_embeddings": True}

# By name, the content of a config.json.
SHAPES = {
    "0.8b": _config(1024, 24, 8, 2, 16, intermediate_size=3584, **_TIED),
    "2b": _config(2048, 24, 8, 2, 16, intermediate_size=6144, **_TIED),
    "4b": _config(2560, 32, 16, 4, 32, intermediate_size=9216, **_TIED),
    "9b": _config(4096, 32, 16, 4, 32, intermediate_size=12288),
    "27b": _config(5120, 64, 24, 4, 48, intermediate_size=17408),
    "35b-a3b": _config(2048, 40, 16, 2, 32, **_experts(256, 8, 512)),
    "122b-a10b": _config(3072, 48, 32, 2, 64, **_experts(256, 8, 1024)),
    "397b-a17b": _config(4096, 60, 32, 2, 64, **_experts(512, 10, 1024)),
    # Not published: small enough to try a benchmark on a CPU.
    "tiny": _config(256, 4, 4, 2, 32, vocab_size=4096, **_experts(16, 4, 128)),
    "tiny-dense": _config(256, 4, 4, 2, 32, vocab_size=4096, intermediate_size=512, **_TIED),
}


def code_mask(quantization: Quantization) -> int:
    """Bits of random words that may be set: 8-bit floats are below 2, and so not NaN."""
    return 0xBFBFBFBF if quantization.mode == "mxfp8" else 0xFFFFFFFF


def scale_code(quantization: Quantization, width: int) -> int:
    """Of a float format: the scale for about unit outputs of rows of `width` random values."""
    deviation = 0.75 if quantization.bits == 8 else 2.9
    exponent = round(-math.log2(deviation * width**0.5))
    # The exponent of e8m0, and that of e4m3, which has three bits below it.
    return 127 + exponent if quantization.mode.startswith("mx") else max(7 + exponent, 1) << 3


class RandomSource:
    """A `Source` that draws each tensor when it is read, from a seed given by its name.

    Args:
        bits: bits of the affine quantisation, in groups of 64.
        dtype: type of the tensors that are not packed.
        mtp: whether there is an MTP head too.
    """

    def __init__(
        self,
        config: ModelConfig,
        bits: int = 4,
        dtype: mx.Dtype = mx.bfloat16,
        *,
        mtp: bool = False,
    ):
        self.config, self.dtype, self.mtp = config, dtype, mtp
        self._shapes = trunk_tensors(config) | (mtp_tensors(config) if mtp else {})
        self._quantizations: dict[str, Quantization | None] = {}
        default = recipes.quantization("affine", bits)
        for name, shape in self._shapes.items():
            module = name.removesuffix(".weight")
            self._quantizations[module] = recipes.quantization_for(name, shape, default)
        self._words: dict[tuple[int, ...], mx.array] = {}

    def names(self) -> frozenset[str]:
        return frozenset(
            name
            for module, quantization in self._quantizations.items()
            for name in (
                [f"{module}.{part}" for part in quantization.packed((0, 0))]
                if quantization
                else [n for n in (module, f"{module}.weight") if n in self._shapes]
            )
        )

    def quantization(self, module: str) -> Quantization | None:
        return self._quantizations.get(module)

    @property
    def packings(self) -> set[str]:
        """The formats of its matrices, as `Linear.packing`."""
        return {
            packing_name(q, self.dtype if q is None or q.mode == "affine" else mx.uint8)
            for q in self._quantizations.values()
        }

    def rotation(self, module: str) -> HadamardRotation | None:
        return None

    def read(self, name: str) -> mx.array:
        """Matrices have variance 1 / inputs; decays last from a few tokens to thousands."""
        key = mx.random.key(crc32(name.encode()))
        module, part = name.rsplit(".", 1)
        quantization = self.quantization(module)
        shape = self._shapes.get(name) or self._shapes[f"{module}.weight"]
        if quantization is not None:
            packed = quantization.packed(shape)[part]
            if part == "weight":
                words = self._packed_words(packed) ^ mx.array(crc32(name.encode()), mx.uint32)
                return words & mx.array(code_mask(quantization), mx.uint32)
            if quantization.mode != "affine":
                return mx.full(packed, scale_code(quantization, shape[-1]), mx.uint8)
            # The codes 0 ... 2^bits - 1 have a standard deviation of about 2^bits / sqrt(12).
            scale = (12 / shape[-1]) ** 0.5 / 2**quantization.bits
            value = scale if part == "scales" else -scale * (2**quantization.bits - 1) / 2
            return mx.full(packed, value, self.dtype)
        if part == "A_log":
            return mx.random.uniform(-5, 0.5, shape, key=key)
        if part == "dt_bias":
            return mx.random.uniform(-4, 1, shape, key=key).astype(self.dtype)
        if len(shape) == 1:
            return mx.ones(shape, mx.float32 if "linear_attn" in name else self.dtype)
        scale = 0.4 if "conv1d" in name else shape[-1] ** -0.5
        return (scale * mx.random.normal(shape, key=key)).astype(self.dtype)

    def _packed_words(self, shape: tuple[int, ...]) -> mx.array:
        """Random 32-bit words, drawn once per shape, because drawing dominates the load time."""
        if shape not in self._words:
            words = mx.random.randint(0, 1 << 16, (*shape, 2), mx.uint16, mx.random.key(1))
            self._words[shape] = words.view(mx.uint32).squeeze(-1)
            mx.eval(self._words[shape])
        return self._words[shape]


def random_source(shape: str, bits: int = 4, *, mtp: bool = False) -> RandomSource:
    """Random weights of one of `SHAPES`, on a CPU in float32: bfloat16 is slow there."""
    dtype = mx.bfloat16 if gpu_kernel.backend() else mx.float32
    return RandomSource(ModelConfig.from_dict(SHAPES[shape]), bits, dtype, mtp=mtp)


def random_network(source: RandomSource) -> Network:
    """This package's network, with the variants that are fastest on this machine."""
    network = Network(source.config, Weights(source.config, source), mtp=source.mtp)
    select_kernels(network, print)
    return network


def select_gpu_variants(selection: KernelSelection, packings: Iterable[str]) -> None:
    """Select the variants a GPU starts from, without trying them; no effect without a GPU.

    Args:
        packings: the formats of matrices to select kernels for, as `Linear.packing`.
    """
    if gpu_kernel.backend():
        selection.delta_decode = "one dispatch"
        selection.delta_prefill = "tiles"
        for packing in packings:
            selection.select("matmul_decode", matvec.KERNEL, packing)
            selection.select("experts_decode", experts.TWO_DISPATCHES, packing)
        selection.qk_norm_rope = qk_norm_rope.KERNEL
        selection.decode_attention = decode_attention.KERNEL
        selection.decode_attention_8bit = decode_attention.KERNEL
        selection.experts_prefill = moe.LARGE_BLOCKS
        selection.matmul_prefill = quantized.UNPACKED
