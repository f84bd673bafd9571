"""One block: a mixer over tokens, then a feed-forward, each behind a norm and added back."""

import mlx.core as mx

from qwen35_mlx.model.attention import Attention, Rope
from qwen35_mlx.model.cache import DeltaState, KVCache
from qwen35_mlx.model.config import LayerType, ModelConfig
from qwen35_mlx.model.delta_net import GatedDeltaNet
from qwen35_mlx.model.moe import MLP, SparseMoE
from qwen35_mlx.model.weights import Weights


class Layer:
    """x += mixer(norm(x)); x += mlp(norm(x))."""

    def __init__(self, kind: LayerType, config: ModelConfig, weights: Weights, rope: Rope):
        self.eps = config.rms_norm_eps
        self.mixer: Attention | GatedDeltaNet
        if kind == "full_attention":
            self.mixer = Attention(config, weights.scope("self_attn"), rope)
        else:
            self.mixer = GatedDeltaNet(config, weights.scope("linear_attn"))
        mlp = weights.scope("mlp")
        self.mlp = (
            SparseMoE(config, mlp)
            if config.num_experts
            else MLP(config.hidden_size, config.intermediate_size, mlp)
        )
        self.mixer_norm = weights.array("input_layernorm.weight", config.hidden_size)
        self.mlp_norm = weights.array("post_attention_layernorm.weight", config.hidden_size)

    def __call__(
        self,
        x: mx.array,
        cache: KVCache | DeltaState,
        left_padding: mx.array | None = None,
        valid: mx.array | None = None,
    ) -> mx.array:
        """x [B, T, hidden] -> [B, T, hidden]; `left_padding` and `valid`: see `Cache`."""
        mixed = mx.fast.rms_norm(x, self.mixer_norm, self.eps).astype(x.dtype)
        if isinstance(self.mixer, Attention):
            assert isinstance(cache, KVCache)
            x = x + self.mixer(mixed, cache, left_padding)
        else:
            assert isinstance(cache, DeltaState)
            x = x + self.mixer(mixed, cache, valid)
        return x + self.mlp(mx.fast.rms_norm(x, self.mlp_norm, self.eps).astype(x.dtype))
