"""Sizes of the network, from config.json of Qwen3.5, 3.6 and 3.8 checkpoints. No MLX."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.model.rope_config import RopeConfig, check_rope_beside_text_config, read_rope
from qwen35_mlx.untrusted_json import Fields

# Qwen3.5 with rotated matrices: see `checkpoint.formats.hadamard`.
HADAMARD_MODEL_TYPE = "prism_hadamard_qwen35"
MODEL_TYPES = (
    *("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),
    HADAMARD_MODEL_TYPE,
)

_MOE = "moe"  # in the model types with experts

# YaRN is known to work up to this multiple of the trained context.
YARN_LIMIT = 4

# Far beyond all published models. What is built per layer, per head dimension or per tap of the
# convolution stays small even if no tensor of the checkpoint has that size.
MAX_LAYERS = 1024
MAX_HEADS = MAX_HEAD_DIM = 1 << 16
MAX_KERNEL = 1024

LayerType = Literal["linear_attention", "full_attention"]


def check_model_type(config: Mapping[str, Any]) -> str:
    """The model type of config.json.

    Raises:
        Qwen35Error: it is not one of Qwen3.5.
    """
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise Qwen35Error(
            f"config.json: model_type is {shown(model_type)}, which is not Qwen3.5 "
            f"({', '.join(MODEL_TYPES)}): choose a Qwen3.5, 3.6 or 3.8 checkpoint"
        )
    return model_type


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of a network that is split over several processes.

    Attributes:
        rank: of the process, from 0 on.
        ranks: the number of processes.
        pipeline: whether a process has consecutive layers, each a whole one; if not, it has a part
            of every layer. The vocabulary is split in both cases.
    """

    rank: int
    ranks: int
    pipeline: bool = False

    def width(self, whole: int, unit: int = 1) -> int:
        """Of an equal part of an axis of `whole`: a multiple of `unit`; the last may be beyond it.

        Where nothing divides, parts are multiples of 32, as kernels need.
        """
        if whole % (self.ranks * unit) == 0:
            return whole // self.ranks
        unit = math.lcm(unit, 32)
        return -(-whole // (self.ranks * unit)) * unit


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of one text network. The names are config.json's own.

    `num_experts` is 0 in a dense model; `intermediate_size` is 0 in a sparse one.
    `mtp_num_hidden_layers` is config.json's value: the checkpoint may still lack the MTP head.
    `shard` says which part of a network this is; sizes are then those of the part, but for
    `vocab_size`. None: all of it.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    layer_types: tuple[LayerType, ...]
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    rope: RopeConfig

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int

    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int

    intermediate_size: int
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int

    mtp_num_hidden_layers: int
    eos_token_ids: tuple[int, ...]

    shard: Shard | None = None

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding and of the output head: of a part, those of its process."""
        return self.vocab_size if self.shard is None else self.shard.width(self.vocab_size)

    @property
    def rotary_dim(self) -> int:
        """Number of rotated dimensions of an attention head."""
        return int(self.head_dim * self.rope.partial_rotary_factor)

    @property
    def linear_key_dim(self) -> int:
        """Width of all DeltaNet key heads together; that of the query heads is the same."""
        return self.linear_num_key_heads * self.linear_key_head_dim

    @property
    def linear_value_dim(self) -> int:
        """Width of all DeltaNet value heads together."""
        return self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def linear_conv_dim(self) -> int:
        """Channels of the causal convolution: q, k and v side by side."""
        return 2 * self.linear_key_dim + self.linear_value_dim

    def with_context(self, tokens: int) -> "ModelConfig":
        """The same network with a context of `tokens`, for prompt and reply together.

        Beyond the trained context, positions are scaled by YaRN, which costs a little quality on
        short texts too. The factor is a whole number, as in published configs.

        Raises:
            Qwen35Error: `tokens` is below 1 or more than YaRN is known to be good for.
        """
        trained, scaling = self.max_position_embeddings, self.rope.scaling
        if scaling is not None:
            trained = int(scaling["original_max_position_embeddings"])
        if tokens < 1:
            raise Qwen35Error(f"the context is {tokens}: it must be 1 token or more")
        if tokens <= self.max_position_embeddings:
            return replace(self, max_position_embeddings=tokens)
        if tokens > YARN_LIMIT * trained:
            raise Qwen35Error(
                f"a context of {tokens:,} tokens is too long: this model was trained for "
                f"{trained:,}, and YaRN stretches that to {YARN_LIMIT} times as much"
            )
        parameters = {
            "rope_type": "yarn",
            "rope_theta": self.rope.theta,
            "partial_rotary_factor": self.rope.partial_rotary_factor,
            "factor": float(-(-tokens // trained)),
            "original_max_position_embeddings": trained,
        }
        rope = replace(self.rope, scaling=parameters)
        return replace(self, rope=rope, max_position_embeddings=tokens)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Read config.json, multimodal (with `text_config`) or text-only, as transformers does.

        Where tensors decide, such as whether the head is tied, this is config.json's word alone:
        `reconcile` asks the tensors.

        Raises:
            Qwen35Error: a field is missing, has the wrong type or does not fit the others.
        """
        top = Fields(config, "config.json")
        model_type = check_model_type(config)
        text = text_section(top)
        layers = text.whole("num_hidden_layers", high=MAX_LAYERS)
        positions = text.whole("max_position_embeddings")
        sparse = _MOE in model_type
        stated = text.whole("num_experts", None if sparse else 0, low=1 if sparse else 0)
        experts = stated if sparse else 0

        def expert_size(name: str) -> int:
            return text.whole(name) if experts else 0

        result = cls(
            model_type=model_type,
            vocab_size=text.whole("vocab_size"),
            hidden_size=text.whole("hidden_size"),
            num_hidden_layers=layers,
            layer_types=_layer_types(text, layers),
            rms_norm_eps=text.number("rms_norm_eps", 1e-6, low=0, high=1),
            max_position_embeddings=positions,
            # Released configs have it in both places or at the top, hand-made ones in either.
            tie_word_embeddings=top.flag(
                "tie_word_embeddings", text.flag("tie_word_embeddings", default=False)
            ),
            rope=read_rope(text, positions),
            num_attention_heads=text.whole("num_attention_heads", high=MAX_HEADS),
            num_key_value_heads=text.whole("num_key_value_heads", high=MAX_HEADS),
            head_dim=text.whole("head_dim", high=MAX_HEAD_DIM),
            linear_num_key_heads=text.whole("linear_num_key_heads", high=MAX_HEADS),
            linear_num_value_heads=text.whole("linear_num_value_heads", high=MAX_HEADS),
            linear_key_head_dim=text.whole("linear_key_head_dim", high=MAX_HEAD_DIM),
            linear_value_head_dim=text.whole("linear_value_head_dim", high=MAX_HEAD_DIM),
            linear_conv_kernel_dim=text.whole("linear_conv_kernel_dim", 4, high=MAX_KERNEL),
            intermediate_size=0 if experts else _dense_size(text, model_type),
            num_experts=experts,
            num_experts_per_tok=expert_size("num_experts_per_tok"),
            moe_intermediate_size=expert_size("moe_intermediate_size"),
            shared_expert_intermediate_size=expert_size("shared_expert_intermediate_size"),
            mtp_num_hidden_layers=text.whole("mtp_num_hidden_layers", 0, low=0),
            eos_token_ids=tuple(
                dict.fromkeys(top.token_ids("eos_token_id") + text.token_ids("eos_token_id"))
            ),
        )
        result._check(text)
        return result

    def _check(self, text: Fields) -> None:
        """Refuse configs that this network would compute wrongly."""
        for parts, whole in (
            ("num_key_value_heads", "num_attention_heads"),
            ("linear_num_key_heads", "linear_num_value_heads"),
        ):
            if getattr(self, whole) % getattr(self, parts):
                raise Qwen35Error(
                    f"config.json: '{whole}' {getattr(self, whole)} is not a multiple of "
                    f"'{parts}' {getattr(self, parts)}: fetch the file again"
                )
        if self.num_experts_per_tok > self.num_experts:
            raise Qwen35Error(
                f"config.json: 'num_experts_per_tok' {self.num_experts_per_tok} is more than "
                f"'num_experts' {self.num_experts}: fetch the file again"
            )
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise Qwen35Error(
                f"config.json: {self.rotary_dim} of {self.head_dim} dimensions of a head are "
                "rotated ('partial_rotary_factor'), which is not a positive even number: fetch "
                "the file again"
            )
        if self.mtp_num_hidden_layers > 1:
            raise Qwen35Error(
                f"config.json: 'mtp_num_hidden_layers' is {self.mtp_num_hidden_layers}, and this "
                "version supports one MTP layer: look for a newer qwen35-mlx"
            )
        for name, supported in (
            ("hidden_act", ("silu", "swish")),  # two names of one function
            ("attention_bias", (False,)),
            ("attn_output_gate", (True,)),
        ):
            if (value := text.values.get(name, supported[0])) not in supported:
                raise Qwen35Error(
                    f"config.json: '{name}' is {shown(value)}, and this version supports only "
                    f"{supported[0]!r}: look for a newer qwen35-mlx"
                )
        if text.values.get("per_layer_config"):
            raise Qwen35Error(
                "config.json: 'per_layer_config' gives layers sizes of their own, and this version "
                "supports only one size for all: look for a newer qwen35-mlx"
            )


def text_section(top: Fields) -> Fields:
    """The settings of the text model: `text_config`, or the whole of a text-only config.json.

    Raises:
        Qwen35Error: they stand in both places, or a scaled RoPE stands in the wrong one.
    """
    if "text_config" not in top.values:
        return top
    if str(top.values.get("model_type")).endswith("_text") and "hidden_size" in top.values:
        raise Qwen35Error(
            f"config.json: the model_type {shown(top.values['model_type'])} has its settings at "
            "the top, and there are others in 'text_config': fetch the file again"
        )
    check_rope_beside_text_config(top)
    return top.section("text_config")


def _dense_size(text: Fields, model_type: str) -> int:
    """`intermediate_size` of a dense model."""
    if "intermediate_size" not in text.values and text.values.get("num_experts"):
        raise Qwen35Error(
            f"config.json: model_type {shown(model_type)} is a dense model, and there are "
            f"'num_experts' {shown(text.values['num_experts'])} and no 'intermediate_size': is "
            "the model_type of another checkpoint?"
        )
    return text.whole("intermediate_size")


def _layer_types(text: Fields, layers: int) -> tuple[LayerType, ...]:
    types = text.values.get("layer_types")
    if types is None:
        interval = text.whole("full_attention_interval", 4)
        return tuple(
            "linear_attention" if (i + 1) % interval else "full_attention" for i in range(layers)
        )
    known = ("linear_attention", "full_attention")
    if not isinstance(types, list) or len(types) != layers or any(t not in known for t in types):
        unknown = [t for t in types if t not in known] if isinstance(types, list) else types
        raise Qwen35Error(
            f"config.json: 'layer_types' must name {layers} layers, each linear_attention or "
            f"full_attention; it is {shown(unknown or types)}: fetch the file again"
        )
    return tuple(types)
