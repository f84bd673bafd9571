"""The signed Walsh-Hadamard rotation of vectors, block by block.

Rotations keep dot products, so a matrix whose rows were rotated gives the same product with a
rotated input. Rotating spreads outliers over their block, which is why such rows can be quantised
to very few bits.
"""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True, eq=False)
class HadamardRotation:
    """R(x) = H (signs x) / sqrt(block), for each block of x by itself.

    H is the symmetric Walsh-Hadamard matrix in natural order: H[i, j] is -1 if i & j has an odd
    number of set bits, else 1. Rotations are equal if their blocks and signs are.

    Attributes:
        block: a power of two.
        signs: [in] float32, each 1 or -1; a whole number of blocks.
    """

    block: int
    signs: mx.array

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., in] -> the same shape and dtype; computed in float32, whatever the dtype."""
        return self._transform(x.astype(mx.float32) * self.signs).astype(x.dtype)

    def inverse(self, x: mx.array) -> mx.array:
        """The x' with R(x') = x: the same shape and dtype, computed in float32."""
        return (self._transform(x.astype(mx.float32)) * self.signs).astype(x.dtype)

    def _transform(self, x: mx.array) -> mx.array:
        blocks = x.reshape(-1, self.block)
        return mx.hadamard_transform(blocks, scale=self.block**-0.5).reshape(x.shape)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HadamardRotation):
            return NotImplemented
        same = self.signs is other.signs or bool(mx.array_equal(self.signs, other.signs))
        return self.block == other.block and same
