"""How often an MTP head agrees with its model, layer by layer."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.mtp_confirmation import LEAST_ACCURACY, Agreement, check_accuracy
from qwen35_mlx.evaluation.layers import Passage, Trunk
from qwen35_mlx.evaluation.logits import LogitStatistics, block_rows


def checkpoint_agreement(
    checkpoint: Checkpoint,
    documents: Sequence[Sequence[int]],
    least_accuracy: float = LEAST_ACCURACY,
) -> Agreement:
    """The agreement with a checkpoint's trunk, of which one layer at a time is in memory.

    Args:
        checkpoint: verified.
        documents: token ids; those below three tokens are left out. A few hundred tokens together
            are enough.
        least_accuracy: as for `check_accuracy`.

    Raises:
        Qwen35Error: from the result: as `Trunk`; or the trunk predicts too little of the text.
    """
    documents = [ids for ids in documents if len(ids) >= 3]

    def agreement(readings: Sequence[Checkpoint]) -> list[np.ndarray]:
        if not documents:
            return [np.zeros(0, bool) for _ in readings]
        trunk = Trunk(checkpoint, [Passage(ids) for ids in documents], str(checkpoint.path))
        for index in range(trunk.layers):
            trunk.advance(index)
        trunk.finish()
        outputs = [mx.concatenate([hidden[0, 1:-1] for hidden in trunk.hidden])]
        for reading in readings:
            guesses = trunk.run_mtp_head(trunk.read_mtp_head(reading))
            outputs.append(mx.concatenate([one[0, :-1] for one in guesses]))
        rows = mx.concatenate(outputs)
        statistics = LogitStatistics(np.full(rows.shape[0], -1))
        vocab, step = trunk.config.vocab_size, block_rows(*rows.shape)
        for start in range(0, vocab, step):
            statistics.add(start, rows @ trunk.head_rows(start, min(start + step, vocab)).T)
        own, *found = np.split(statistics.greedy, len(outputs))
        check_accuracy(
            [own], [np.concatenate([np.asarray(ids[2:]) for ids in documents])], least_accuracy
        )
        return [one == own for one in found]

    return agreement
