"""Make tests/goldens: small random checkpoints and what transformers computes from them.

    pip install torch transformers==5.23.0 safetensors && python scripts/make_goldens.py

Only this script needs torch and transformers. Each case is a checkpoint in the published layout
(bfloat16, so that the files stay small; A_log and the DeltaNet norm in float32) and the float32
outputs of transformers: logits of a prompt, of 64 greedy tokens decoded with its cache, and of the
MTP head, which transformers does not run and which is assembled here from its layers.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers.models.qwen3_5 import modeling_qwen3_5 as dense
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as moe

PROMPT, STEPS = 150, 64

BASE = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "full_attention_interval": 4,
    "mtp_num_hidden_layers": 1,
    "max_position_embeddings": 262144,
    "eos_token_id": 250,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e7,
        "partial_rotary_factor": 0.5,
        "mrope_section": [3, 3, 2],
        "mrope_interleaved": True,
    },
}
DENSE = {"intermediate_size": 96}
SPARSE = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
}
WIDE_HEADS = {
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 1,
}
THREE_VALUE_HEADS = {"linear_num_value_heads": 3}
YARN = BASE["rope_parameters"] | {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}

# name: (text config, tied, MTP experts stored one by one)
CASES = {
    "dense": (BASE | DENSE, False, False),
    "dense-tied-wide-heads": (BASE | DENSE | WIDE_HEADS, True, False),
    "dense-yarn": (BASE | DENSE | {"rope_parameters": YARN}, True, False),
    "moe": (BASE | SPARSE, False, True),
    "moe-tied-wide-heads": (BASE | SPARSE | WIDE_HEADS | THREE_VALUE_HEADS, True, False),
}


def draw(name: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random values under which every part matters; with the default ones the state hardly does."""
    normal = torch.randn(parameter.shape, generator=generator)
    uniform = torch.rand(parameter.shape, generator=generator)
    if name.endswith("A_log"):
        return -5 + 5.5 * uniform
    if name.endswith("dt_bias"):
        return (-4 + 5 * uniform).bfloat16()
    if "linear_attn.norm" in name:
        return 1 + 0.2 * normal
    if parameter.ndim == 1:
        return (0.2 * normal).bfloat16()
    scale = 0.4 if "conv1d" in name else 0.25 if "embed" in name else parameter.shape[-1] ** -0.5
    return (normal * scale).bfloat16()


def build(text: dict, tied: bool):
    """The reference model and its MTP head in float32, with weights from `draw`."""
    sparse = "num_experts" in text
    module, prefix = (moe, "Qwen3_5Moe") if sparse else (dense, "Qwen3_5")
    config = getattr(transformers, f"{prefix}TextConfig")(**text, tie_word_embeddings=tied)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{prefix}ForCausalLM")(config).float().eval()
    one_layer = copy.deepcopy(config)
    one_layer.num_hidden_layers, one_layer.layer_types = 1, ["full_attention"]
    hidden, eps = config.hidden_size, config.rms_norm_eps

    def norm():
        return getattr(module, f"{prefix}RMSNorm")(hidden, eps=eps)

    mtp = torch.nn.ModuleDict(
        {
            "fc": torch.nn.Linear(2 * hidden, hidden, bias=False),
            "layers": torch.nn.ModuleList([getattr(module, f"{prefix}DecoderLayer")(one_layer, 0)]),
            "norm": norm(),
            "pre_fc_norm_embedding": norm(),
            "pre_fc_norm_hidden": norm(),
        }
    ).eval()
    generator = torch.Generator().manual_seed(7)
    stored = {}
    with torch.no_grad():
        for prefix, part in (("", model), ("mtp.", mtp)):
            for name, parameter in part.named_parameters():
                value = draw(name, parameter, generator)
                parameter.copy_(value)
                stored[prefix + name] = value
    return model, mtp, config, stored


@torch.no_grad()
def references(model, mtp) -> dict[str, torch.Tensor]:
    """Prompt ids [PROMPT], greedy ids [STEPS] and the logits listed in the module's docstring."""
    trunk, head = model.model, model.lm_head
    ids = torch.randint(0, 250, (1, PROMPT), generator=torch.Generator().manual_seed(1))
    prompt = trunk(input_ids=ids, use_cache=True)
    cache, logits, steps, chosen = prompt.past_key_values, head(prompt.last_hidden_state), [], []
    last = logits[:, -1:]
    for _ in range(STEPS):
        chosen.append(last.argmax(-1))
        out = trunk(input_ids=chosen[-1], past_key_values=cache, use_cache=True)
        last = head(out.last_hidden_state)
        steps.append(last)
    hidden, embedded = prompt.last_hidden_state[:, :-1], trunk.embed_tokens(ids[:, 1:])
    length = hidden.shape[1]
    x = mtp["fc"](
        torch.cat(
            [mtp["pre_fc_norm_embedding"](embedded), mtp["pre_fc_norm_hidden"](hidden)], dim=-1
        )
    )
    positions = torch.arange(length)[None]
    x = mtp["layers"][0](
        x,
        position_embeddings=trunk.rotary_emb(x, positions),
        position_ids=positions,
        attention_mask=torch.full((1, 1, length, length), -1e30).triu(1),
    )
    return {
        "prompt": ids[0].int(),
        "greedy": torch.cat(chosen, dim=1)[0].int(),
        "prefill_logits": logits[0],
        "decode_logits": torch.cat(steps, dim=1)[0],
        "mtp_logits": head(mtp["norm"](x))[0],
    }


def published_names(stored: dict, experts: int, one_by_one: bool) -> dict[str, torch.Tensor]:
    """Names as in multimodal checkpoints; MTP experts as one stack, or as one tensor each."""
    result = {}
    for name, value in stored.items():
        if one_by_one and name.startswith("mtp.") and ".experts." in name:
            stem = name[: name.index(".experts.")] + ".experts"
            for e in range(experts):
                if name.endswith("gate_up_proj"):
                    gate, up = value[e].chunk(2)
                    result[f"{stem}.{e}.gate_proj.weight"] = gate
                    result[f"{stem}.{e}.up_proj.weight"] = up
                else:
                    result[f"{stem}.{e}.down_proj.weight"] = value[e]
        elif name.startswith("model."):
            result["model.language_model." + name.removeprefix("model.")] = value
        else:
            result[name] = value
    return {name: value.clone().contiguous() for name, value in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tests/goldens"))
    out = parser.parse_args().out
    torch.set_default_dtype(torch.float32)
    for name, (text, tied, one_by_one) in CASES.items():
        model, mtp, config, stored = build(text, tied)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        tensors = published_names(stored, text.get("num_experts", 0), one_by_one)
        if tied:
            tensors.pop("lm_head.weight", None)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        expected = references(model, mtp)
        save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
        kind = "qwen3_5_moe" if "num_experts" in text else "qwen3_5"
        described = {
            "architectures": [
                "Qwen3_5MoeForConditionalGeneration"
                if "num_experts" in text
                else "Qwen3_5ForConditionalGeneration"
            ],
            "model_type": kind,
            "tie_word_embeddings": tied,
            "text_config": config.to_dict(),
        }
        (folder / "config.json").write_text(json.dumps(described, indent=1) + "\n")
        size = sum(f.stat().st_size for f in folder.iterdir()) / 1e6
        spread = expected["decode_logits"].std().item()
        print(f"{name:24} {size:5.2f} MB  logits std {spread:.2f}")


if __name__ == "__main__":
    main()
