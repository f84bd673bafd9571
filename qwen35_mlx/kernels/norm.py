"""RMS norm, which kernels take in with what follows it."""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """x over the root of its mean square, times a weight.

    Attributes:
        weight: [H]
    """

    weight: mx.array
    eps: float

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., H] -> the same shape and dtype; float32 in between."""
        return mx.fast.rms_norm(x, self.weight, self.eps).astype(x.dtype)
