"""How much each input of a matrix counts, measured on a text.

An error of a weight changes an output by the error times the input. So the search for scales
weights the squared error of each weight by the mean square of its input, over the tokens of a text
that the plain model reads. The idea is that of llama.cpp's importance matrix. The format of the
result is unchanged.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.evaluation.layers import Passage, Trunk
from qwen35_mlx.evaluation.text import make_documents
from qwen35_mlx.evaluation.watching import watched
from qwen35_mlx.kernels.selection import REFERENCE
from qwen35_mlx.model.attention import Attention
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.moe import MLP
from qwen35_mlx.model.mtp import MTPHead
from qwen35_mlx.text.tokenizer import Tokenizer

# Tokens that are read of a text, from its start.
MAX_TOKENS = 16_384
# Fewer say little of the inputs.
MIN_TOKENS = 256
# An expert's own inputs count as much as the mean of its layer when it has seen this many tokens.
_PRIOR_TOKENS = 32

# Weight of the squared error of each input, by the canonical name of a matrix: float32, [in], or
# [experts, 1, in] of a stack.
Importance = Mapping[str, mx.array]


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """A text to measure inputs on, in tokens of a checkpoint.

    Attributes:
        documents: token ids.
        sha256: of the text, in UTF-8.
    """

    documents: Sequence[Sequence[int]]
    sha256: str

    @classmethod
    def of(cls, text: str, checkpoint: Checkpoint) -> "CalibrationText":
        """The tokens of a text, its first `MAX_TOKENS`.

        Raises:
            Qwen35Error: it has fewer than `MIN_TOKENS`, or the tokenizer is missing or that of
                another network.
        """
        ids = Tokenizer.from_files(checkpoint.text).encode(text)
        if len(ids) < MIN_TOKENS:
            raise Qwen35Error(
                f"the calibration text has {len(ids)} tokens: give one of {MIN_TOKENS} or more"
            )
        documents = make_documents(Tokenizer.from_files(checkpoint.text), [text], MAX_TOKENS)
        if (largest := max(map(max, documents))) >= checkpoint.model.vocab_size:
            raise Qwen35Error(
                f"the tokenizer gives the id {largest}, which has no embedding: fetch "
                "tokenizer.json from the same model"
            )
        return cls(documents, hashlib.sha256(text.encode()).hexdigest())

    @property
    def tokens(self) -> int:
        return sum(map(len, self.documents))

    def values(self) -> dict[str, Any]:
        """For conversion.json, and what a conversion that is continued must have in common."""
        return {"sha256": self.sha256, "tokens": self.tokens}


def measure_importance(
    checkpoint: Checkpoint, text: CalibrationText, report: Callable[[str], None] = lambda _: None
) -> Importance:
    """Read the text layer by layer, in float32, with one layer in memory.

    The embeddings get no entry, unless they are the output head as well.

    Args:
        checkpoint: verified.
        report: called with what has been done.

    Raises:
        Qwen35Error: a file cannot be read, or the model computes values that are not finite.
    """
    trunk = Trunk(checkpoint, [Passage(ids) for ids in text.documents], "the source")
    moments: _Watching = {}
    importance: dict[str, mx.array] = {}

    def finish(what: str) -> None:
        for names, found in moments.items():
            importance.update(dict.fromkeys(names, found.mean_squares()))
        mx.eval(list(importance.values()))
        moments.clear()
        report(f"inputs of {what}")

    for index in range(trunk.layers):
        prefix = f"model.layers.{index}."
        trunk.advance(index, lambda layer, prefix=prefix: _watch_layer(layer, prefix, moments))
        finish(f"layer {index + 1} of {trunk.layers}")
    trunk.finish()
    hidden = _Moments()
    for one in trunk.hidden:
        hidden.add(one)
    moments["lm_head.weight",] = hidden
    if any(name.startswith("mtp.") for name in checkpoint.expected):
        head = trunk.read_mtp_head()
        _watch_mtp_head(head, moments)
        trunk.run_mtp_head(head)
    finish("the heads")
    if checkpoint.model.tie_word_embeddings:
        head_input = importance.pop("lm_head.weight")
        # As an embedding, every value counts alike; both uses get the same weight together.
        embeddings = head_input / mx.mean(head_input) + 1
        importance["model.embed_tokens.weight"] = embeddings
    return importance


class _Moments:
    """The sum of squares of a matrix's inputs; of a stack, by expert."""

    def __init__(self, experts: int | None = None):
        self._experts = experts
        self._squares = self._counts = mx.array(0.0)

    def add(self, x: mx.array, experts: mx.array | None = None, _: Any = None) -> None:
        """Inputs x [..., in]; of a stack [..., rows, in], whose [...] broadcasts to `experts`."""
        if self._experts is None:
            rows = mx.square(x.astype(mx.float32).reshape(-1, x.shape[-1]))
            self._squares = self._squares + mx.sum(rows, axis=0)
            self._counts = self._counts + rows.shape[0]
        else:
            assert experts is not None
            squares = mx.sum(mx.square(x.astype(mx.float32)), axis=-2)
            squares = mx.broadcast_to(squares, (*experts.shape, x.shape[-1]))
            # A product, as sums of scattered values depend on the order of threads.
            chosen = experts.reshape(1, -1) == mx.arange(self._experts)[:, None]
            chosen = chosen.astype(mx.float32)
            self._squares = self._squares + chosen @ squares.reshape(-1, x.shape[-1])
            rows = mx.sum(chosen, axis=-1, keepdims=True) * x.shape[-2]
            self._counts = self._counts + rows
        mx.eval(self._squares, self._counts)

    def mean_squares(self) -> mx.array:
        """[in], or [experts, 1, in], where few tokens of an expert count with its layer's mean."""
        if self._experts is None:
            return self._squares / self._counts
        mean = mx.sum(self._squares, axis=0) / mx.sum(self._counts)
        squares = self._squares + _PRIOR_TOKENS * mean
        return (squares / (self._counts + _PRIOR_TOKENS))[:, None]


