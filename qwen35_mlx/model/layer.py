"""One decoder layer: a mixer over tokens, then a feed-forward, each with a norm and a residual."""

from collections.abc import Sequence
from typing import cast

import mlx.core as mx

from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.model.attention import Attention, Rope
from qwen35_mlx.model.cache import DeltaPass, DeltaState
from qwen35_mlx.model.config import LayerType, ModelConfig
from qwen35_mlx.model.delta_net import GatedDeltaNet
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.moe import MLP, SparseMoE
from qwen35_mlx.model.recordings import PassRecording, Recordings
from qwen35_mlx.model.stack import Stack
from qwen35_mlx.model.weights import Weights


class Layer:
    """x += mixer(norm(x)); x += mlp(norm(x)).

    Everything except the KV cache is in functions of arrays alone, which are recorded.

    Args:
        shared: a recording of the network's full-attention layers; None for a layer by itself.
    """

    def __init__(
        self,
        kind: LayerType,
        config: ModelConfig,
        weights: Weights,
        rope: Rope,
        shared: PassRecording | None = None,
    ):
        self.mixer: Attention | GatedDeltaNet
        if kind == "full_attention":
            self.mixer = Attention(config, weights.scope("self_attn"), rope, shared)
        else:
            self.mixer = GatedDeltaNet(config, weights.scope("linear_attn"))
        mlp = weights.scope("mlp")
        self.mlp = SparseMoE(config, mlp) if config.num_experts else MLP(mlp)
        eps = config.rms_norm_eps
        self.mixer_norm = RMSNorm(weights.array("input_layernorm.weight"), eps)
        self.mlp_norm = RMSNorm(weights.array("post_attention_layernorm.weight"), eps)
        self._parallel = weights.parallel.of_layer
        self._recordings = Recordings(weights.selection)

    def __call__(
        self, x: mx.array, cache: KVCache | DeltaState, *, revocable: bool = False
    ) -> mx.array:
        """x [B, T, hidden] -> [B, T, hidden]; the tokens are added to `cache`.

        Args:
            revocable: whether `take_back` may follow.
        """
        if isinstance(cache, KVCache):
            return self._attend(x, cache)
        assert isinstance(self.mixer, GatedDeltaNet)
        if cache.conv is None or cache.recurrent is None:
            cache.conv, cache.recurrent = self.mixer.parameters.empty(x.shape[0], x.dtype)
        before = cache.conv, cache.recurrent
        run = self._recordings.get(self._delta_net_layer, x)
        x, cache.conv, cache.recurrent, projected = run(x, *before)
        cache.last_pass = DeltaPass(*before, projected) if revocable else None
        return x

    def together(
        self, x: mx.array, caches: Sequence[KVCache | DeltaState], offsets: mx.array, stack: Stack
    ) -> mx.array:
        """The next token of several conversations: x [N, 1, hidden] -> [N, 1, hidden].

        `take_back(1)` may follow in each of them.

        Args:
            caches: of each, not empty.
            offsets: number of tokens in each, int32 [N].
            stack: of the layer, empty at first.
        """
        if isinstance(self.mixer, Attention):
            q, kv, gate = self._recordings.get(self._project, x)(x, offsets)
            gated = self.mixer.attend_each(q, kv, gate, cast(Sequence[KVCache], caches))
            return self._recordings.get(self._after_gated, x)(x, gated)
        states = cast(Sequence[DeltaState], caches)
        run = self._recordings.get(self._delta_net_layer, x)
        x, conv, recurrent, projected = run(x, *stack.join(states))
        stack.hand_out(conv, recurrent, projected, states)
        return x

    def take_back(self, count: int, cache: KVCache | DeltaState) -> None:
        """Remove the last `count` tokens of the last call, a revocable one, from `cache`.

        More of it may be taken back afterwards.
        """
        if isinstance(cache, KVCache):
            cache.take_back(count)
            return
        assert isinstance(self.mixer, GatedDeltaNet)
        assert cache.last_pass is not None
        last, cache.last_pass = cache.last_pass, None
        cache.conv, cache.recurrent = last.conv, last.recurrent
        if kept := last.projected.shape[1] - count:
            projected = last.projected[:, :kept]
            run = self._recordings.get(self.mixer.replay, projected)
            cache.conv, cache.recurrent = run(projected, last.conv, last.recurrent)
            cache.last_pass = DeltaPass(last.conv, last.recurrent, projected)

    def _attend(self, x: mx.array, cache: KVCache) -> mx.array:
        """A full-attention layer: compiled functions before and after the cache update."""
        assert isinstance(self.mixer, Attention)
        # A compiled function would be recorded anew for every Python number.
        offset = mx.array(cache.offset, mx.int32) if self._recordings.applies(x) else cache.offset
        q, kv, gate = self._recordings.get(self._project, x)(x, offset)
        if self.mixer.uses_decode_kernel(q, kv, cache):
            gated = self.mixer.attend_gated(q, kv, gate, cache)
            return self._recordings.get(self._after_gated, x)(x, gated)
        attended = self.mixer.attend(q, kv, cache)
        return self._recordings.get(self._after_attention, x)(x, attended, gate)

    def _project(self, x: mx.array, offset: int | mx.array) -> tuple[mx.array, ...]:
        assert isinstance(self.mixer, Attention)
        return self.mixer.project(x, offset, self.mixer_norm)

    def _after_attention(self, x: mx.array, attended: mx.array, gate: mx.array) -> mx.array:
        assert isinstance(self.mixer, Attention)
        residual = self._parallel.residual(x)
        return self._add_mlp(self.mixer.gate_and_project(attended, gate, residual))

    def _after_gated(self, x: mx.array, gated: mx.array) -> mx.array:
        assert isinstance(self.mixer, Attention)
        return self._add_mlp(self.mixer.o_proj(gated, residual=self._parallel.residual(x)))

    def _delta_net_layer(
        self, x: mx.array, conv: mx.array, recurrent: mx.array
    ) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        assert isinstance(self.mixer, GatedDeltaNet)
        residual = self._parallel.residual(x)
        x, conv, recurrent, projected = self.mixer(x, conv, recurrent, self.mixer_norm, residual)
        return self._add_mlp(x), conv, recurrent, projected

    def _add_mlp(self, partial: mx.array) -> mx.array:
        """The layer's output, from the residual and this process's part of the mixer's output."""
        x = self._parallel.sum(partial)
        return self._parallel.sum(self.mlp(x, self.mlp_norm, self._parallel.residual(x)))
