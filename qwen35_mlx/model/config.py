"""Sizes of the network, from config.json of Qwen3.5, 3.6 and 3.8 checkpoints. No MLX."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.untrusted_json import Fields

# Qwen3.5 with rotated matrices: see `checkpoint.formats.hadamard`.
HADAMARD_MODEL_TYPE = "prism_hadamard_qwen35"
MODEL_TYPES = (
    *("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),
    HADAMARD_MODEL_TYPE,
)

# YaRN is known to work up to this multiple of the trained context.
YARN_LIMIT = 4

# Far beyond all published models. What is built per layer, per head dimension or per tap of the
# convolution stays small even if no tensor of the checkpoint has that size.
MAX_LAYERS = 1024
MAX_HEADS = MAX_HEAD_DIM = 1 << 16
MAX_KERNEL = 1024

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
        top = Fields(config, "config.json")
        model_type = config.get("model_type")
        if model_type not in MODEL_TYPES:
            raise Qwen35Error(
                f"config.json: model_type is {shown(model_type)}, which is not Qwen3.5 "
                f"({', '.join(MODEL_TYPES)}): choose a Qwen3.5, 3.6 or 3.8 checkpoint"
            )
        text = top.section("text_config") if "text_config" in config else top
        layers = text.whole("num_hidden_layers", high=MAX_LAYERS)
        experts = text.whole("num_experts", 0, low=0)

        def expert_size(name: str) -> int:
            return text.whole(name) if experts else 0

        result = cls(
            model_type=model_type,
            vocab_size=text.whole("vocab_size"),
            hidden_size=text.whole("hidden_size"),
            num_hidden_layers=layers,
            layer_types=_layer_types(text, layers),
            rms_norm_eps=text.number("rms_norm_eps", 1e-6, low=0, high=1),
            max_position_embeddings=text.whole("max_position_embeddings"),
            # Released configs have it in both places, hand-made ones in either.
            tie_word_embeddings=text.flag(
                "tie_word_embeddings", top.flag("tie_word_embeddings", default=False)
            ),
            rope=_rope(text),
            num_attention_heads=text.whole("num_attention_heads", high=MAX_HEADS),
            num_key_value_heads=text.whole("num_key_value_heads", high=MAX_HEADS),
            head_dim=text.whole("head_dim", high=MAX_HEAD_DIM),
            linear_num_key_heads=text.whole("linear_num_key_heads", high=MAX_HEADS),
            linear_num_value_heads=text.whole("linear_num_value_heads", high=MAX_HEADS),
            linear_key_head_dim=text.whole("linear_key_head_dim", high=MAX_HEAD_DIM),
            linear_value_head_dim=text.whole("linear_value_head_dim", high=MAX_HEAD_DIM),
            linear_conv_kernel_dim=text.whole("linear_conv_kernel_dim", 4, high=MAX_KERNEL),
            intermediate_size=0 if experts else text.whole("intermediate_size"),
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
        for name, only in (
            ("hidden_act", "silu"),
            ("attention_bias", False),
            ("attn_output_gate", True),
        ):
            if text.values.get(name, only) != only:
                raise Qwen35Error(
                    f"config.json: '{name}' is {shown(text.values[name])}, and this version "
                    "supports only "
                    f"{only!r}: look for a newer qwen35-mlx"
                )


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


def _rope(text: Fields) -> RopeConfig:
    """From `rope_parameters`, or from the older `rope_theta` and `rope_scaling`."""
    found = text.section("rope_parameters").values or text.section("rope_scaling").values
    parameters = dict(found)
    for name, default in (("rope_theta", 1e7), ("partial_rotary_factor", 0.25)):
        parameters.setdefault(name, text.values.get(name, default))
    fields = Fields(parameters, text.source)
    kind = fields.text("rope_type", fields.text("type", "default"))
    if kind not in ("default", "yarn"):
        raise Qwen35Error(
            f"config.json: rope_type {shown(kind)} is not known here: use default or yarn"
        )
    return RopeConfig(
        theta=fields.number("rope_theta", low=1.001, high=1e15),
        partial_rotary_factor=fields.number("partial_rotary_factor", low=0, high=1),
        scaling=_yarn_parameters(fields) if kind == "yarn" else None,
    )


def _yarn_parameters(rope: Fields) -> Mapping[str, Any]:
    """`rope_parameters` of a YaRN checkpoint, with every number in it checked."""
    for name in ("beta_fast", "beta_slow", "attention_factor"):
        rope.number(name, 1.0, low=1e-3, high=1e6)
    for name in ("mscale", "mscale_all_dim"):
        rope.number(name, 0.0, low=0, high=1e6)
    rope.flag("truncate")
    return {
        **rope.values,
        "factor": rope.number("factor", low=1e-3, high=1e6),
        "original_max_position_embeddings": rope.whole("original_max_position_embeddings"),
    }
