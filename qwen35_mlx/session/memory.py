"""Whether a prompt fits into this machine's memory, before it is read."""

import os
from dataclasses import dataclass

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.attention import SCORE_BUDGET
from qwen35_mlx.model.cache import GROWTH, KV_GROUP
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.moe import BLOCK, unpacked_nbytes

# Tokens between two progress events, and until a cancel is heard; the first that fits is taken.
GPU_CHUNKS, CPU_CHUNKS = (2048, 1024, 512, 256), (512, 256, 128)
# Of the machine's memory, what models may take where the system names no limit of its own.
SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that reading a prompt takes beside the weights.

    Attributes:
        kv: keys and values, with room to grow.
        states: recurrent states, those that are kept included.
        work: everything that one chunk needs for itself.
    """

    kv: int
    states: int
    work: int

    @property
    def total(self) -> int:
        return self.kv + self.states + self.work


def estimate(
    config: ModelConfig, itemsize: int, tokens: int, chunk: int, kv_bits: int | None
) -> Estimate:
    """What a prompt takes at its worst moment.

    Args:
        itemsize: bytes of an activation.
        tokens: of prompt and reply together.
        chunk: tokens that are read at once.
    """
    attention = config.layer_types.count("full_attention")
    row = 2 * config.num_key_value_heads * config.head_dim
    per_value = itemsize if kv_bits is None else kv_bits / 8 + 2 * itemsize / KV_GROUP
    layer = int(row * per_value * tokens * GROWTH)
    # While one layer's buffer grows, its old one is still there.
    kv = layer * attention + layer
    if kv_bits is not None:
        kv += row * itemsize * tokens  # one layer's, unpacked for a chunk
    recurrent = (
        4
        * config.linear_num_value_heads
        * (config.linear_value_head_dim * config.linear_key_head_dim)
    )
    states = 6 * recurrent * (len(config.layer_types) - attention)
    pairs = chunk * config.num_experts_per_tok + config.num_experts * BLOCK
    widest = max(
        # Projections, per head or per channel, and float32 copies of them.
        chunk * (3 * config.num_attention_heads * config.head_dim + row),
        chunk * 3 * (config.linear_conv_dim + config.linear_value_dim),
        chunk * 3 * config.intermediate_size,
        pairs * (3 * config.moe_intermediate_size + 2 * config.hidden_size),
    )
    work = (widest + chunk * 4 * config.hidden_size) * (itemsize + 4)
    scores = min(SCORE_BUDGET, 4 * config.num_attention_heads * chunk * tokens)
    return Estimate(kv, states, work + max(2 * scores, unpacked_nbytes(config, itemsize)))


def limit() -> int:
    """Bytes that this machine gives to models."""
    if mx.default_device() != mx.cpu:
        about = mx.device_info()
        for name in ("max_recommended_working_set_size", "total_memory", "memory_size"):
            if int(about.get(name, 0)) > 0:
                whole = int(about[name])
                return whole if name.startswith("max_") else int(SHARE * whole)
    return int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def chunk_for(
    config: ModelConfig, itemsize: int, tokens: int, weights: int, kv_bits: int | None
) -> int:
    """How many tokens of a prompt to read at once, so that all of it fits.

    Depends on nothing that changes from one turn to the next but the length: a state is the same
    to the last bit only if its prompt was read in the same pieces.

    Args:
        tokens: of the prompt.
        weights: bytes of the model.

    Raises:
        Qwen35Error: it does not fit, with the numbers.
    """
    bound = limit()
    chunks = CPU_CHUNKS if mx.default_device() == mx.cpu else GPU_CHUNKS
    needs = [estimate(config, itemsize, tokens, chunk, kv_bits).total for chunk in chunks]
    for chunk, need in zip(chunks, needs, strict=True):
        if weights + need <= bound:
            return chunk
    smaller = "" if kv_bits is not None else "load it with kv_bits=8 (--kv-bits 8), "
    raise Qwen35Error(
        f"a prompt of {tokens:,} tokens needs about {needs[-1] / 1e9:.1f} GB beside the model's "
        f"{weights / 1e9:.1f} GB, and this machine has {bound / 1e9:.1f} GB for both: {smaller}"
        "shorten the conversation or choose a smaller model"
    )
