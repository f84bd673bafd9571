"""The text network: embedding, layers, final norm, output head and, on request, the MTP head."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.model.attention import make_rope
from qwen35_mlx.model.cache import NO_OFFSET, Cache
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.mtp import MTPHead
from qwen35_mlx.model.recordings import PassRecording
from qwen35_mlx.model.stack import Stack
from qwen35_mlx.model.weights import Weights

# From this many tokens on, layers are evaluated one by one, so that the temporary arrays of each,
# such as unpacked experts, are freed. The next layer is launched meanwhile, or a fast GPU would
# wait for the host: those of `memory.LAYERS_AT_ONCE` are in memory.
EVALUATE_FROM = 256


class Network:
    """Token ids to logits.

    Weights are read and joined one layer at a time, so that at most one layer is in memory twice.

    Args:
        config: sizes of the network.
        weights: of the whole checkpoint.
        mtp: whether to read the MTP head.

    Attributes:
        parallel: the processes that run it together: all make the same calls in the same order.
        dtype: of the activations and the KV cache.
        selection: the variant of each operation; all references at first.
        mtp: the MTP head; None if it was not requested or the checkpoint has none.

    Raises:
        Qwen35Error: a tensor is missing or has the wrong shape.
    """

    def __init__(self, config: ModelConfig, weights: Weights, mtp: bool = False):
        self.config = config
        self.selection = weights.selection
        self.parallel = weights.parallel
        rope = self._rope = make_rope(config)
        trunk = weights.scope("model")
        self.embed_tokens = trunk.linear("embed_tokens")
        layers = trunk.scope("layers")
        shared = PassRecording(weights.selection)
        self.layers = [
            Layer(kind, config, layers.scope(i), rope, shared)
            for i, kind in enumerate(config.layer_types)
        ]
        self.norm = RMSNorm(trunk.array("norm.weight"), config.rms_norm_eps)
        self.dtype = weights.dtype or self.embed_tokens.dtype or self.norm.weight.dtype
        tied = config.tie_word_embeddings
        self.lm_head = self.embed_tokens if tied else weights.linear("lm_head")
        self.mtp: MTPHead | None = None
        if mtp and weights.has("mtp"):
            self.read_mtp(weights)

    def read_mtp(self, weights: Weights) -> None:
        """Read the MTP head, or replace it by another.

        Args:
            weights: of a whole checkpoint.

        Raises:
            Qwen35Error: a tensor of it is missing or has the wrong shape.
        """
        of_head = weights.scope("mtp")
        of_head.selection = self.selection
        self.mtp = MTPHead(self.config, of_head, self._rope)

    def make_cache(self, kv_bits: int | None = None) -> Cache:
        """An empty cache. The first ids set its batch size.

        Args:
            kv_bits: as `KVCache.bits`.
        """
        return Cache(self.config, kv_bits, mtp=self.mtp is not None)

    def __call__(self, ids: mx.array, cache: Cache, *, revocable: bool = False) -> mx.array:
        """Hidden states, after the final norm, of tokens that follow those in the cache.

        A prompt may be split into calls in any way: up to rounding, the result is the same.

        Args:
            ids: [B, T] int32.
            revocable: whether `take_back` may follow; it keeps the state from before this call.

        Returns:
            [B, T, hidden]
        """
        tokens = ids.shape[1]
        x = self.parallel.before_layers(self.embed(ids))
        # An interruption leaves some layers a pass ahead of the others: no state of any offset.
        offset, cache.offset = cache.offset, NO_OFFSET
        for layer, entry in zip(self.layers, cache.layers, strict=True):
            before, x = x, layer(x, entry, revocable=revocable)
            if tokens >= EVALUATE_FROM:
                mx.async_eval(x, entry.arrays)
                mx.eval(before)
        cache.offset = offset + tokens
        return self.norm(self.parallel.after_layers(x))

    def together(self, ids: mx.array, caches: Sequence[Cache], stacks: Sequence[Stack]) -> mx.array:
        """Hidden states, after the final norm, of the next token of several conversations.

        Up to rounding, each has what a call of its own would give. `take_back(cache, 1)` may follow
        in each.

        Args:
            ids: [N, 1] int32.
            caches: of each, not empty. The batch size of all is 1.
            stacks: from `make_stacks`, of the same conversations as far as possible.

        Returns:
            [N, 1, hidden]
        """
        x = self.parallel.before_layers(self.embed(ids))
        offsets = [cache.offset for cache in caches]
        positions = mx.array(offsets, mx.int32)
        for cache in caches:
            cache.offset = NO_OFFSET
        for i, (layer, stack) in enumerate(zip(self.layers, stacks, strict=True)):
            x = layer.together(x, [cache.layers[i] for cache in caches], positions, stack)
        for cache, offset in zip(caches, offsets, strict=True):
            cache.offset = offset + 1
        return self.norm(self.parallel.after_layers(x))

    def make_stacks(self) -> list[Stack]:
        """Of each layer, for conversations that `together` runs."""
        return [Stack() for _ in self.layers]

    def take_back(self, cache: Cache, count: int) -> None:
        """Remove the last `count` tokens of the last call, a revocable one, from the cache.

        Its state is then that of the tokens that stay, up to rounding.
        """
        if count:
            for layer, entry in zip(self.layers, cache.layers, strict=True):
                layer.take_back(count, entry)
            cache.offset -= count

    def token_array(self, ids: Sequence[int]) -> mx.array:
        """ids [T] -> [1, T] int32. MLX reads out of bounds for an id without an embedding.

        Raises:
            Qwen35Error: an id is not in the vocabulary, or not a whole number.
        """
        vocab = self.config.vocab_size
        array = np.asarray(ids)
        if (
            array.dtype.kind not in "iu"
            or array.min(initial=0) < 0
            or array.max(initial=0) >= vocab
        ):
            bad = next((i for i in ids if not (isinstance(i, int) and 0 <= i < vocab)), ids)
            raise Qwen35Error(f"token id {bad!r} is not in the vocabulary of {vocab:,}")
        return mx.array(array[None].astype(np.int32))

    def embed(self, ids: mx.array) -> mx.array:
        """ids [B, T] -> [B, T, hidden]."""
        shard = self.config.shard
        if shard is None:
            return self.embed_tokens.rows(ids, self.dtype)
        ids = ids - shard.rank * self.config.vocab_rows
        here = (ids >= 0) & (ids < self.config.vocab_rows)
        rows = self.embed_tokens.rows(mx.where(here, ids, 0), self.dtype)
        return self.parallel.begin(self.parallel.sum(mx.where(here[..., None], rows, 0)))

    def logits(self, hidden: mx.array) -> mx.array:
        """[..., hidden] -> [..., vocab], in the model's dtype."""
        logits = self.lm_head(hidden)
        if self.config.shard is None:
            return logits
        whole = self.parallel.begin(self.parallel.side_by_side(logits))
        return whole[..., : self.config.vocab_size]
