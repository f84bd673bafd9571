"""Sizes of the network, from config.json of Qwen3.5, 3.6 and 3.8 checkpoints. No MLX."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from qwen35_mlx.errors import Qwen35Error

MODEL_TYPES = ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text")

# YaRN is known to work up to this multiple of the trained context.
YARN_LIMIT = 4

LayerType = Literal["linear_attention", "full_attention"]


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding of the full-attention layers.

    Attributes:
        theta: base of the frequencies.
        partial_rotary_factor: the share of head_dim, from its start, that is rotated.
        scaling: the whole `rope_parameters` of a YaRN checkpoint, None for plain RoPE.
    """

    theta: float
    partial_rotary_factor: float
    scaling: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of one text network. The names are config.json's own.

    `num_experts` is 0 in a dense model; `intermediate_size` is 0 in a sparse one.
    `mtp_num_hidden_layers` is config.json's value: the checkpoint may still lack the MTP head.
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
        """Read config.json, multimodal (with `text_config`) or text-only.

        Raises:
            Qwen35Error: a field is missing, has the wrong type or does not fit the others.
        """
        model_type = config.get("model_type")
        if model_type not in MODEL_TYPES:
            raise Qwen35Error(
                f"config.json: model_type is {model_type!r}, which is not Qwen3.5 "
                f"({', '.join(MODEL_TYPES)}): choose a Qwen3.5, 3.6 or 3.8 checkpoint"
            )
        text = config.get("text_config", config)
        if not isinstance(text, Mapping):
            raise Qwen35Error("config.json: 'text_config' is not an object: fetch the file again")
        fields = _ConfigFields(text)
        layers = fields.positive("num_hidden_layers")
        # Released configs have it in both places, hand-made ones in either.
        tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
        sparse = bool(text.get("num_experts"))
        result = cls(
            model_type=model_type,
            vocab_size=fields.positive("vocab_size"),
            hidden_size=fields.positive("hidden_size"),
            num_hidden_layers=layers,
            layer_types=_layer_types(text, layers),
            rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
            max_position_embeddings=fields.positive("max_position_embeddings"),
            tie_word_embeddings=bool(tied),
            rope=_rope(text),
            num_attention_heads=fields.positive("num_attention_heads"),
            num_key_value_heads=fields.positive("num_key_value_heads"),
            head_dim=fields.positive("head_dim"),
            linear_num_key_heads=fields.positive("linear_num_key_heads"),
            linear_num_value_heads=fields.positive("linear_num_value_heads"),
            linear_key_head_dim=fields.positive("linear_key_head_dim"),
            linear_value_head_dim=fields.positive("linear_value_head_dim"),
            linear_conv_kernel_dim=fields.positive("linear_conv_kernel_dim", 4),
            intermediate_size=0 if sparse else fields.positive("intermediate_size"),
            num_experts=fields.positive("num_experts") if sparse else 0,
            num_experts_per_tok=fields.positive("num_experts_per_tok") if sparse else 0,
            moe_intermediate_size=fields.positive("moe_intermediate_size") if sparse else 0,
            shared_expert_intermediate_size=(
                fields.positive("shared_expert_intermediate_size") if sparse else 0
            ),
            mtp_num_hidden_layers=int(text.get("mtp_num_hidden_layers") or 0),
            eos_token_ids=_eos_token_ids(config, text),
        )
        result._check(text)
        return result

    def _check(self, text: Mapping[str, Any]) -> None:
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
        if self.mtp_num_hidden_layers > 1:
            raise Qwen35Error(
                f"config.json: 'mtp_num_hidden_layers' is {self.mtp_num_hidden_layers}, and this "
                "version supports one MTP layer: look for a newer qwen35-mlx"
            )
        for name, only in (
            ("hidden_act", "silu"),
            ("attention_bias", False),
            ("attn_output_gate", True),
        ):
            if text.get(name, only) != only:
                raise Qwen35Error(
                    f"config.json: '{name}' is {text[name]!r}, and this version supports only "
                    f"{only!r}: look for a newer qwen35-mlx"
                )


class _ConfigFields:
    """Fields of config.json, each checked as it is read."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = values

    def number(self, name: str, default: float | None = None) -> float:
        value = self.values.get(name, default)
        if value is None:
            raise Qwen35Error(f"config.json has no '{name}': is this a Qwen3.5 checkpoint?")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Qwen35Error(f"config.json: '{name}' is {value!r}, not a number")
        return value

    def positive(self, name: str, default: int | None = None) -> int:
        value = self.number(name, default)
        if value != int(value) or value <= 0:
            raise Qwen35Error(f"config.json: '{name}' is {value!r}, not a positive whole number")
        return int(value)


def _layer_types(text: Mapping[str, Any], layers: int) -> tuple[LayerType, ...]:
    types = text.get("layer_types")
    if types is None:
        interval = _ConfigFields(text).positive("full_attention_interval", 4)
        return tuple(
            "linear_attention" if (i + 1) % interval else "full_attention" for i in range(layers)
        )
    unknown = set(types) - {"linear_attention", "full_attention"}
    if unknown or len(types) != layers:
        raise Qwen35Error(
            f"config.json: 'layer_types' must name {layers} layers, each linear_attention or "
            f"full_attention; it names {len(types)}"
            + (f", among them {sorted(map(str, unknown))}" if unknown else "")
        )
    return tuple(types)


def _rope(text: Mapping[str, Any]) -> RopeConfig:
    """From `rope_parameters`, or from the older `rope_theta` and `rope_scaling`."""
    parameters = dict(text.get("rope_parameters") or text.get("rope_scaling") or {})
    for name, default in (("rope_theta", 1e7), ("partial_rotary_factor", 0.25)):
        parameters.setdefault(name, text.get(name, default))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "yarn"):
        raise Qwen35Error(f"config.json: rope_type {kind!r} is not known here: use default or yarn")
    fields = _ConfigFields(parameters)
    scaling = None
    if kind == "yarn":
        scaling = {
            **parameters,
            "factor": fields.number("factor"),
            "original_max_position_embeddings": fields.positive("original_max_position_embeddings"),
        }
    return RopeConfig(
        theta=fields.number("rope_theta"),
        partial_rotary_factor=fields.number("partial_rotary_factor"),
        scaling=scaling,
    )


def _eos_token_ids(config: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[int, ...]:
    found: list[int] = []
    for source in (config, text):
        ids = source.get("eos_token_id")
        found += ids if isinstance(ids, list) else [] if ids is None else [ids]
    return tuple(dict.fromkeys(found))
