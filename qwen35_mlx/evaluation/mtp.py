"""How often an MTP head agrees with its network, to choose between readings of its weights."""

from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.evaluation.layers import Passage, Trunk
from qwen35_mlx.evaluation.logits import LogitStatistics, block_rows
from qwen35_mlx.model.cache import KVCache
from qwen35_mlx.model.mtp import MTPHead
from qwen35_mlx.model.network import Network

# Positions whose logits are in memory together.
_POSITIONS = 64


def mtp_agreements(
    network: Network, heads: Mapping[str, MTPHead], documents: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Share of positions at which the greedy guess of each head is the network's own token.

    A head's guess at t, which has seen the tokens up to t + 1, is compared with the network's
    greedy token at t + 1. A head that is read wrongly agrees almost nowhere.

    Args:
        heads: by name, such as two readings of the same norms; all run on the same hidden states.
        documents: token ids; those below three tokens are left out. A few hundred tokens
            together are enough.

    Returns:
        The share for each head; 0 without documents.

    Raises:
        Qwen35Error: a token has no embedding.
    """
    agreed, positions = dict.fromkeys(heads, 0), 0
    for ids in documents:
        if len(ids) < 3:
            continue
        tokens = network.token_array(ids)
        hidden = network(tokens, network.make_cache())
        own = _greedy(network, hidden[:, 1:-1])
        embedded = network.embed(tokens[:, 1:-1])
        for name, head in heads.items():
            guesses = _greedy(network, head(hidden[:, :-2], embedded, KVCache()))
            agreed[name] += int(np.array(mx.sum(guesses == own)))
        positions += len(ids) - 2
    return {name: count / max(positions, 1) for name, count in agreed.items()}


def checkpoint_agreements(
    checkpoint: Checkpoint, heads: Mapping[str, MTPHead], documents: Sequence[Sequence[int]]
) -> dict[str, float]:
    """As `mtp_agreements`, with a checkpoint's trunk, of which one layer at a time is in memory.

    Raises:
        Qwen35Error: as `Trunk`.
    """
    documents = [ids for ids in documents if len(ids) >= 3]
    if not documents:
        return dict.fromkeys(heads, 0.0)
    trunk = Trunk(checkpoint, [Passage(ids) for ids in documents], str(checkpoint.path))
    for index in range(trunk.layers):
        trunk.advance(index)
    trunk.finish()
    outputs = [mx.concatenate([hidden[0, 1:-1] for hidden in trunk.hidden])]
    for head in heads.values():
        outputs.append(mx.concatenate([one[0, :-1] for one in trunk.run_mtp_head(head)]))
    rows = mx.concatenate(outputs)
    statistics = LogitStatistics(np.full(rows.shape[0], -1))
    vocab, step = trunk.config.vocab_size, block_rows(*rows.shape)
    for start in range(0, vocab, step):
        statistics.add(start, rows @ trunk.head_rows(start, min(start + step, vocab)).T)
    own, *guesses = np.split(statistics.greedy, len(outputs))
    return {name: float((one == own).mean()) for name, one in zip(heads, guesses, strict=True)}


def confirm_mtp(
    model: Network | Checkpoint,
    heads: Mapping[str, MTPHead],
    documents: Sequence[Sequence[int]],
) -> tuple[str, dict[str, float]]:
    """The head that agrees most with the model, the first of equals, and the share of each.

    There must be a head. Arguments and errors: `mtp_agreements`, `checkpoint_agreements`.
    """
    if isinstance(model, Network):
        agreements = mtp_agreements(model, heads, documents)
    else:
        agreements = checkpoint_agreements(model, heads, documents)
    return max(agreements, key=lambda name: agreements[name]), agreements


def _greedy(network: Network, hidden: mx.array) -> mx.array:
    """The most likely tokens: hidden [1, T, width] -> [T]."""
    found: list[mx.array] = []
    for start in range(0, hidden.shape[1], _POSITIONS):
        logits = network.logits(hidden[0, start : start + _POSITIONS])
        found.append(mx.argmax(logits, axis=-1))
        mx.eval(found[-1])
    return mx.concatenate(found)
