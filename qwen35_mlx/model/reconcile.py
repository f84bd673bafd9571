"""config.json and the names of the tensors beside it, brought to one model. No MLX."""

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.model.config import MODEL_TYPES, ModelConfig, text_section
from qwen35_mlx.model.rope_config import OUTSIDE, rope_notes, rope_parameters
from qwen35_mlx.untrusted_json import Fields

_TIE = "tie_word_embeddings"
_HEAD = ("lm_head.weight", "lm_head.scales")
_EXPERTS = re.compile(r"model\.layers\.\d+\.mlp\.(?:experts|switch_mlp)\.")
_DENSE = re.compile(r"model\.layers\.\d+\.mlp\.gate_proj\.")
_MIXER = re.compile(r"model\.layers\.(\d{1,6})\.(self_attn|linear_attn)\.")
_KINDS = {"self_attn": "full_attention", "linear_attn": "linear_attention"}

# Settings of the text model that mean nothing beside text_config.
_TEXT_ONLY = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "layer_types", "rms_norm_eps"),
    *("full_attention_interval", "max_position_embeddings", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "linear_num_key_heads", "linear_num_value_heads"),
    *("linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim", "hidden_act"),
    *("intermediate_size", "num_experts", "num_experts_per_tok", "moe_intermediate_size"),
    *("shared_expert_intermediate_size", "rope_parameters", "rope_scaling", "rope_theta"),
    *("partial_rotary_factor", "original_max_position_embeddings"),
)
# Settings of relatives of Qwen3.5 that it does not have, and the values that mean the same.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "norm_topk_prob": (None, True),
    "use_sliding_window": (None, False),
    "mlp_only_layers": (None, []),
    "output_gate_type": (None, "swish", "silu"),
}


def reconcile(
    config: Mapping[str, Any], names: Collection[str]
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The model that config.json and the tensors describe together, as transformers loads it.

    - An lm_head among the tensors is the output head, whatever config.json says of ties; without
      one, the embeddings are, if config.json says so in either place.
    - Tensors of experts decide between a dense and a sparse model, if config.json has the sizes
      of both.

    Args:
        config: config.json.
        names: canonical names of all tensors that are there; experts stacked or one by one.

    Returns:
        the model, and lines for the user: what was decided, and what has no effect.

    Raises:
        Qwen35Error: config.json is not valid, or the tensors contradict it.
    """
    notes: list[str] = []
    model = ModelConfig.from_dict(_with_type_of(names, config, notes))
    top = Fields(config, "config.json")
    text = text_section(top)
    tied = _is_tied(top, text, names, notes)
    _check_layers(model, names)
    notes += rope_notes(text)
    notes += _settings_without_effect(top, text)
    return replace(model, tie_word_embeddings=tied), tuple(notes)


def resolved(config: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
    """config.json with every setting in one place, where all readers find that of `model`.

    Args:
        config: valid, as for `reconcile`.
        model: what `reconcile` made of it.
    """
    written = copy.deepcopy(dict(config))
    text = written
    if "text_config" in config:
        text = written["text_config"] = dict(written["text_config"])
        for name in _TEXT_ONLY:
            written.pop(name, None)
        text["model_type"] = f"{model.model_type}_text"
    rope = rope_parameters(text_section(Fields(config, "config.json")), model.rope)
    for name in ("rope_scaling", *OUTSIDE):
        text.pop(name, None)
    text["rope_parameters"] = rope
    text["layer_types"] = list(model.layer_types)
    text["rms_norm_eps"] = model.rms_norm_eps
    written["model_type"] = model.model_type
    written[_TIE] = text[_TIE] = model.tie_word_embeddings
    return written


def _with_type_of(
    names: Collection[str], config: Mapping[str, Any], notes: list[str]
) -> Mapping[str, Any]:
    """`config` with the model type, dense or sparse, of the tensors."""
    stated = config.get("model_type")
    if stated not in MODEL_TYPES:
        return config  # which `ModelConfig` refuses
    experts = any(map(_EXPERTS.match, names))
    if experts == ("moe" in stated) or not (experts or any(map(_DENSE.match, names))):
        return config
    found = stated.replace("_moe", "") if "moe" in stated else stated.replace("_5", "_5_moe")
    needed = "num_experts" if experts else "intermediate_size"
    what = "experts" if experts else "no experts"
    if not text_section(Fields(config, "config.json")).values.get(needed):
        raise Qwen35Error(
            f"config.json: the weights have {what}, and model_type {shown(stated)} without "
            f"'{needed}' is another model: take both files from one checkpoint"
        )
    notes.append(
        f"config.json: model_type {shown(stated)} is read as {found}, since the weights have {what}"
    )
    return {**config, "model_type": found}


def _is_tied(top: Fields, text: Fields, names: Collection[str], notes: list[str]) -> bool:
    """Whether the embeddings are the output head."""
    above, below = top.values.get(_TIE), text.values.get(_TIE)
    tied = bool(top.flag(_TIE) or text.flag(_TIE))
    if any(name in names for name in _HEAD):
        if tied:
            notes.append(
                f"config.json: '{_TIE}' is true, and the weights have an lm_head: it is used, as "
                "by transformers"
            )
        return False
    if tied and None not in (above, below) and above != below:
        notes.append(
            f"config.json: '{_TIE}' is {shown(above)} at the top and {shown(below)} in "
            "text_config; the weights have no lm_head, so it is tied"
        )
    return tied


def _check_layers(model: ModelConfig, names: Collection[str]) -> None:
    """Refuse layers that have the tensors of the other type."""
    for name in names:
        match = _MIXER.match(name)
        if match is None or (layer := int(match[1])) >= model.num_hidden_layers:
            continue
        if (kind := model.layer_types[layer]) != _KINDS[match[2]]:
            raise Qwen35Error(
                f"config.json: layer {layer} is of the type {kind} ('layer_types' or "
                f"'full_attention_interval'), and the weights have '{name}': take both files from "
                "one checkpoint"
            )


def _settings_without_effect(top: Fields, text: Fields) -> list[str]:
    """Lines on settings that stand where nothing reads them, or that Qwen3.5 does not have."""
    notes = []
    beside = top.values if text.values is not top.values else {}
    differing = [
        name for name in _TEXT_ONLY if beside.get(name) not in (None, text.values.get(name))
    ]
    if differing:
        listed = ", ".join(f"'{name}'" for name in differing)
        notes.append(
            f"config.json: {listed} beside text_config has no effect, as in transformers: the "
            "text model is what text_config says"
        )
    for name, without_meaning in _WITHOUT_EFFECT.items():
        if (value := text.values.get(name)) not in without_meaning:
            notes.append(
                f"config.json: '{name}' {shown(value)} has no effect, as in transformers: Qwen3.5 "
                "has no such setting"
            )
    return notes
