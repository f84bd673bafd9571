"""One block: a mixer over tokens, then a feed-forward, each behind a norm and added back."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS
from qwen35_mlx.model.attention import Attention, Rope
from qwen35_mlx.model.cache import DeltaState, KVCache
from qwen35_mlx.model.config import LayerType, ModelConfig
from qwen35_mlx.model.delta_net import GatedDeltaNet
from qwen35_mlx.model.moe import MLP, SparseMoE
from qwen35_mlx.model.weights import Weights


class Layer:
    """x += mixer(norm(x)); x += mlp(norm(x)).

    Everything but the KV cache is in functions of arrays alone, which can be compiled: for a few
    tokens Python takes longer to ask for a layer than a GPU to compute it.
    """

    def __init__(self, kind: LayerType, config: ModelConfig, weights: Weights, rope: Rope):
        self.selection = weights.selection
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
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.mixer_norm = RMSNorm(weights.array("input_layernorm.weight", hidden), eps)
        self.mlp_norm = RMSNorm(weights.array("post_attention_layernorm.weight", hidden), eps)
        self._compiled: dict[str, Callable[..., Any]] = {}

    def __call__(
        self,
        x: mx.array,
        cache: KVCache | DeltaState,
        left_padding: mx.array | None = None,
        valid: mx.array | None = None,
    ) -> mx.array:
        """x [B, T, hidden] -> [B, T, hidden]; `left_padding` and `valid`: see `Cache`."""
        step = self.selection.compiled and x.shape[1] <= MAX_DECODE_TOKENS and valid is None
        if isinstance(cache, KVCache):
            assert isinstance(self.mixer, Attention)
            project = self._compile("project", self._project) if step else self._project
            finish = self._compile("finish", self._finish) if step else self._finish
            offset = mx.array(cache.offset, mx.int32) if step else cache.offset
            q, k, v, gate = project(x, offset)
            if self.mixer.gates_in_kernel(q, k, cache, left_padding):
                close = self._compile("close", self._close) if step else self._close
                return close(x, self.mixer.attend_gated(q, k, v, gate, cache))
            return finish(x, self.mixer.attend(q, k, v, cache, left_padding), gate)
        assert isinstance(self.mixer, GatedDeltaNet)
        if cache.conv is None or cache.recurrent is None:
            cache.conv, cache.recurrent = self.mixer.parameters.empty(x.shape[0], x.dtype)
        recur = self._compile("recur", self._recur) if step else self._recur
        padded = () if valid is None else (valid,)
        x, cache.conv, cache.recurrent = recur(x, cache.conv, cache.recurrent, *padded)
        return x

    def _project(self, x: mx.array, offset: int | mx.array) -> tuple[mx.array, ...]:
        assert isinstance(self.mixer, Attention)
        return self.mixer.project(x, offset, self.mixer_norm)

    def _finish(self, x: mx.array, attended: mx.array, gate: mx.array) -> mx.array:
        assert isinstance(self.mixer, Attention)
        return self._feed(self.mixer.output(attended, gate, residual=x))

    def _close(self, x: mx.array, gated: mx.array) -> mx.array:
        assert isinstance(self.mixer, Attention)
        return self._feed(self.mixer.o_proj(gated, residual=x))

    def _recur(
        self, x: mx.array, conv: mx.array, recurrent: mx.array, valid: mx.array | None = None
    ) -> tuple[mx.array, mx.array, mx.array]:
        assert isinstance(self.mixer, GatedDeltaNet)
        x, conv, recurrent = self.mixer(x, conv, recurrent, valid, self.mixer_norm, residual=x)
        return self._feed(x), conv, recurrent

    def _feed(self, x: mx.array) -> mx.array:
        return self.mlp(x, self.mlp_norm, residual=x)

    def _compile(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        if name not in self._compiled:
            self._compiled[name] = mx.compile(function)
        return self._compiled[name]
