"""Which part of each tensor of a network a process has. Never imports mlx.

Every process runs the network of a smaller model. With tensor parallelism that has a share of the
heads, of the inner width of each MLP and expert, and of the vocabulary. Where these do not divide,
parts are filled up with zeros, which add nothing to a sum: all processes have the same sizes. With
pipeline parallelism it has some layers, and a share of the vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig, Shard

# Rows or columns [first, first + count) of a tensor, or `count` zeros.
Piece = tuple[int | None, int]


@dataclass(frozen=True, slots=True)
class Part:
    """What a process has of a tensor: pieces of one axis side by side, all of the others.

    Attributes:
        axis: counted from the end: -1 are the columns of a matrix or a stack of them.
    """

    axis: int
    pieces: tuple[Piece, ...]

    @property
    def width(self) -> int:
        return sum(count for _, count in self.pieces)


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of a mixer that a process has; None for one that is all zeros.

    Attributes:
        heads: query heads of full attention, value heads of a DeltaNet: consecutive ones.
        groups: the heads that they share, equally many each: key/value heads of full attention,
            query and key heads of a DeltaNet. One may be there several times.
    """

    heads: tuple[int | None, ...]
    groups: tuple[int | None, ...]

    @classmethod
    def of(cls, heads: int, groups: int, shard: Shard) -> "Heads":
        """The share of a process in `heads` heads, of which heads / groups have a group's.

        A group may be divided further, into units of equally many heads; then several units, in
        one process or several, have a copy of its head. The units are chosen for fewest weights.
        """
        each = heads // groups
        sizes = [size for size in range(1, each + 1) if each % size == 0]

        def units_of(size: int) -> int:
            return -(-heads // (size * shard.ranks))

        # Of the projections, three are as wide as the heads and two as the groups.
        size = min(sizes, key=lambda size: units_of(size) * (3 * size + 2))
        first = shard.rank * units_of(size)
        units = range(first, first + units_of(size))
        numbers = [unit * size + i for unit in units for i in range(size)]
        return cls(
            tuple(number if number < heads else None for number in numbers),
            tuple(unit * size // each if unit * size < heads else None for unit in units),
        )


def split_config(config: ModelConfig, shard: Shard, column_unit: int = 1) -> ModelConfig:
    """The sizes of one process's part.

    Args:
        config: of the whole network.
        column_unit: inner widths of MLPs and experts are split in multiples of this: neighbours
            that share a scale.

    Raises:
        Qwen35Error: there are more processes than layers to give them.
    """
    if shard.pipeline:
        if shard.ranks > config.num_hidden_layers:
            raise Qwen35Error(
                f"{config.num_hidden_layers} layers cannot be split over {shard.ranks} processes: "
                "choose fewer"
            )
        layers = _layers(config, shard)
        types = config.layer_types[layers.start : layers.stop]
        return replace(config, layer_types=types, num_hidden_layers=len(types), shard=shard)
    attention, delta_net = _attention(config, shard), _delta_net(config, shard)

    def inner(width: int) -> int:
        return shard.width(width, column_unit)

    return replace(
        config,
        num_attention_heads=len(attention.heads),
        num_key_value_heads=len(attention.groups),
        linear_num_value_heads=len(delta_net.heads),
        linear_num_key_heads=len(delta_net.groups),
        intermediate_size=inner(config.intermediate_size),
        moe_intermediate_size=inner(config.moe_intermediate_size),
        shared_expert_intermediate_size=inner(config.shared_expert_intermediate_size),
        shard=shard,
    )


def own_name(name: str, config: ModelConfig, shard: Shard) -> str | None:
    """The name that a tensor has in a process; None if it is of another's layer.

    Args:
        name: canonical, in the whole network.
        config: of the whole network.
    """
    prefix = "model.layers."
    if not shard.pipeline or not name.startswith(prefix):
        return name
    number, _, rest = name.removeprefix(prefix).partition(".")
    layers = _layers(config, shard)
    return f"{prefix}{int(number) - layers.start}.{rest}" if int(number) in layers else None


def _layers(config: ModelConfig, shard: Shard) -> range:
    """The layers of a process of a pipeline."""
    count = config.num_hidden_layers
    return range(count * shard.rank // shard.ranks, count * (shard.rank + 1) // shard.ranks)


def part_of(name: str, config: ModelConfig, part: ModelConfig) -> Part | None:
    """What a process has of a tensor; None: all of it, as of norms and the router.

    Args:
        name: canonical, in the whole network.
        config: of the whole network.
        part: of the process, from `split_config`.
    """
    assert part.shard is not None
    end = ".".join(name.removesuffix(".weight").rsplit(".", 2)[-2:])
    if end.endswith(("embed_tokens", "lm_head")):
        return Part(-2, _share(config.vocab_size, part.vocab_rows, part.shard))
    if part.shard.pipeline:
        return None
    if end.startswith("self_attn."):
        return _attention_part(end, config, _attention(config, part.shard))
    if end.startswith("linear_attn."):
        return _delta_net_part(end, config, _delta_net(config, part.shard))
    block, projection = end.split(".") if "." in end else ("", end)
    if projection not in ("gate_proj", "up_proj", "down_proj"):
        return None
    size = {
        "mlp": "intermediate_size",
        "switch_mlp": "moe_intermediate_size",
        "shared_expert": "shared_expert_intermediate_size",
    }[block]
    axis = -1 if projection == "down_proj" else -2
    return Part(axis, _share(getattr(config, size), getattr(part, size), part.shard))


def _attention(config: ModelConfig, shard: Shard) -> Heads:
    return Heads.of(config.num_attention_heads, config.num_key_value_heads, shard)


def _delta_net(config: ModelConfig, shard: Shard) -> Heads:
    return Heads.of(config.linear_num_value_heads, config.linear_num_key_heads, shard)


def _attention_part(end: str, config: ModelConfig, heads: Heads) -> Part | None:
    width = config.head_dim
    match end:
        case "self_attn.q_proj":  # each head's query is followed by its output gate
            return Part(-2, _of_heads(heads.heads, 2 * width))
        case "self_attn.k_proj" | "self_attn.v_proj":
            return Part(-2, _of_heads(heads.groups, width))
        case "self_attn.o_proj":
            return Part(-1, _of_heads(heads.heads, width))
    return None


def _delta_net_part(end: str, config: ModelConfig, heads: Heads) -> Part | None:
    width = config.linear_value_head_dim
    channels = (
        *_of_heads(heads.groups, config.linear_key_head_dim),
        *_of_heads(heads.groups, config.linear_key_head_dim, config.linear_key_dim),
        *_of_heads(heads.heads, width, 2 * config.linear_key_dim),
    )
    match end:
        case "linear_attn.in_proj_qkv":
            return Part(-2, channels)
        case "linear_attn.conv1d":
            return Part(-3, channels)
        case "linear_attn.in_proj_z":
            return Part(-2, _of_heads(heads.heads, width))
        case "linear_attn.in_proj_b" | "linear_attn.in_proj_a":
            return Part(-2, _of_heads(heads.heads, 1))
        case "linear_attn.A_log" | "linear_attn.dt_bias":
            return Part(-1, _of_heads(heads.heads, 1))
        case "linear_attn.out_proj":
            return Part(-1, _of_heads(heads.heads, width))
    return None


def _of_heads(heads: Sequence[int | None], width: int, before: int = 0) -> tuple[Piece, ...]:
    """`width` rows or columns of each head, where those of head 0 follow `before` others."""
    return _joined((None if head is None else before + head * width, width) for head in heads)


def _share(whole: int, width: int, shard: Shard) -> tuple[Piece, ...]:
    """A process's share of `width` in an axis of `whole`."""
    first = min(shard.rank * width, whole)
    count = min(width, whole - first)
    return _joined(((first, count), (None, width - count)))


def _joined(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Pieces that are not empty; neighbours that follow each other are one."""
    found: list[Piece] = []
    for first, count in pieces:
        if not count:
            continue
        before, size = found[-1] if found else (0, 0)
        follows = before is None if first is None else before is not None and before + size == first
        if found and follows:
            found[-1] = (before, size + count)
        else:
            found.append((first, count))
    return tuple(found)
