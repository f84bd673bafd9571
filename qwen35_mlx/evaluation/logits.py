"""Statistics of logits whose vocabulary is computed block by block, never whole.

Sums within a block are float32, sums of blocks float64 and relative to the largest logit so far.
"""

import mlx.core as mx
import numpy as np

from qwen35_mlx.evaluation.layers import BLOCK_ELEMENTS


def block_rows(positions: int, width: int) -> int:
    """Rows of a head at a time: neither they nor their logits exceed `BLOCK_ELEMENTS`."""
    return max(1, BLOCK_ELEMENTS // max(positions, width))


class _ScaledSum:
    """Sums at each of N positions of exp(logit), or of multiples of it, over blocks of tokens.

    Attributes:
        largest: [N] float64, the largest logit so far.
        sum: [N] float64, the sum divided by exp(largest).
    """

    def __init__(self, positions: int):
        self.largest = np.full(positions, -np.inf)
        self.sum = np.zeros(positions)

    def add(self, largest: mx.array, sums: mx.array) -> None:
        """A block's largest logits [N], and its sums [N] divided by the exp of those."""
        block = np.array(largest, np.float64)
        new = np.maximum(self.largest, block)
        with np.errstate(invalid="ignore"):  # the caller checks for NaN
            self.sum *= np.exp(self.largest - new)
            self.sum += np.array(sums, np.float64) * np.exp(block - new)
        self.largest = new


class LogitStatistics:
    """Log-sum-exp, greedy token and loss of a target at each of N positions.

    Args:
        targets: [N] token ids, -1 for a position without one.

    Attributes:
        greedy: [N] the token with the largest logit, the first of equals.
    """

    def __init__(self, targets: np.ndarray):
        self._targets = targets
        self._target_logits = np.zeros(len(targets))
        self._exponentials = _ScaledSum(len(targets))
        self.greedy = np.zeros(len(targets), np.int64)

    def add(self, start: int, logits: mx.array) -> None:
        """The logits [N, rows] of the tokens from `start` on."""
        inside = (self._targets >= start) & (self._targets < start + logits.shape[1])
        index = mx.array(np.where(inside, self._targets - start, 0))[:, None]
        largest = mx.max(logits, axis=1)
        sums = mx.sum(mx.exp(logits - largest[:, None]), axis=1)
        greedy = mx.argmax(logits, axis=1)
        target = mx.take_along_axis(logits, index, axis=1).squeeze(1)
        mx.eval(largest, sums, greedy, target)
        better = np.array(largest, np.float64) > self._exponentials.largest
        self.greedy[better] = start + np.array(greedy)[better]
        self._target_logits[inside] = np.array(target, np.float64)[inside]
        self._exponentials.add(largest, sums)

    @property
    def log_sum(self) -> np.ndarray:
        """[N], the logarithm of the sum of exp(logits)."""
        return self._exponentials.largest + np.log(self._exponentials.sum)

    @property
    def loss(self) -> np.ndarray:
        """[N], the negative log-likelihood of the target, in nats."""
        return self.log_sum - self._target_logits


class Divergence:
    """KL(P || Q) at each of N positions, in nats, from the logits of both.

    It is the mean under P of the difference of logits, less the difference of their log-sums.
    """

    def __init__(self, positions: int):
        self._differences = _ScaledSum(positions)

    def add(self, p: mx.array, q: mx.array) -> None:
        """Logits [N, rows] of the same tokens."""
        largest = mx.max(p, axis=1)
        sums = mx.sum(mx.exp(p - largest[:, None]) * (p - q), axis=1)
        mx.eval(largest, sums)
        self._differences.add(largest, sums)

    def result(self, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """[N], given the log-sums of all logits of both; rounding below 0 is cut off."""
        mean_difference = self._differences.sum / np.exp(p - self._differences.largest)
        return np.maximum(mean_difference - (p - q), 0.0)
