"""The sizes of a network, and the presets of the demo model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes under short names; `export.py` maps them to the published config keys."""

    vocab: int = 2048
    hidden: int = 192
    layers: int = 8
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    key_heads: int = 1
    value_heads: int = 2
    key_dim: int = 128
    value_dim: int = 128
    experts: int = 16
    top_k: int = 2
    expert_size: int = 64
    shared_size: int = 64
    full_every: int = 4
    rope_theta: float = 1e7
    rotary: float = 0.25
    eps: float = 1e-6
    embed_scale: float = 8.0  # training only: the export folds it into embedding and norms

    def is_full(self, layer: int) -> bool:
        """Whether this layer is full attention (every 4th) and not Gated DeltaNet."""
        return (layer + 1) % self.full_every == 0


PRESETS = {
    "cpu": Shape(),
    "gpu": Shape(hidden=256, heads=8, key_heads=2, value_heads=4),
}
