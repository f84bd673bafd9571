"""Which tensors are quantised, and to how many bits.

A recipe gives each *kind* of matrix a quantisation. Where kinds differ in what an error costs, bits
are worth more in some than in others. Measured as the KL divergence that 4 bits in one kind alone
cause, per weight, on two small trained models (one dense, one sparse): the output head, keys and
values, DeltaNet's output projection and the embeddings lose most, then DeltaNet's inputs, then the
attention's output and the down projections; gate and up projections lose least.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import Shapes


@dataclass(frozen=True, slots=True)
class _Mode:
    """What MLX offers in one mode; `default` is (group size, bits)."""

    group_sizes: tuple[int, ...]
    bits: tuple[int, ...]
    default: tuple[int, int]


_MODES = {
    "affine": _Mode((32, 64, 128), (1, 2, 3, 4, 5, 6, 8), (64, 4)),
    "mxfp4": _Mode((32,), (4,), (32, 4)),
    "mxfp8": _Mode((32,), (8,), (32, 8)),
    "nvfp4": _Mode((16,), (4,), (16, 4)),
}

MODES = tuple(_MODES)

# A wrongly chosen expert costs more quality than these bits cost memory; mlx-lm does the same.
_ROUTER = Quantization(group_size=64, bits=8)
_ROUTERS = (".mlp.gate.weight", ".mlp.shared_expert_gate.weight")


def quantization(
    mode: str = "affine", bits: int | None = None, group_size: int | None = None
) -> Quantization:
    """A quantisation, with the mode's defaults for what is None.

    Raises:
        Qwen35Error: MLX has no such mode, or not with these bits or this group size.
    """
    if mode not in _MODES:
        raise Qwen35Error(f"mode {mode!r} is not known: choose one of {', '.join(MODES)}")
    limits = _MODES[mode]
    group_size = limits.default[0] if group_size is None else group_size
    bits = limits.default[1] if bits is None else bits
    for what, value, valid in (
        (f"{bits} bits", bits, limits.bits),
        (f"groups of {group_size}", group_size, limits.group_sizes),
    ):
        if value not in valid:
            *others, last = map(str, valid)
            choice = f"{', '.join(others)} or {last}" if others else last
            raise Qwen35Error(f"there are no {what} in {mode} mode: choose {choice}")
    return Quantization(group_size, bits, mode)


def is_quantizable(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this canonical name may be quantised.

    Linear layers, embeddings and expert stacks may; norms, convolutions, A_log and dt_bias not.
    """
    return name.endswith(".weight") and len(shape) >= 2 and not name.endswith(".conv1d.weight")


def quantization_for(
    name: str, shape: tuple[int, ...], default: Quantization
) -> Quantization | None:
    """How to quantise one plain tensor of a canonical name; None leaves it plain.

    A matrix whose row length is not a multiple of the group size stays plain.

    Args:
        default: for every tensor without a rule of its own.
    """
    if not is_quantizable(name, shape):
        return None
    chosen = _ROUTER if name.endswith(_ROUTERS) else default
    return None if shape[-1] % chosen.group_size else chosen


# The end of a matrix's name below its layer, and its kind.
_ENDS = {
    "linear_attn.in_proj_qkv": "delta_net_qkv",
    "linear_attn.in_proj_z": "delta_net_z",
    "linear_attn.in_proj_a": "delta_net_ab",
    "linear_attn.in_proj_b": "delta_net_ab",
    "linear_attn.out_proj": "delta_net_out",
    "self_attn.q_proj": "attention_q",
    "self_attn.k_proj": "attention_k",
    "self_attn.v_proj": "attention_v",
    "self_attn.o_proj": "attention_o",
    "mlp.gate_proj": "mlp_gate_up",
    "mlp.up_proj": "mlp_gate_up",
    "mlp.down_proj": "mlp_down",
    "mlp.switch_mlp.gate_proj": "expert_gate_up",
    "mlp.switch_mlp.up_proj": "expert_gate_up",
    "mlp.switch_mlp.down_proj": "expert_down",
    "mlp.shared_expert.gate_proj": "shared_expert_gate_up",
    "mlp.shared_expert.up_proj": "shared_expert_gate_up",
    "mlp.shared_expert.down_proj": "shared_expert_down",
    "mlp.gate": "router",
    "mlp.shared_expert_gate": "shared_expert_gate",
}
_ROUTER_KINDS: tuple[str, ...] = ("router", "shared_expert_gate")

