"""The RMS norm before a projection."""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """x / rms(x) * weight.

    Attributes:
        weight: [H], without the 1 that checkpoints may leave out.
        eps: added to the mean of the squares.
    """

    weight: mx.array
    eps: float

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., H] -> the same shape and dtype."""
        return mx.fast.rms_norm(x, self.weight, self.eps).astype(x.dtype)
