"""A checkpoint's text network over documents, with one layer in memory at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import UNPACKED
from qwen35_mlx.model.attention import make_rope
from qwen35_mlx.model.cache import DeltaState
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.memory import unpacked_expert_bytes
from qwen35_mlx.model.mtp import MTPHead
from qwen35_mlx.model.weights import Weights

# Tokens of one call of a layer, at most.
CHUNK = 512
# Elements of a matrix that are read at a time.
BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class Passage:
    """A document that a network reads.

    Attributes:
        ids: its tokens.
        chunk: tokens of one call of a layer, at most.
    """

    ids: Sequence[int]
    chunk: int = CHUNK

    def cuts(self) -> list[int]:
        """Where calls begin and end. They are of equal length."""
        calls = -(-len(self.ids) // self.chunk)
        return [len(self.ids) * i // calls for i in range(calls + 1)]


class Trunk:
    """The hidden states of passages, advanced layer by layer.

    Weights and activations are float32 whatever the checkpoint's dtype, and every operation is
    the reference, so that a difference between two models is one of their weights.

    Args:
        checkpoint: verified.
        name: of the model, for error lines.

    Attributes:
        hidden: [1, T, hidden] float32 for each passage; embeddings at first.
        layers: number of layers.
    """

    def __init__(self, checkpoint: Checkpoint, passages: Sequence[Passage], name: str):
        gpu_kernel.disable_tf32()
        self.checkpoint = checkpoint
        self.config = checkpoint.model
        self.name = name
        self.layers = len(self.config.layer_types)
        self._passages = passages
        self._rope = make_rope(self.config)
        self._weights = Weights(self.config, checkpoint, mx.float32)
        selection = self._weights.selection
        selection.matmul_prefill = UNPACKED
        on_cpu = mx.default_device() == mx.cpu
        if on_cpu and unpacked_expert_bytes(self.config, mx.float32.size):
            selection.experts_prefill = UNPACKED
        self.hidden = [self.embed(passage.ids) for passage in passages]

    def advance(self, index: int, prepare: Callable[[Layer], None] | None = None) -> None:
        """Read layer `index`, apply it to all hidden states, and free it.

        Args:
            prepare: called with the layer before it computes.

        Raises:
            Qwen35Error: a file cannot be read, or a hidden state is not finite.
        """
        kind = self.config.layer_types[index]
        scope = self._weights.scope("model").scope("layers").scope(index)
        layer = Layer(kind, self.config, scope, self._rope)
        if prepare is not None:
            prepare(layer)
        for i, passage in enumerate(self._passages):
            cache = KVCache() if kind == "full_attention" else DeltaState()
            pieces: list[mx.array] = []
            for piece in _split(self.hidden[i], passage):
                pieces.append(layer(piece, cache))
                mx.eval(pieces[-1], cache.arrays)
            self.hidden[i] = mx.concatenate(pieces, axis=1)
            mx.eval(self.hidden[i])
            if not mx.isfinite(self.hidden[i]).all().item():
                raise Qwen35Error(
                    f"{self.name}: layer {index} gives values that are not finite: its weights "
                    "are damaged, or too large for their dtype"
                )
        del layer
        mx.clear_cache()

    def finish(self) -> None:
        """Apply the final norm, after the last layer."""
        weight = self._weights.array("model.norm.weight")
        norm = RMSNorm(weight, self.config.rms_norm_eps)
        self.hidden = [norm(hidden) for hidden in self.hidden]
        mx.eval(self.hidden)

    def read_mtp_head(self, checkpoint: Checkpoint | None = None) -> MTPHead:
        """The multi-token-prediction head of the checkpoint, which has one.

        Args:
            checkpoint: of which it is read instead.
        """
        weights = self._weights
        if checkpoint is not None:
            weights = Weights(self.config, checkpoint, mx.float32)
            weights.selection = self._weights.selection
        return MTPHead(self.config, weights.scope("mtp"), self._rope)

    def run_mtp_head(self, head: MTPHead) -> list[mx.array]:
        """The head's output for each passage: [1, T - 1, hidden], after `finish`.

        Position t has seen the tokens up to t + 1, and predicts the one at t + 2.
        """
        outputs: list[mx.array] = []
        for hidden, passage in zip(self.hidden, self._passages, strict=True):
            cache = KVCache()
            embedded = self.embed(passage.ids[1:])
            cut = Passage(passage.ids[1:], passage.chunk)
            pairs = zip(_split(hidden[:, :-1], cut), _split(embedded, cut), strict=True)
            pieces: list[mx.array] = []
            for piece, following in pairs:
                pieces.append(head(piece, following, cache))
                mx.eval(pieces[-1], cache.arrays)
            outputs.append(mx.concatenate(pieces, axis=1))
        mx.eval(outputs)
        mx.clear_cache()
        return outputs

    def embed(self, ids: Sequence[int]) -> mx.array:
        """Embeddings [1, T, hidden] float32; only their rows are read."""
        wanted, positions = np.unique(np.asarray(ids), return_inverse=True)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
        name = "model.embed_tokens.weight"
        rows = [plain_rows(self.checkpoint, name, int(run[0]), int(run[-1]) + 1) for run in runs]
        embedded = mx.concatenate(rows)[mx.array(positions.reshape(-1))][None]
        mx.eval(embedded)
        return embedded

    def head_rows(self, start: int, stop: int) -> mx.array:
        """Rows of the output head, [stop - start, hidden] float32."""
        tied = self.config.tie_word_embeddings
        name = "model.embed_tokens.weight" if tied else "lm_head.weight"
        return plain_rows(self.checkpoint, name, start, stop)


def plain_rows(checkpoint: Checkpoint, name: str, start: int, stop: int) -> mx.array:
    """Rows of a tensor by its plain name, dequantised if need be: float32, evaluated."""
    rows = checkpoint.plain(name).read(start, stop).astype(mx.float32)
    mx.eval(rows)
    return rows


def _split(values: mx.array, passage: Passage) -> Iterator[mx.array]:
    """values [1, T, ...] in the pieces of a passage."""
    cuts = passage.cuts()
    for start, stop in pairwise(cuts):
        yield values[:, start:stop]
