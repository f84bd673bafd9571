"""RMS norm."""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """x / rms(x) * weight.

    Attributes:
        weight: [H]; if the checkpoint stores weight - 1, the 1 is already added.
        eps: added to the mean of the squares.
    """

    weight: mx.array
    eps: float

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., H] -> the same shape and dtype."""
        return mx.fast.rms_norm(x, self.weight, self.eps).astype(x.dtype)
