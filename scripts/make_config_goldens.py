"""Make tests/model/config_goldens.json: what transformers makes of contradictory settings.

    pip install torch transformers==5.23.0 safetensors && python -m scripts.make_config_goldens

A case is a change of one small config.json. Recorded are the values that transformers computes
with, the rotary frequencies and their magnitude included, where they differ from those of the
unchanged file; or the name of the error that it raises.
In the cases of HEADS, small weights are loaded too: recorded is which tensor becomes the output
head, for the multimodal class and for the text-only class.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.qwen3_5 import modeling_qwen3_5 as dense
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as moe

OUT = Path("tests/model/config_goldens.json")

ROPE = {
    "rope_type": "default",
    "rope_theta": 1e7,
    "partial_rotary_factor": 0.5,
    "mrope_section": [3, 3, 2],
    "mrope_interleaved": True,
}
TEXT: dict[str, Any] = {
    "model_type": "qwen3_5_text",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "full_attention_interval": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "max_position_embeddings": 65536,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "dtype": "float32",
    "tie_word_embeddings": False,
    "rope_parameters": ROPE,
}
BASE: dict[str, Any] = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "model_type": "qwen3_5",
    "tie_word_embeddings": False,
    "text_config": TEXT,
    "vision_config": {
        **{"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2},
        **{"out_hidden_size": 32, "num_position_embeddings": 16, "patch_size": 4},
    },
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
}

# A value that removes the setting.
GONE = "<removed>"
YARN = ROPE | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16384}
FLAT_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16384}

# name: changes of the settings at the top and of those in text_config
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {}),
    # Where RoPE stands.
    "no rope_parameters": ({}, {"rope_parameters": GONE}),
    "rope_parameters null": ({}, {"rope_parameters": None}),
    "rope_parameters empty": ({}, {"rope_parameters": {}}),
    "rope_parameters without theta": ({}, {"rope_parameters": {"rope_type": "default"}}),
    "flat theta alone": ({}, {"rope_parameters": GONE, "rope_theta": 5e5}),
    "flat theta beside rope_parameters": ({}, {"rope_theta": 5e5}),
    "flat theta for rope_parameters without": (
        {},
        {"rope_parameters": {"rope_type": "default"}, "rope_theta": 5e5},
    ),
    "flat theta null": ({}, {"rope_theta": None}),
    "flat share beside rope_parameters": ({}, {"partial_rotary_factor": 0.25}),
    "flat share for rope_parameters without": (
        {},
        {"rope_parameters": {"rope_theta": 1e7}, "partial_rotary_factor": 0.75},
    ),
    "flat share null": (
        {},
        {"rope_parameters": {"rope_theta": 1e7}, "partial_rotary_factor": None},
    ),
    "share null": ({}, {"rope_parameters": ROPE | {"partial_rotary_factor": None}}),
    "theta null": ({}, {"rope_parameters": ROPE | {"rope_theta": None}}),
    "no share": ({}, {"rope_parameters": {"rope_theta": 1e7}}),
    "rope_scaling beside rope_parameters": ({}, {"rope_scaling": YARN | {"rope_theta": 1e6}}),
    "rope_scaling without theta beside rope_parameters": ({}, {"rope_scaling": FLAT_YARN}),
    "rope_scaling and flat theta": (
        {},
        {"rope_parameters": GONE, "rope_scaling": FLAT_YARN, "rope_theta": 1e6},
    ),
    "rope_scaling null": ({}, {"rope_scaling": None}),
    "rope_scaling with type": (
        {},
        {
            "rope_parameters": GONE,
            "rope_scaling": {**FLAT_YARN, "rope_type": GONE, "type": "yarn"},
            "rope_theta": 1e6,
        },
    ),
    "type beside rope_type": ({}, {"rope_parameters": YARN | {"type": "default"}}),
    "type yarn beside rope_type default": (
        {},
        {"rope_parameters": YARN | {"rope_type": "default", "type": "yarn"}},
    ),
    "type alone": ({}, {"rope_parameters": {**ROPE, "rope_type": GONE, "type": "default"}}),
    "type yarn alone": ({}, {"rope_parameters": {**YARN, "rope_type": GONE, "type": "yarn"}}),
    "no rope_type": ({}, {"rope_parameters": {**YARN, "rope_type": GONE}}),
    "rope_type null": ({}, {"rope_parameters": {**ROPE, "rope_type": None}}),
    "rope at the top": (
        {"rope_parameters": YARN, "rope_theta": 1e6, "partial_rotary_factor": 0.75},
        {},
    ),
    "rope at the top alone": ({"rope_parameters": YARN}, {"rope_parameters": GONE}),
    "rope_scaling at the top": ({"rope_scaling": YARN, "rope_theta": 1e6}, {}),
    "default rope at the top": ({"rope_parameters": ROPE | {"rope_theta": 1e6}}, {}),
    "the same rope at the top": ({"rope_parameters": ROPE}, {}),
    "flat rope at the top": ({"rope_theta": 1e6, "partial_rotary_factor": 0.75}, {}),
    "default rope_scaling at the top": ({"rope_scaling": ROPE | {"rope_theta": 1e6}}, {}),
    "rope_scaling null at the top": ({"rope_scaling": None}, {}),
    "rope nested by layer type": (
        {},
        {"rope_parameters": {"full_attention": ROPE, "linear_attention": None}},
    ),
    # YaRN.
    "yarn": ({}, {"rope_parameters": YARN}),
    "yarn keys flat": ({}, FLAT_YARN),
    "yarn keys flat without rope_parameters": (
        {},
        FLAT_YARN | {"rope_parameters": GONE, "rope_theta": 1e7},
    ),
    "flat original beside yarn": (
        {},
        {"rope_parameters": YARN, "original_max_position_embeddings": 1024},
    ),
    "flat original for yarn without": (
        {},
        {
            "rope_parameters": {**YARN, "original_max_position_embeddings": GONE},
            "original_max_position_embeddings": 1024,
        },
    ),
    "flat original null": (
        {},
        {"rope_parameters": YARN, "original_max_position_embeddings": None},
    ),
    "flat original without yarn": ({}, {"original_max_position_embeddings": 1024}),
    "flat factor beside yarn": ({}, {"rope_parameters": YARN, "factor": 2.0}),
    "flat attention_factor beside yarn": ({}, {"rope_parameters": YARN, "attention_factor": 2.0}),
    "flat truncate beside yarn": ({}, {"rope_parameters": YARN, "truncate": False}),
    "yarn without original": (
        {},
        {"rope_parameters": {**YARN, "original_max_position_embeddings": GONE}},
    ),
    "yarn with original null": (
        {},
        {"rope_parameters": {**YARN, "original_max_position_embeddings": None}},
    ),
    "yarn without factor": ({}, {"rope_parameters": {**YARN, "factor": GONE}}),
    "yarn with factor null": (
        {},
        {"rope_parameters": YARN | {"factor": None, "original_max_position_embeddings": 4096}},
    ),
    "yarn with factor null and flat original": (
        {},
        {"rope_parameters": YARN | {"factor": None}, "original_max_position_embeddings": 1024},
    ),
    "yarn factor against the positions": ({}, {"rope_parameters": YARN | {"factor": 2.0}}),
    "yarn factor below one": ({}, {"rope_parameters": YARN | {"factor": 0.5}}),
    "yarn with beta": ({}, {"rope_parameters": YARN | {"beta_fast": 8, "beta_slow": 2}}),
    "yarn with beta null": ({}, {"rope_parameters": YARN | {"beta_fast": None, "beta_slow": None}}),
    "yarn with beta zero": ({}, {"rope_parameters": YARN | {"beta_fast": 0, "beta_slow": 0}}),
    "yarn with attention_factor": ({}, {"rope_parameters": YARN | {"attention_factor": 1.5}}),
    "yarn with attention_factor null": ({}, {"rope_parameters": YARN | {"attention_factor": None}}),
    "yarn with mscale": ({}, {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}}),
    "yarn with one mscale": ({}, {"rope_parameters": YARN | {"mscale": 2.0}}),
    "yarn with attention_factor and mscale": (
        {},
        {"rope_parameters": YARN | {"attention_factor": 1.5, "mscale": 1.0, "mscale_all_dim": 0.5}},
    ),
    "yarn without truncation": ({}, {"rope_parameters": YARN | {"truncate": False}}),
    "yarn with truncate null": ({}, {"rope_parameters": YARN | {"truncate": None}}),
    "default with a factor": ({}, {"rope_parameters": ROPE | {"factor": 4.0}}),
    "mrope_section of another length": (
        {},
        {"rope_parameters": ROPE | {"mrope_section": [1, 1, 1]}},
    ),
    "rope type linear": ({}, {"rope_parameters": ROPE | {"rope_type": "linear", "factor": 4.0}}),
    "rope type mrope": ({}, {"rope_parameters": ROPE | {"rope_type": "mrope"}}),
    # The same setting at the top and in text_config.
    "sizes at the top differ": (
        {"vocab_size": 128, "hidden_size": 48, "head_dim": 64, "num_hidden_layers": 2},
        {},
    ),
    "eps at the top": ({"rms_norm_eps": 1e-3}, {}),
    "eps at the top alone": ({"rms_norm_eps": 1e-3}, {"rms_norm_eps": GONE}),
    "positions at the top": ({"max_position_embeddings": 512}, {}),
    "positions at the top beside yarn": (
        {"max_position_embeddings": 512},
        {"rope_parameters": {**YARN, "original_max_position_embeddings": GONE}},
    ),
    "sizes at the top of a text-only type": (
        {k: v for k, v in TEXT.items() if k != "rope_parameters"}
        | {"rope_parameters": ROPE | {"rope_theta": 1e6}},
        {"hidden_size": 16},
    ),
    "layer_types at the top": ({"layer_types": ["full_attention"] * 4}, {}),
    "dtype at the top": ({"dtype": "bfloat16"}, {}),
    "dtype beside torch_dtype": ({}, {"torch_dtype": "bfloat16"}),
    "torch_dtype alone": ({}, {"dtype": GONE, "torch_dtype": "bfloat16"}),
    # Layer types.
    "layer_types against the interval": ({}, {"full_attention_interval": 2}),
    "interval alone": ({}, {"layer_types": GONE, "full_attention_interval": 2}),
    "layer_types null": ({}, {"layer_types": None, "full_attention_interval": 2}),
    "neither layer_types nor interval": (
        {},
        {"layer_types": GONE, "full_attention_interval": GONE},
    ),
    "layer_types too short": ({}, {"layer_types": ["full_attention"]}),
    "sliding layers": ({}, {"layer_types": ["sliding_attention"] * 4}),
    # Sizes that follow from others.
    "no head_dim": ({}, {"head_dim": GONE}),
    "head_dim null": ({}, {"head_dim": None}),
    # Dense or sparse.
    "experts in a dense model type": ({}, EXPERTS),
    "no experts in a dense model type": ({}, {"num_experts": 0}),
    "experts null in a dense model type": ({}, {"num_experts": None}),
    "sparse": ({"model_type": "qwen3_5_moe"}, EXPERTS),
    "sparse architecture of a dense model type": (
        {"architectures": ["Qwen3_5MoeForConditionalGeneration"]},
        EXPERTS,
    ),
    "sparse text type in a dense model type": ({}, EXPERTS | {"model_type": "qwen3_5_moe_text"}),
    "dense text type in a sparse model type": (
        {"model_type": "qwen3_5_moe"},
        EXPERTS | {"model_type": "qwen3_5_text"},
    ),
    "sparse model type without experts": ({"model_type": "qwen3_5_moe"}, {}),
    "sparse model type with experts null": ({"model_type": "qwen3_5_moe"}, {"num_experts": None}),
    "norm_topk_prob false": ({"model_type": "qwen3_5_moe"}, EXPERTS | {"norm_topk_prob": False}),
    # Settings without effect, and one of another family.
    "attn_output_gate false": ({}, {"attn_output_gate": False}),
    "output_gate_type": ({}, {"output_gate_type": "swish"}),
    "mamba_ssm_dtype": ({}, {"mamba_ssm_dtype": "bfloat16"}),
    "sliding window": ({}, {"sliding_window": 16, "use_sliding_window": True}),
    "mlp_only_layers": ({}, {"mlp_only_layers": [0]}),
    "hidden_act swish": ({}, {"hidden_act": "swish"}),
    "settings of one layer": ({}, {"per_layer_config": {"0": {"head_dim": 16}}}),
}

# name: the flags at the top and in text_config (None removes one), whether lm_head is stored, and
# whether it is equal to the embedding
HEADS: dict[str, tuple[bool | None, bool | None, str]] = {
    f"top {top}, text {text}, lm_head {head}": (top, text, head)
    for top in (True, False, None)
    for text in (True, False, None)
    for head in ("absent", "equal", "different")
}

READ = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "layer_types", "rms_norm_eps"),
    *("max_position_embeddings", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim"),
    *("linear_value_head_dim", "linear_conv_kernel_dim", "hidden_act", "attention_bias"),
    *("intermediate_size", "num_experts", "num_experts_per_tok", "moe_intermediate_size"),
    *("shared_expert_intermediate_size",),
)


def changed(top: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """BASE with these changes."""

    def merge(source: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        merged = copy.deepcopy(source | changes)
        for key, value in list(merged.items()):
            if value == GONE:
                del merged[key]
            elif isinstance(value, dict):
                merged[key] = {k: v for k, v in value.items() if v != GONE}
        return merged

    return merge(BASE, {**top, "text_config": merge(TEXT, text)})


def effective(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values that transformers computes with, or {"error": its class}."""
    (folder / "config.json").write_text(json.dumps(config))
    try:
        read = transformers.AutoConfig.from_pretrained(folder)
        text = read.get_text_config()
        module, name = (moe, "Qwen3_5Moe") if "Moe" in type(text).__name__ else (dense, "Qwen3_5")
        rotary = getattr(module, f"{name}TextRotaryEmbedding")(text)
        block = getattr(module, f"{name}DecoderLayer")(text, 0)
    except Exception as error:
        return {"error": type(error).__name__}
    return {
        **{key: getattr(text, key) for key in READ if hasattr(text, key)},
        "sparse": type(block.mlp).__name__.endswith("SparseMoeBlock"),
        "dtype": str(text.dtype).removeprefix("torch."),
        "inv_freq": [float(f"{value:.8g}") for value in rotary.inv_freq.tolist()],
        "magnitude": float(rotary.attention_scaling),
    }


