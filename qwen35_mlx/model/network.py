"""The whole text network: embedding, layers, final norm, output head, and the MTP head."""

import mlx.core as mx

from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.model.attention import make_rope
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.mtp import MTPHead
from qwen35_mlx.model.weights import Weights

# So long a prompt is computed layer by layer, so that what one layer takes for itself, such as its
# experts unpacked, is given back before the next begins.
EVALUATE_FROM = 256


class Network:
    """Token ids to logits.

    Weights are read and joined layer by layer as this is built, so at no time is more than one
    layer held twice.

    Attributes:
        dtype: of the activations and the KV cache.
        selection: which forms of its operations it runs; all plain to begin with.

    Raises:
        Qwen35Error: a tensor is missing or of the wrong shape.
    """

    def __init__(self, config: ModelConfig, weights: Weights):
        self.config = config
        self.selection = weights.selection
        rope = make_rope(config)
        trunk = weights.scope("model")
        self.embed_tokens = trunk.linear("embed_tokens", config.vocab_size, config.hidden_size)
        layers = trunk.scope("layers")
        self.layers = [
            Layer(kind, config, layers.scope(i), rope) for i, kind in enumerate(config.layer_types)
        ]
        self.norm = RMSNorm(trunk.array("norm.weight", config.hidden_size), config.rms_norm_eps)
        self.dtype = self.embed_tokens.dtype or self.norm.weight.dtype
        self.lm_head = (
            self.embed_tokens
            if config.tie_word_embeddings
            else weights.linear("lm_head", config.vocab_size, config.hidden_size)
        )
        self.mtp = MTPHead(config, weights.scope("mtp"), rope) if weights.has("mtp") else None

    def make_cache(self, left_padding: mx.array | None = None, kv_bits: int | None = None) -> Cache:
        """An empty cache; the batch size is settled by the first ids."""
        return Cache(self.config, left_padding, kv_bits)

    def __call__(self, ids: mx.array, cache: Cache) -> mx.array:
        """Hidden states after the final norm, of tokens that follow those in the cache.

        ids [B, T] int32 -> [B, T, hidden]. Any split of a prompt into calls gives the same.
        """
        tokens = ids.shape[1]
        valid = None
        if cache.left_padding is not None:
            positions = mx.arange(cache.offset, cache.offset + tokens)
            valid = positions >= cache.left_padding[:, None]
        x = self.embed(ids)
        for layer, entry in zip(self.layers, cache.layers, strict=True):
            x = layer(x, entry, cache.left_padding, valid)
            if tokens >= EVALUATE_FROM:
                mx.eval(x, entry.arrays)
        cache.offset += tokens
        return self.norm(x)

    def embed(self, ids: mx.array) -> mx.array:
        """ids [B, T] -> [B, T, hidden]."""
        return self.embed_tokens.rows(ids, self.dtype)

    def logits(self, hidden: mx.array) -> mx.array:
        """[..., hidden] -> [..., vocab], in the model's dtype."""
        return self.lm_head(hidden)
