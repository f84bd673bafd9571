"""The network: plain MLX, one module per part of a layer."""