# In the order of a forward pass.
KINDS = ("embedding", *dict.fromkeys(_ENDS.values()), "head", "mtp")


def kind_of(name: str) -> str:
    """The kind of a matrix by its canonical name.

    All matrices of the MTP head but its router and shared-expert gate are of the kind "mtp". Tied
    embeddings are an "embedding" here; `assign` treats them as the head that they also are.
    """
    module = name.removesuffix(".weight")
    if module == "model.embed_tokens":
        return "embedding"
    if module == "lm_head":
        return "head"
    kind = _ENDS.get(module.split(".", 3)[-1], "mtp")
    return kind if module.startswith("model.") or kind in _ROUTER_KINDS else "mtp"


@dataclass(frozen=True, slots=True)
class Upgrade:
    """More bits for some kinds, or larger groups, if that is affordable.

    Attributes:
        levels: how far up in 2, 3, 4, 5, 6, 8 bits, from the default of the recipe.
        group_size: None keeps that of the default.
        first_eighth: only in the first eighth of the layers, one at least.
    """

    kinds: tuple[str, ...]
    levels: int
    group_size: int | None = None
    first_eighth: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """How each kind of matrix is quantised. None leaves it plain.

    Attributes:
        default: of kinds without an entry of their own.
        kinds: by kind, in all layers.
        favoured: by kind, in the layers that `is_favoured`; goes before `kinds`.
        search: whether scales are searched for the least error, or span each group as
            `mx.quantize` has them.
        upgrades: applied in order, each if the model then takes at most `budget` times the bytes
            that it takes without any; none lowers what an earlier one raised.
    """

    name: str
    default: Quantization | None
    kinds: Mapping[str, Quantization | None] = field(default_factory=dict)
    favoured: Mapping[str, Quantization | None] = field(default_factory=dict)
    search: bool = False
    upgrades: tuple[Upgrade, ...] = ()
    budget: float = 1.0

    def quantization(self, kind: str, layer: int | None, layers: int) -> Quantization | None:
        """That of a matrix of this kind, before any upgrade; `layer` is None outside the layers."""
        if layer is not None and kind in self.favoured and is_favoured(layer, layers):
            return self.favoured[kind]
        return self.kinds.get(kind, self.default)


def is_favoured(layer: int, layers: int) -> bool:
    """Whether mlx-lm's mixed recipes give this layer of `layers` more bits.

    The first and the last eighth, and every third layer between.
    """
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def plain(default: Quantization) -> Recipe:
    """One quantisation for all matrices; routers have 8 bits, as in mlx-lm without a recipe."""
    return Recipe("plain", default, dict.fromkeys(_ROUTER_KINDS, _ROUTER))


def mixed(name: str, low: int, high: int, group_size: int = 64) -> Recipe:
    """One of mlx-lm's: more bits for values, down projections and the head."""
    more = Quantization(group_size, high)
    downs = ("attention_v", "mlp_down", "expert_down", "shared_expert_down")
    return Recipe(name, Quantization(group_size, low), {"head": more}, dict.fromkeys(downs, more))


_LEVELS = (2, 3, 4, 5, 6, 8)
_DELTA_NET_INPUTS = ("delta_net_qkv", "delta_net_z", "delta_net_ab")
_KEYS_AND_VALUES = ("attention_k", "attention_v")
# Larger groups in the MLPs pay for much of the rest, of which comes first what lowers the KL
# divergence most per byte. Matrices that are multiplied as one (DeltaNet's inputs; gate and up)
# keep one format. So do all experts of a layer, routed and shared: the decode kernels read those in
# one format.
_UPGRADES = (
    Upgrade(("mlp_gate_up", "mlp_down"), 0, group_size=128),
    Upgrade(_KEYS_AND_VALUES, 2),
    Upgrade(("head",), 1),
    Upgrade(("delta_net_out", "mlp_down", *_DELTA_NET_INPUTS), 1, first_eighth=True),
    Upgrade(("embedding",), 1),
    Upgrade(("delta_net_out",), 1),
    Upgrade(_DELTA_NET_INPUTS, 1),
    Upgrade(("head",), 2),
    Upgrade(("delta_net_out",), 2),
    Upgrade(("mlp_gate_up",), 1, first_eighth=True),
    Upgrade(("embedding",), 2),
    Upgrade(("attention_o",), 1),
    Upgrade(("attention_q",), 1),
    Upgrade(_DELTA_NET_INPUTS, 2),
    Upgrade(("attention_q", "attention_o"), 2),
    Upgrade(("mtp",), 1),
    Upgrade(("head", "embedding", "delta_net_out", *_DELTA_NET_INPUTS), 3),
    Upgrade((*_KEYS_AND_VALUES, "attention_q", "attention_o"), 3),
)


