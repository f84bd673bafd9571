"""Trial of the readings of an MTP head's norms on a text, with the network that it belongs to."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.mtp import head_norms
from qwen35_mlx.checkpoint.mtp_norms import Confirmation, confirm_norms
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.attention import make_rope
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.mtp import MTPHead
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.weights import Weights

# Of the tokens of a text, those that a model must predict for the agreement of its head with it to
# say anything: small models of the family predict nearly half of such tokens.
LEAST_ACCURACY = 0.2
# Positions whose logits are in memory together.
_POSITIONS = 64


# Runs the heads of checkpoints that differ in nothing else on a text: whether the greedy guess of
# each is the trunk's own token, [N] bool, at the same positions. A head's guess at t, which has
# seen the tokens up to t + 1, is compared with the trunk's greedy token at t + 1.
Agreement = Callable[[Sequence[Checkpoint]], Sequence[np.ndarray]]


def confirm_head(
    checkpoint: Checkpoint, agreement: Agreement
) -> tuple[Checkpoint, Confirmation | None]:
    """The checkpoint with the reading of its head's norms that guesses best, and what was found.

    Nothing is run, and the second is None, if there is no head or its files leave no doubt.

    Args:
        agreement: with at least one position.
    """
    norms = checkpoint.mtp_norms
    if norms is None or norms.certain:
        return checkpoint, None
    found = confirm_norms(
        head_norms(checkpoint.model),
        norms.raw,
        lambda readings: agreement([checkpoint.with_mtp_norms(raw) for raw in readings]),
    )
    return checkpoint.with_mtp_norms(found.raw), found


def network_agreement(
    network: Network,
    documents: Sequence[Sequence[int]],
    least_accuracy: float = LEAST_ACCURACY,
) -> Agreement:
    """The agreement with a network in memory.

    Args:
        documents: token ids; those below three tokens are left out. A few hundred tokens together
            are enough.
        least_accuracy: as for `check_accuracy`.

    Raises:
        Qwen35Error: from the result: a token has no embedding, or the network predicts too little
            of the text.
    """

    def agreement(readings: Sequence[Checkpoint]) -> list[np.ndarray]:
        runs: list[tuple[mx.array, mx.array, np.ndarray]] = []
        for ids in documents:
            if len(ids) > 2:
                tokens = network.token_array(ids)
                hidden = network(tokens, network.make_cache())
                embedded = network.embed(tokens[:, 1:-1])
                runs.append((hidden[:, :-2], embedded, _greedy(network, hidden[:, 1:-1])))
        known = [np.asarray(ids[2:]) for ids in documents if len(ids) > 2]
        check_accuracy([own for _, _, own in runs], known, least_accuracy)
        rope = make_rope(network.config)
        found: list[np.ndarray] = []
        for reading in readings:
            weights = Weights(network.config, reading, network.dtype, network.parallel)
            head = MTPHead(network.config, weights.scope("mtp"), rope)
            guesses = [
                _greedy(network, head(hidden, embedded, KVCache())) == own
                for hidden, embedded, own in runs
            ]
            found.append(np.concatenate([np.zeros(0, bool), *guesses]))
        return found

    return agreement


def check_accuracy(
    predicted: Sequence[np.ndarray], text: Sequence[np.ndarray], least: float
) -> None:
    """Check that a model predicts enough of a text to be judged by it.

    Args:
        predicted, text: token ids at the same positions, of each document.
        least: the share of equal ones that is enough.

    Raises:
        Qwen35Error: it does not.
    """
    equal = [a == b for a, b in zip(predicted, text, strict=True)]
    if equal and (accuracy := float(np.mean(np.concatenate(equal)))) < least:
        raise Qwen35Error(
            f"the model predicts {accuracy:.0%} of the tokens of the text, too few to judge by"
        )


def _greedy(network: Network, hidden: mx.array) -> np.ndarray:
    """The most likely tokens: hidden [1, T, width] -> [T]."""
    found: list[np.ndarray] = []
    for start in range(0, hidden.shape[1], _POSITIONS):
        logits = network.logits(hidden[0, start : start + _POSITIONS])
        found.append(np.array(mx.argmax(logits, axis=-1)))
    return np.concatenate(found)
