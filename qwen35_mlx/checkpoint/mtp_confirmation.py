"""Trial of the readings of an MTP head's norms on a text, with the network that it belongs to."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.mtp import head_norms
from qwen35_mlx.checkpoint.mtp_norms import Confirmation, confirm_norms
from qwen35_mlx.model.attention import make_rope
from qwen35_mlx.model.cache import KVCache
from qwen35_mlx.model.mtp import MTPHead
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.weights import Weights

# Positions whose logits are in memory together.
_POSITIONS = 64


def confirm_head(
    checkpoint: Checkpoint, agrees: Callable[[Checkpoint], np.ndarray]
) -> tuple[Checkpoint, Confirmation | None]:
    """The checkpoint with the reading of its head's norms that guesses best, and what was found.

    Nothing is run, and the second is None, if there is no head or its files leave no doubt.

    Args:
        agrees: runs the head of a checkpoint on a text; whether its greedy guess is the trunk's own
            token, [N] bool, at the same positions each time. N must not be 0.
    """
    norms = checkpoint.mtp_norms
    if norms is None or norms.certain:
        return checkpoint, None
    found = confirm_norms(
        head_norms(checkpoint.model),
        norms.raw,
        lambda raw: agrees(checkpoint.with_mtp_norms(raw)),
    )
    return checkpoint.with_mtp_norms(found.raw), found


def agreement_with(
    network: Network, documents: Sequence[Sequence[int]]
) -> Callable[[Checkpoint], np.ndarray]:
    """The `agrees` of `confirm_head` for a network in memory, which reads the documents once.

    A head's guess at t, which has seen the tokens up to t + 1, is compared with the network's
    greedy token at t + 1.

    Args:
        documents: token ids; those below three tokens are left out, and one must not be. A few
            hundred tokens together are enough.

    Raises:
        Qwen35Error: a token has no embedding.
    """
    rope = make_rope(network.config)
    runs: list[tuple[mx.array, mx.array, np.ndarray]] = []
    for ids in documents:
        if len(ids) < 3:
            continue
        tokens = network.token_array(ids)
        hidden = network(tokens, network.make_cache())
        embedded = network.embed(tokens[:, 1:-1])
        mx.eval(hidden, embedded)
        runs.append((hidden[:, :-2], embedded, _greedy(network, hidden[:, 1:-1])))

    def agrees(checkpoint: Checkpoint) -> np.ndarray:
        weights = Weights(network.config, checkpoint, network.dtype)
        head = MTPHead(network.config, weights.scope("mtp"), rope)
        return np.concatenate(
            [
                _greedy(network, head(hidden, embedded, KVCache())) == own
                for hidden, embedded, own in runs
            ]
        )

    return agrees


def _greedy(network: Network, hidden: mx.array) -> np.ndarray:
    """The most likely tokens: hidden [1, T, width] -> [T]."""
    found: list[np.ndarray] = []
    for start in range(0, hidden.shape[1], _POSITIONS):
        logits = network.logits(hidden[0, start : start + _POSITIONS])
        found.append(np.array(mx.argmax(logits, axis=-1)))
    return np.concatenate(found)
