"""Compare the network with transformers, on random weights in an exported checkpoint."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from scripts.demo_training.export import write
from scripts.demo_training.model import DemoNetwork
from scripts.demo_training.network import DecodeCache
from scripts.demo_training.run_evaluation import load_export
from scripts.demo_training.shape import Shape


def randomise(model: DemoNetwork) -> None:
    """Draw weights that exercise every part, exact in bfloat16 so that the export keeps them."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("A_log"):
                value = noise.clamp(-1, 1) * 2 - 2
            elif name.endswith("dt_bias"):
                value = noise - 1
            elif "linear_attn.norm" in name:
                value = 1 + 0.2 * noise
            elif p.ndim == 1:
                value = 0.2 * noise
            else:
                value = noise * (0.4 if "conv1d" in name else p.shape[-1] ** -0.5)
            p.copy_(value.bfloat16().float())


@torch.no_grad()
def check(run: Path) -> None:
    """Print the largest differences of logits.

    Args:
        run: folder with a tokenizer.json.

    Raises:
        SystemExit: a difference exceeds rounding.
    """
    from transformers import Qwen3_5MoeForCausalLM

    words = Tokenizer.from_file(str(run / "tokenizer.json")).get_vocab_size()
    shape = Shape(words, hidden=128, key_heads=2, value_heads=6, experts=8, embed_scale=1.0)
    model = DemoNetwork(shape).eval()
    randomise(model)
    ids = torch.randint(0, shape.vocab, (1, 150), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        write(model, run, Path(folder), 8192)
        model = load_export(Path(folder))
        theirs = Qwen3_5MoeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    mine = model.logits(model.hidden(ids)[0])
    differences = {"transformers": (mine - theirs(ids).logits).abs().max().item()}

    cache = DecodeCache()
    first, _ = model.hidden(ids[:, :100], cache=cache)
    parts = [first, *(model.hidden(ids[:, i : i + 1], cache=cache)[0] for i in range(100, 150))]
    differences["token by token"] = (model.logits(torch.cat(parts, 1)) - mine).abs().max().item()

    segments = torch.tensor([[1] * 70 + [2] * 80])
    packed = model.logits(model.hidden(ids, segments)[0])[:, 70:]
    alone = model.logits(model.hidden(ids[:, 70:])[0])
    differences["packed"] = (packed - alone).abs().max().item()
    scaled = DemoNetwork(replace(shape, embed_scale=8.0)).eval()
    randomise(scaled)
    folded = scaled.with_embed_scale(1.0)
    apart = scaled.logits(scaled.hidden(ids)[0]) - folded.logits(folded.hidden(ids)[0])
    differences["folded scale"] = apart.abs().max().item()
    again = folded.with_embed_scale(8.0)
    apart = scaled.logits(scaled.hidden(ids)[0]) - again.logits(again.hidden(ids)[0])
    differences["unfolded scale"] = apart.abs().max().item()
    for name, difference in differences.items():
        print(f"{name}: {difference:.2e}")
    if max(differences.values()) > 1e-4:
        raise SystemExit("The network and transformers disagree.")
