"""Memory that a network needs beside its weights, and the budgets it keeps. Never imports mlx."""

from dataclasses import dataclass, replace
from math import prod

from qwen35_mlx.model.config import ModelConfig, Shard
from qwen35_mlx.model.split import split_config
from qwen35_mlx.model.weight_shapes import layer_tensors, trunk_tensors

# Attention without a fused kernel materialises its scores in float32. Queries are then taken in
# blocks, so that the scores stay below this many bytes.
SCORE_BUDGET = 1 << 30
# Factor by which a full buffer of keys and values grows.
KV_GROWTH = 1.25
# Neighbours in a row that share a scale, where keys and values are quantised.
KV_GROUP = 32
# Rows of a block of one expert's inputs, at most.
MAX_EXPERT_BLOCK_ROWS = 64
# Layers whose temporary arrays are in memory at the same time, for a long chunk.
LAYERS_AT_ONCE = 2
# The expert stacks of a layer are unpacked only if they take at most this many bytes.
UNPACK_BUDGET = 2 << 30
# Arrays of the size of a plain matrix while MLX's CPU unpacks and transposes a quantised one.
_UNPACKING_COPIES = 3
# Recurrent states held at the same time: the current one and those of snapshots.
_STATES_HELD = 6


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that reading a prompt takes beside the weights.

    Attributes:
        kv: keys and values, with room to grow.
        states: recurrent states, those of snapshots included.
        work: temporary arrays of one chunk.
    """

    kv: int
    states: int
    work: int

    @property
    def total(self) -> int:
        return self.kv + self.states + self.work


def estimate(
    config: ModelConfig,
    itemsize: int,
    tokens: int,
    chunk: int,
    kv_bits: int | None,
    *,
    unpacks: bool = False,
    mtp: bool = False,
) -> Estimate:
    """Peak memory of a prompt and its reply.

    Args:
        itemsize: bytes of an activation.
        tokens: of prompt and reply together.
        chunk: tokens per prefill chunk.
        kv_bits: bits of a stored key or value; None for unquantised ones.
        unpacks: whether the network unpacks quantised matrices, as on a CPU.
        mtp: whether an MTP head drafts, which has keys and values of its own.
    """
    delta_nets = config.layer_types.count("linear_attention")
    attention = config.layer_types.count("full_attention") + mtp
    row = _kv_values(config)
    layer = int(_kv_row_bytes(config, itemsize, kv_bits) * tokens * KV_GROWTH)
    # While one layer's buffer grows, its old one is still there.
    kv = layer * attention + layer
    if kv_bits is not None:
        kv += row * itemsize * tokens  # one layer's, unpacked for a chunk
    states = _STATES_HELD * _recurrent_bytes(config) * delta_nets
    expert_rows = chunk * config.num_experts_per_tok + config.num_experts * MAX_EXPERT_BLOCK_ROWS
    widest = max(
        # Projections, per head or per channel, and float32 copies of them.
        chunk * (3 * config.num_attention_heads * config.head_dim + row),
        chunk * 3 * (config.linear_conv_dim + config.linear_value_dim),
        chunk * 3 * config.intermediate_size,
        expert_rows * (3 * config.moe_intermediate_size + 2 * config.hidden_size),
    )
    work = (widest + chunk * 4 * config.hidden_size) * (itemsize + 4)
    scores = min(SCORE_BUDGET, 4 * config.num_attention_heads * chunk * tokens)
    unpacked = unpacked_layer_bytes(config, itemsize) if unpacks else 0
    return Estimate(kv, states, LAYERS_AT_ONCE * work + 2 * scores + unpacked)


def weight_bytes(whole: int, config: ModelConfig, part: ModelConfig) -> int:
    """Bytes of the weights that a process has, by their number.

    Args:
        whole: bytes of all weights.
        config: of the whole network.
        part: of what the process has.
    """
    if part.shard is None:
        return whole
    return whole * _weights(part) // _weights(config)


def largest_part(config: ModelConfig, shard: Shard) -> ModelConfig:
    """The sizes of the largest part of all processes. Those of every layer are equal.

    Args:
        config: of the whole network.
        shard: of one process.

    Raises:
        Qwen35Error: it cannot be split over so many.
    """
    ranks = range(shard.ranks) if shard.pipeline else [shard.rank]
    return max((split_config(config, replace(shard, rank=rank)) for rank in ranks), key=_weights)


def _weights(config: ModelConfig) -> int:
    """The number of weights."""
    return sum(map(prod, trunk_tensors(config).values()))


def kv_bytes_per_token(config: ModelConfig, itemsize: int, kv_bits: int | None = None) -> int:
    """Bytes of keys and values that one token adds to the cache, over all layers.

    Args:
        itemsize: bytes of an activation.
        kv_bits: bits of a stored key or value; None for unquantised ones.
    """
    layers = config.layer_types.count("full_attention")
    return int(layers * _kv_row_bytes(config, itemsize, kv_bits))


def state_bytes(config: ModelConfig, itemsize: int) -> int:
    """Bytes of one recurrent state, over all layers, whatever the number of tokens.

    The delta rule's state is float32; the convolution's inputs have `itemsize` bytes each.
    """
    layers = config.layer_types.count("linear_attention")
    conv = (config.linear_conv_kernel_dim - 1) * config.linear_conv_dim * itemsize
    return layers * (_recurrent_bytes(config) + conv)


def unpacked_expert_bytes(config: ModelConfig, itemsize: int) -> int:
    """Bytes of one layer's expert stacks, unpacked; 0 for those beyond `UNPACK_BUDGET`."""
    stacks = 3 * config.num_experts * config.moe_intermediate_size * config.hidden_size * itemsize
    return stacks if stacks <= UNPACK_BUDGET else 0


def unpacked_layer_bytes(config: ModelConfig, itemsize: int) -> int:
    """Bytes of one layer's matrices while a CPU unpacks them, in its largest layer.

    Many are unpacked at the same time, since operations are launched ahead: at the peak, those of
    two thirds to four fifths of a layer were in memory.
    """
    experts = unpacked_expert_bytes(config, itemsize)

    def values(kind: str) -> int:
        tensors = layer_tensors("", config, full_attention=kind == "full_attention")
        return sum(
            prod(shape) for name, shape in tensors.items() if experts or "switch_mlp" not in name
        )

    return _UNPACKING_COPIES * itemsize * max(map(values, set(config.layer_types)))


def _kv_values(config: ModelConfig) -> int:
    """Keys and values of one token in one layer."""
    return 2 * config.num_key_value_heads * config.head_dim


def _kv_row_bytes(config: ModelConfig, itemsize: int, kv_bits: int | None) -> float:
    """Bytes of one token's keys and values in one layer, scales and biases included."""
    per_value = itemsize if kv_bits is None else kv_bits / 8 + 2 * itemsize / KV_GROUP
    return _kv_values(config) * per_value


def _recurrent_bytes(config: ModelConfig) -> int:
    """Bytes of one layer's delta-rule state."""
    return 4 * config.linear_value_dim * config.linear_key_head_dim
