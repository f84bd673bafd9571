"""Operations with plain references in MLX, GPU kernels that compute the same, and the choice."""
