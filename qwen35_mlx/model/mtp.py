"""The multi-token-prediction (MTP) head: one layer that predicts the token after the next."""

import mlx.core as mx

from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.model.attention import Rope
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.weights import Weights


class MTPHead:
    """fc(norm(embedding of token t + 1), norm(hidden at t)) through one full-attention layer.

    The network's embedding and output head are shared: inputs are embeddings, outputs are hidden
    states for `Network.logits`. The head has a `KVCache` of its own.
    """

    def __init__(self, config: ModelConfig, weights: Weights, rope: Rope):
        eps = config.rms_norm_eps
        self.embedding_norm = RMSNorm(weights.array("pre_fc_norm_embedding.weight"), eps)
        self.hidden_norm = RMSNorm(weights.array("pre_fc_norm_hidden.weight"), eps)
        self.fc = weights.linear("fc")
        self.layer = Layer("full_attention", config, weights.scope("layers").scope(0), rope)
        self.norm = RMSNorm(weights.array("norm.weight"), eps)
        self._parallel = weights.parallel

    def __call__(self, hidden: mx.array, embedded_next: mx.array, cache: KVCache) -> mx.array:
        """Input of the output head for the token at t + 2.

        Args:
            hidden: [B, T, hidden], the network's output at t, after its final norm; or this
                head's own output, to predict one token further.
            embedded_next: [B, T, hidden], embedding of the token at t + 1.

        Returns:
            [B, T, hidden]
        """
        x = self.fc(
            mx.concatenate(
                [self.embedding_norm(embedded_next), self.hidden_norm(hidden)], axis=-1
            ).astype(hidden.dtype)
        )
        x = self.layer(x, cache)
        return self.norm(self._parallel.begin(x))
