"""Published sizes with random weights, for benchmarks: speed does not depend on what they say."""

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
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.kernels.selection import KernelSelection
from qwen35_mlx.model import moe
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.operations import select_kernels
from qwen35_mlx.model.weight_shapes import trunk_tensors
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

# As config.json has them.
SHAPES = {
    "0.8b": _config(1024, 24, 8, 2, 16, intermediate_size=3584, **_TIED),
    "4b": _config(2560, 32, 16, 4, 32, intermediate_size=9216, **_TIED),
    "9b": _config(4096, 32, 16, 4, 32, intermediate_size=12288),
    "27b": _config(5120, 64, 24, 4, 48, intermediate_size=17408),
    "35b-a3b": _config(2048, 40, 16, 2, 32, **_experts(256, 8, 512)),
    # For a CPU, to try a benchmark out.
    "tiny": _config(256, 4, 4, 2, 32, vocab_size=2048, **_experts(16, 4, 128)),
}


class RandomSource:
    """A `Source` whose tensors are drawn when they are read, each the same every time.

    Args:
        bits: of the affine quantisation, groups of 64.
        dtype: of everything that is not packed.
    """

    def __init__(self, config: ModelConfig, bits: int = 4, dtype: mx.Dtype = mx.bfloat16):
        self.config, self.dtype = config, dtype
        self._shapes = trunk_tensors(config)
        self._how: dict[str, Quantization | None] = {}
        wanted = recipes.quantization("affine", bits)
        for name, shape in self._shapes.items():
            self._how[name.removesuffix(".weight")] = recipes.quantization_for(name, shape, wanted)
        self._drawn: dict[tuple[int, ...], mx.array] = {}

    def names(self) -> frozenset[str]:
        return frozenset(
            full
            for module, how in self._how.items()
            for full in (
                [f"{module}.{part}" for part in ("weight", "scales", "biases")]
                if how
                else [n for n in (module, f"{module}.weight") if n in self._shapes]
            )
        )

    def quantization(self, module: str) -> Quantization | None:
        return self._how.get(module)

    def read(self, name: str) -> mx.array:
        """Matrices of variance 1 / in, packed or not; decays from a few tokens to thousands."""
        key = mx.random.key(crc32(name.encode()))
        module, part = name.rsplit(".", 1)
        how = self.quantization(module)
        shape = self._shapes.get(name) or self._shapes[f"{module}.weight"]
        if how is not None:
            packed = how.packed(shape)[part]
            # The codes 0 ... 2^bits - 1 have a deviation of about 2^bits / sqrt(12).
            scale = (12 / shape[-1]) ** 0.5 / 2**how.bits
            if part == "weight":
                return self._words(packed) ^ mx.array(crc32(name.encode()), mx.uint32)
            value = scale if part == "scales" else -scale * (2**how.bits - 1) / 2
            return mx.full(packed, value, self.dtype)
        if part == "A_log":
            return mx.random.uniform(-5, 0.5, shape, key=key)
        if part == "dt_bias":
            return mx.random.uniform(-4, 1, shape, key=key).astype(self.dtype)
        if len(shape) == 1:
            return mx.ones(shape, mx.float32 if "linear_attn" in name else self.dtype)
        scale = 0.4 if "conv1d" in name else shape[-1] ** -0.5
        return (scale * mx.random.normal(shape, key=key)).astype(self.dtype)

    def _words(self, shape: tuple[int, ...]) -> mx.array:
        """Random bits, drawn once for each shape: drawing takes longer than all else."""
        if shape not in self._drawn:
            words = mx.random.randint(0, 1 << 16, (*shape, 2), mx.uint16, mx.random.key(1))
            self._drawn[shape] = words.view(mx.uint32).squeeze(-1)
            mx.eval(self._drawn[shape])
        return self._drawn[shape]


def random_source(shape: str, bits: int = 4) -> RandomSource:
    """Weights of one of `SHAPES`."""
    return RandomSource(ModelConfig.from_dict(SHAPES[shape]), bits)


def random_network(source: RandomSource) -> Network:
    """The network of this package, in the forms that are fastest here."""
    network = Network(source.config, Weights(source))
    select_kernels(network, print)
    return network


def take_kernels(selection: KernelSelection) -> None:
    """Choose the forms that a GPU starts from, untried; none where there is no GPU."""
    if gpu_kernel.backend():
        selection.delta_decode = "one dispatch"
        selection.delta_prefill = "tiles"
        selection.experts_decode = experts.KERNEL
        selection.qk_norm_rope = qk_norm_rope.KERNEL
        selection.decode_attention = decode_attention.KERNEL
        selection.matmul_decode = matvec.KERNEL
        selection.experts_prefill = moe.BLOCKS
        selection.matmul_prefill = quantized.UNPACKED


def mlx_lm_model(shape: str, source: RandomSource) -> Any:
    """The same weights in mlx-lm's network."""
    import mlx.nn as nn
    from mlx_lm.models import qwen3_5, qwen3_5_moe

    config = SHAPES[shape]
    code: Any = qwen3_5_moe if source.config.num_experts else qwen3_5
    model = code.Model(code.ModelArgs.from_dict(config))

    def how(path: str, module: Any) -> bool | dict[str, Any]:
        found = source.quantization(path.removeprefix("language_model."))
        if found is None or not hasattr(module, "to_quantized"):
            return False
        return {"group_size": found.group_size, "bits": found.bits}

    nn.quantize(model, class_predicate=how)
    for name in sorted(source.names()):
        array = source.read(name)
        mx.eval(array)
        model.load_weights([(f"language_model.{name}", array)], strict=False)
    model.eval()
    return model


def peer_layer(shape: str, layer: int) -> tuple[Any, RandomSource]:
    """mlx-lm's decoder layer, and the source of its weights."""
    import mlx.nn as nn
    from mlx_lm.models import qwen3_5

    source = random_source(shape)
    args = qwen3_5.TextModelArgs.from_dict(SHAPES[shape]["text_config"])
    module = qwen3_5.DecoderLayer(args, layer)
    prefix = f"model.layers.{layer}."

    def how(path: str, found: Any) -> bool | dict[str, Any]:
        wanted = source.quantization(prefix + path)
        if wanted is None or not hasattr(found, "to_quantized"):
            return False
        return {"group_size": wanted.group_size, "bits": wanted.bits}

    nn.quantize(module, class_predicate=how)
    names = [n for n in source.names() if n.startswith(prefix)]
    module.load_weights([(n.removeprefix(prefix), source.read(n)) for n in names])
    mx.eval(module.parameters())
    return module, source