def balanced(bits: int) -> Recipe:
    """The bytes of plain quantisation to `bits` bits and 3 % more, spent where they matter."""
    base = plain(Quantization(64, bits))
    return replace(base, name=f"{bits}bit", search=True, upgrades=_UPGRADES, budget=1.03)


DEFAULT = "4bit"
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {recipe.name: recipe for recipe in map(balanced, (3, 4, 5, 6, 8))}
    | {
        name: mixed(name, low, high)
        for name, low, high in (
            ("mixed_2_6", 2, 6),
            ("mixed_3_4", 3, 4),
            ("mixed_3_6", 3, 6),
            ("mixed_4_6", 4, 6),
        )
    }
)

Assignment = Mapping[str, Quantization | None]


def assign(recipe: Recipe, shapes: Shapes, config: ModelConfig) -> Assignment:
    """The quantisation of each tensor by canonical name; None leaves it plain.

    A matrix whose rows do not divide into groups stays plain.

    Args:
        shapes: of all tensors that are converted.
    """
    chosen = {
        name: quantization
        for name, shape in shapes.items()
        if (quantization := _first(recipe, name, shape, config)) is not None
    }
    default = recipe.default
    if default is not None and recipe.upgrades:
        limit = recipe.budget * nbytes(shapes, chosen)
        spent = nbytes(shapes, chosen)
        for upgrade in recipe.upgrades:
            better = _upgraded(default, upgrade)
            changes = {
                name: better
                for name, current in chosen.items()
                if _is_upgraded(name, upgrade, config)
                and (current == default or current.bits < better.bits)
                and shapes[name][-1] % better.group_size == 0
            }
            extra = nbytes({n: shapes[n] for n in changes}, changes)
            extra -= nbytes({n: shapes[n] for n in changes}, chosen)
            if spent + extra <= limit:
                chosen |= changes
                spent += extra
    return {name: chosen.get(name) for name in shapes}


def nbytes(shapes: Shapes, assignment: Assignment, itemsize: int = 2) -> int:
    """Bytes of all tensors; `itemsize` is that of plain values, and of affine scales and biases."""
    return sum(
        _nbytes(name, shape, assignment.get(name), itemsize) for name, shape in shapes.items()
    )


def _nbytes(
    name: str, shape: tuple[int, ...], quantization: Quantization | None, itemsize: int
) -> int:
    if quantization is None:
        return math.prod(shape) * (4 if name.endswith(".A_log") else itemsize)
    scale = itemsize if quantization.mode == "affine" else 1
    parts = quantization.packed(shape)
    return sum(math.prod(parts[part]) * (4 if part == "weight" else scale) for part in parts)


def _first(
    recipe: Recipe, name: str, shape: tuple[int, ...], config: ModelConfig
) -> Quantization | None:
    if not is_quantizable(name, shape):
        return None
    chosen = recipe.quantization(kind_of(name), _layer(name), len(config.layer_types))
    return None if chosen is None or shape[-1] % chosen.group_size else chosen


def _is_upgraded(name: str, upgrade: Upgrade, config: ModelConfig) -> bool:
    """Whether a matrix is among those that the upgrade is for; tied embeddings are a head."""
    kind = kind_of(name)
    if kind == "embedding" and config.tie_word_embeddings:
        kind = "head"
    layer = _layer(name)
    first = layer is not None and layer < max(1, len(config.layer_types) // 8)
    return kind in upgrade.kinds and (first or not upgrade.first_eighth)


def _layer(name: str) -> int | None:
    """The number of a trunk layer's tensor."""
    return int(name.split(".")[2]) if name.startswith("model.layers.") else None


def _upgraded(default: Quantization, upgrade: Upgrade) -> Quantization:
    level = min(_LEVELS.index(default.bits) + upgrade.levels, len(_LEVELS) - 1)
    group_size = upgrade.group_size or default.group_size
    return replace(default, bits=_LEVELS[level], group_size=group_size)