# By the names of all matrices that have these inputs.
_Watching = dict[tuple[str, ...], _Moments]


def _watch_layer(layer: Layer, prefix: str, moments: _Watching) -> None:
    """Collect what goes into each matrix of a layer."""

    def collect(matrix: Any, *names: str, experts: int | None = None) -> Any:
        found = _Moments(experts)
        moments[tuple(f"{prefix}{name}.weight" for name in names)] = found
        return watched(matrix, found.add)

    def collect_mlp(mlp: MLP, name: str) -> None:
        mlp.gate_up = collect(mlp.gate_up, f"{name}.gate_proj", f"{name}.up_proj")
        mlp.down_proj = collect(mlp.down_proj, f"{name}.down_proj")

    mixer, mlp = layer.mixer, layer.mlp
    if isinstance(mixer, Attention):
        projections = (f"self_attn.{part}_proj" for part in "qkv")
        mixer.qkv_proj = collect(mixer.qkv_proj, *projections)
        mixer.o_proj = collect(mixer.o_proj, "self_attn.o_proj")
    else:
        projections = (f"linear_attn.in_proj_{part}" for part in ("qkv", "z", "b", "a"))
        mixer.in_proj = collect(mixer.in_proj, *projections)
        mixer.out_proj = collect(mixer.out_proj, "linear_attn.out_proj")
    if isinstance(mlp, MLP):
        collect_mlp(mlp, "mlp")
        return
    # Blocks of tokens would repeat some of them as padding.
    mlp.selection.experts_prefill = REFERENCE
    count = mlp.down_proj.arrays[0].shape[0]
    stack = "mlp.switch_mlp"
    mlp.router = collect(mlp.router, "mlp.gate", "mlp.shared_expert_gate")
    names = f"{stack}.gate_proj", f"{stack}.up_proj"
    mlp.gate_up = collect(mlp.gate_up, *names, experts=count)
    mlp.down_proj = collect(mlp.down_proj, f"{stack}.down_proj", experts=count)
    collect_mlp(mlp.shared_expert, "mlp.shared_expert")


def _watch_mtp_head(head: MTPHead, moments: _Watching) -> None:
    moments["mtp.fc.weight",] = found = _Moments()
    head.fc = watched(head.fc, found.add)
    _watch_layer(head.layer, "mtp.layers.0.", moments)
