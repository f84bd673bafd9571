"""Statistics of logits whose vocabulary is computed block by block, never whole.

Sums within a block are float32, sums of blocks float64 and relative to the largest logit so far.
"""

import mlx.core as mx
import numpy as np

from qwen35_mlx.evaluation.layers import BLOCK_ELEMENTS


def block_rows(positions: int, width: int) -> int:
    """Rows of a head at a time: neither they nor their logits exceed `BLOCK_ELEMENTS`."""
    return max(1, BLOCK_ELEMENTS // max(positions, width))


class LogitStatistics:
    """Log-sum-exp, greedy token and target logits at each of N positions.

    Args:
        targets: [N] token ids, -1 for a position without one.

    Attributes:
        largest: [N] float64, the largest logit.
        greedy: [N] its token.
        target: [N] float64, the logit of the target.
    """

    def __init__(self, targets: np.ndarray):
        self._targets = targets
        self.largest = np.full(len(targets), -np.inf)
        self.greedy = np.zeros(len(targets), np.int64)
        self.target = np.zeros(len(targets))
        self._sum = np.zeros(len(targets))

    def add(self, start: int, logits: mx.array) -> None:
        """The logits [N, rows] of the tokens from `start` on."""
        rows = logits.shape[1]
        inside = (self._targets >= start) & (self._targets < start + rows)
        index = mx.array(np.where(inside, self._targets - start, 0))[:, None]
        largest = mx.max(logits, axis=1)
        sums = mx.sum(mx.exp(logits - largest[:, None]), axis=1)
        greedy = mx.argmax(logits, axis=1)
        target = mx.take_along_axis(logits, index, axis=1).squeeze(1)
        mx.eval(largest, sums, greedy, target)
        block = np.array(largest, np.float64)
        better = block > self.largest
        self.greedy[better] = start + np.array(greedy)[better]
        self.target[inside] = np.array(target, np.float64)[inside]
        new = np.maximum(self.largest, block)
        self._sum *= np.exp(self.largest - new)
        self._sum += np.array(sums, np.float64) * np.exp(block - new)
        self.largest = new

    @property
    def log_sum(self) -> np.ndarray:
        """[N], the logarithm of the sum of exp(logits)."""
        return self.largest + np.log(self._sum)

    @property
    def loss(self) -> np.ndarray:
        """[N], the negative log-likelihood of the target, in nats."""
        return self.log_sum - self.target


class Divergence:
    """KL(P || Q) at each of N positions, in nats, from the logits of both."""

    def __init__(self, positions: int):
        self._largest = np.full(positions, -np.inf)
        self._sum = np.zeros(positions)

    def add(self, p: mx.array, q: mx.array) -> None:
        """Logits [N, rows] of the same tokens."""
        largest = mx.max(p, axis=1)
        # exp(p - largest) is 0 far below the largest, and 0 * inf must not occur.
        sums = mx.sum(mx.exp(p - largest[:, None]) * (p - q), axis=1)
        mx.eval(largest, sums)
        block = np.array(largest, np.float64)
        new = np.maximum(self._largest, block)
        self._sum *= np.exp(self._largest - new)
        self._sum += np.array(sums, np.float64) * np.exp(block - new)
        self._largest = new

    def result(self, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """[N], given the log-sums of all logits of both; rounding below 0 is cut off."""
        mean_difference = self._sum / np.exp(p - self._largest)
        return np.maximum(mean_difference - (p - q), 0.0)
