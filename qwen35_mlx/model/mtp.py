"""The multi-token-prediction head: one layer that guesses the token after the next."""

import mlx.core as mx

from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.model.attention import Rope
from qwen35_mlx.model.cache import KVCache
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.weights import Weights


class MTPHead:
    """fc(norm(embedding of t + 1), norm(hidden of t)) through one full-attention layer.

    Embedding and output head are the network's own: this takes embeddings and gives hidden
    states for `Network.logits`. It needs a `KVCache` of its own.
    """

    def __init__(self, config: ModelConfig, weights: Weights, rope: Rope):
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.embedding_norm = RMSNorm(weights.array("pre_fc_norm_embedding.weight", hidden), eps)
        self.hidden_norm = RMSNorm(weights.array("pre_fc_norm_hidden.weight", hidden), eps)
        self.fc = weights.linear("fc", hidden, 2 * hidden)
        self.layer = Layer("full_attention", config, weights.scope("layers").scope(0), rope)
        self.norm = RMSNorm(weights.array("norm.weight", hidden), eps)

    def __call__(self, hidden: mx.array, embedded_next: mx.array, cache: KVCache) -> mx.array:
        """What to feed to the output head for the token at t + 2.

        Args:
            hidden: [B, T, hidden], the network's output at t, after its final norm; or this
                head's own output, to guess one token further.
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
        return self.norm(x)
