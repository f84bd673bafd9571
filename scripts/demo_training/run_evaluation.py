"""Evaluate an exported checkpoint with the PyTorch network."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from scripts.demo_training.evaluate import evaluate
from scripts.demo_training.model import DemoNetwork
from scripts.demo_training.network import DecodeCache
from scripts.demo_training.shape import Shape
from scripts.demo_training.text import ChatFormat
from scripts.demo_training.turns import Dialogue, Message


def read_shape(config: dict[str, Any]) -> Shape:
    """The sizes in a config.json."""
    c = config["text_config"]
    return Shape(
        vocab=c["vocab_size"], hidden=c["hidden_size"], layers=c["num_hidden_layers"],
        heads=c["num_attention_heads"], kv_heads=c["num_key_value_heads"], head_dim=c["head_dim"],
        key_heads=c["linear_num_key_heads"], value_heads=c["linear_num_value_heads"],
        key_dim=c["linear_key_head_dim"], value_dim=c["linear_value_head_dim"],
        experts=c["num_experts"], top_k=c["num_experts_per_tok"],
        expert_size=c["moe_intermediate_size"], shared_size=c["shared_expert_intermediate_size"],
        full_every=c["full_attention_interval"], rope_theta=c["rope_parameters"]["rope_theta"],
        rotary=c["rope_parameters"]["partial_rotary_factor"], eps=c["rms_norm_eps"],
        embed_scale=1.0,
    )  # fmt: skip


def rounded(weight: torch.Tensor, bits: int, group: int = 64) -> torch.Tensor:
    """A matrix after affine quantisation in groups along the last axis."""
    w = weight.float().unflatten(-1, (-1, group))
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    scale = ((high - low) / (2**bits - 1)).clamp_min(1e-8)
    return (((w - low) / scale).round() * scale + low).flatten(-2)


def load_export(folder: Path, bits: int = 0) -> DemoNetwork:
    """The network of an exported checkpoint, its matrices quantised to `bits` unless 0."""
    model = DemoNetwork(read_shape(json.loads((folder / "config.json").read_text())))
    found = load_file(str(folder / "model.safetensors"))
    state: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        published = name.replace("model.", "model.language_model.", 1)
        published = published if name.startswith("model.") else name
        if published not in found:
            start, part = name.rsplit(".", 1)
            count = model.shape.experts
            parts = ["gate_proj", "up_proj"] if part == "gate_up_proj" else ["down_proj"]
            value = torch.stack([
                torch.cat([found.pop(f"{start}.{e}.{p}.weight") for p in parts])
                for e in range(count)
            ])  # fmt: skip
        else:
            value = found.pop(published)
        large = value.ndim >= 2 and value.shape[-1] % 64 == 0 and value.shape[-2] >= 32
        state[name] = rounded(value, bits) if bits and large else value.float()
    if found:
        raise ValueError(f"unexpected tensors: {sorted(found)[:5]}")
    model.load_state_dict(state)
    return model.eval()


class TorchModel:
    """Greedy replies and MTP agreement of the PyTorch network."""

    def __init__(self, model: DemoNetwork, text: ChatFormat, device: str) -> None:
        self.model, self.text, self.device = model.to(device), text, device

    @torch.no_grad()
    def reply(self, prompt: list[int], max_tokens: int) -> list[int]:
        """Greedy ids after `prompt`, up to <|im_end|> or `max_tokens`."""
        cache, out = DecodeCache(), []
        ids = torch.tensor([prompt], device=self.device)
        for _ in range(max_tokens):
            h, _ = self.model.hidden(ids, cache=cache)
            ids = self.model.logits(h[:, -1:]).argmax(-1)
            out.append(int(ids))
            if out[-1] == self.text.end:
                break
        return out

    def generate(
        self,
        messages: list[Message],
        *,
        thinking: bool,
        max_tokens: int,
        tools: list[dict[str, Any]] | None = None,
    ) -> str:
        prompt = self.text.prompt(messages, thinking, tools=tools)
        return self.text.decode(self.reply(prompt, max_tokens))

    def length(self, messages: list[Message]) -> int:
        return len(self.text.prompt(messages, True))

    @torch.no_grad()
    def mtp_agreement(self, asked: Dialogue) -> tuple[int, int]:
        """Tokens of a greedy reply on which both heads agree, and tokens compared."""
        prompt = self.text.prompt(asked.messages[:-1], asked.thinking)
        ids = torch.tensor([prompt + self.reply(prompt, 160)], device=self.device)
        h, _ = self.model.hidden(ids)
        h2, _ = self.model.hidden_mtp(h[:, :-1], ids[:, 1:])
        main = self.model.logits(h[:, len(prompt) : -1]).argmax(-1)
        ahead = self.model.logits(h2[:, len(prompt) - 1 : -1]).argmax(-1)
        return int((main == ahead).sum()), main.numel()


def evaluate_run(args: argparse.Namespace) -> None:
    """Score `args.out`; writes metrics.json, named after the bits and the skills if not all."""
    torch.set_num_threads(args.threads)
    model = TorchModel(load_export(args.out, args.bits), ChatFormat.load(args.out), args.device)
    scores = evaluate(model.generate, model.length, model.mtp_agreement, args.count, args.only)
    metrics = json.loads((args.out / "training.json").read_text())
    metrics["bits"] = args.bits or 16
    metrics["scores"] = [s.as_dict() for s in scores]
    parts = ["metrics", *([f"{args.bits}bit"] if args.bits else []), *filter(None, [args.only])]
    name = "-".join(parts).replace(",", "-") + ".json"
    (args.out / name).write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