def output_head(config: dict[str, Any], head: str, folder: Path) -> dict[str, str]:
    """Which tensor is the output head, for each class that loads the checkpoint.

    "embedding", "lm_head", or "random" where neither is used.
    """
    torch.manual_seed(0)
    untied = config | {"tie_word_embeddings": False}
    untied["text_config"] = config["text_config"] | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(untied))
    read: Any = transformers.AutoConfig.from_pretrained(folder)
    stored = {
        name: value.clone().contiguous()
        for name, value in dense.Qwen3_5ForConditionalGeneration(read).state_dict().items()
    }
    embedding = torch.randn(64, 32)
    other = embedding if head == "equal" else torch.randn(64, 32)
    stored["model.language_model.embed_tokens.weight"] = embedding
    stored.pop("lm_head.weight")
    if head != "absent":
        stored["lm_head.weight"] = other.clone()
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    assert "model.language_model.embed_tokens.weight" in load_file(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    found = {}
    for label, kind in (
        ("multimodal", transformers.AutoModelForImageTextToText),
        ("text", transformers.AutoModelForCausalLM),
    ):
        head_module: Any = kind.from_pretrained(folder).get_output_embeddings()
        weight = head_module.weight
        if torch.equal(weight, embedding):
            found[label] = "embedding"
        else:
            used = head != "absent" and torch.equal(weight, other)
            found[label] = "lm_head" if used else "random"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    transformers.logging.set_verbosity_error()
    cases, heads = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = effective(BASE, folder)
        for case, (top, text) in CASES.items():
            found = effective(changed(top, text), folder)
            differing = {k: v for k, v in found.items() if k not in base or v != base[k]}
            cases[case] = {"top": top, "text": text, "transformers": differing}
        for case, (top, text, head) in HEADS.items():
            flags = [{"tie_word_embeddings": GONE if f is None else f} for f in (top, text)]
            found = output_head(changed(*flags), head, folder)
            heads[case] = {"top": top, "text": text, "lm_head": head, "transformers": found}
    config = {name: value for name, value in BASE.items() if name != "vision_config"}
    written = {
        "version": transformers.__version__,
        "config": config,
        "transformers": base,
        "cases": cases,
        "heads": heads,
    }
    out.write_text(_lines(written))
    for case, result in cases.items():
        print(case, result["transformers"].get("error", ""))


def _lines(written: dict[str, Any]) -> str:
    """JSON with one line for each case."""
    parts = []
    for name, value in written.items():
        text = json.dumps(value)
        if name in ("cases", "heads"):
            rows = [f"  {json.dumps(case)}: {json.dumps(row)}" for case, row in value.items()]
            text = "{\n" + ",\n".join(rows) + "\n }"
        parts.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    main()
