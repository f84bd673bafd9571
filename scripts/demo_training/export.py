"""Export a training checkpoint to the published Hugging Face layout."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from scripts.demo_training.model import DemoNetwork
from scripts.demo_training.shape import Shape
from scripts.demo_training.text import ChatFormat, write_configs
from scripts.demo_training.train import load_model

FLOAT32 = ("A_log", "linear_attn.norm.weight")


def config(shape: Shape, text: ChatFormat, max_length: int) -> dict[str, Any]:
    """config.json with the keys of the published Qwen3.5-MoE checkpoints, without vision."""
    token = text.tokenizer.token_to_id
    layer_types = [
        "full_attention" if shape.is_full(i) else "linear_attention" for i in range(shape.layers)
    ]
    ids = {"eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>")}
    text_config = {
        "model_type": "qwen3_5_moe_text", "vocab_size": shape.vocab, "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "hidden_act": "silu",
        "rms_norm_eps": shape.eps, "layer_types": layer_types,
        "full_attention_interval": shape.full_every, "attention_bias": False,
        "attention_dropout": 0.0, "attn_output_gate": True,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": shape.key_dim,
        "linear_value_head_dim": shape.value_dim, "linear_num_key_heads": shape.key_heads,
        "linear_num_value_heads": shape.value_heads, "mamba_ssm_dtype": "float32",
        "num_experts": shape.experts, "num_experts_per_tok": shape.top_k,
        "moe_intermediate_size": shape.expert_size,
        "shared_expert_intermediate_size": shape.shared_size, "router_aux_loss_coef": 0.01,
        "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False,
        "max_position_embeddings": max_length, "initializer_range": 0.02, "use_cache": True,
        "dtype": "bfloat16", "tie_word_embeddings": True, "bos_token_id": None, **ids,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": shape.rope_theta,
            "partial_rotary_factor": shape.rotary, "mrope_interleaved": True,
            "mrope_section": mrope_section(shape),
        },
    }  # fmt: skip
    return {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe",
        "dtype": "bfloat16", "tie_word_embeddings": True, **ids,
        "image_token_id": token("<|image_pad|>"), "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"), "text_config": text_config,
    }  # fmt: skip


def mrope_section(shape: Shape) -> list[int]:
    """Rotary pairs for time, height and width; their positions are equal for text."""
    pairs = int(shape.head_dim * shape.rotary) // 2
    side = pairs // 3
    return [pairs - 2 * side, side, side]


def exact_norm(weight: torch.Tensor) -> torch.Tensor:
    """w in bf16 such that 1 + w is exact in bf16 too: some loaders add the 1 in that type."""
    return ((1 + weight.float()).bfloat16().float() - 1).bfloat16()


def tensors(model: DemoNetwork) -> dict[str, torch.Tensor]:
    """Weights under published names: trunk experts fused, MTP experts one by one."""
    size, found = model.shape.expert_size, {}
    for name, value in model.state_dict().items():
        if name.endswith(FLOAT32):
            value = value.float()
        elif value.ndim == 1 and "norm" in name:
            value = exact_norm(value)
        else:
            value = value.bfloat16()
        if name.startswith("model."):
            found[f"model.language_{name}"] = value
        elif name.endswith("experts.gate_up_proj"):
            for e, both in enumerate(value):
                at = f"{name.removesuffix('gate_up_proj')}{e}."
                found[f"{at}gate_proj.weight"] = both[:size].clone()
                found[f"{at}up_proj.weight"] = both[size:].clone()
        elif name.endswith("experts.down_proj"):
            for e, one in enumerate(value):
                at = f"{name.removesuffix('down_proj')}{e}."
                found[f"{at}down_proj.weight"] = one.clone()
        else:
            found[name] = value
    return {name: value.contiguous().cpu() for name, value in found.items()}


def write(model: DemoNetwork, tokenizer_folder: Path, out: Path, max_length: int) -> None:
    """Write weights, configs, tokenizer and template of `model` to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(tokenizer_folder / "tokenizer.json", out)
    write_configs(out, max_length)
    settings = config(model.shape, ChatFormat.load(out), max_length)
    (out / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    save_file(tensors(model), str(out / "model.safetensors"), {"format": "pt"})


def export(run: Path, out: Path, max_length: int) -> None:
    """Export the latest checkpoint of a run, with training.json about its training."""
    saved = torch.load(run / "latest.pt", map_location="cpu", weights_only=True)
    model = load_model(run / "latest.pt").with_embed_scale(1.0)
    write(model, run, out, max_length)
    total, active = model.count()
    facts = {
        "parameters": total,
        "active_parameters": active,
        "steps": saved["step"],
        "training_tokens": saved["tokens"],
        "training_minutes": round(saved["seconds"] / 60, 1),
    }
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts))
