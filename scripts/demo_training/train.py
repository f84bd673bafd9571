"""The training loop: limited by wall-clock time, in three phases of growing length, resumable."""

import json
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from scripts.demo_training.dialogues import Mix
from scripts.demo_training.model import DemoNetwork
from scripts.demo_training.muon import Muon
from scripts.demo_training.packing import Batch
from scripts.demo_training.shape import Shape
from scripts.demo_training.source import BatchSource

MTP_WEIGHT, BALANCE_WEIGHT = 0.25, 0.01
MTP_EVERY = 3  # its layer learns fast enough from a third of the steps


@dataclass(frozen=True, slots=True)
class Plan:
    """Duration and learning rates of a training."""

    minutes: float  # limit of all resumed runs together
    call_minutes: float  # limit of this run
    tokens: int = 8192  # per step
    seed: int = 1
    muon_lr: float = 0.015
    adam_lr: float = 3e-3
    warmup_steps: int = 20
    decay_share: float = 0.4  # share of `minutes`, at the end
    save_minutes: float = 3.0
    workers: int = 0  # processes that generate data


CHAT_WEIGHTS = (
    ("chat", 32.0), ("recall", 14.0), ("untold", 5.0), ("arithmetic", 26.0), ("needle", 15.0),
    ("copy", 9.0), ("short", 10.0), ("tools", 3.0), ("called", 2.0), ("itself", 4.0),
    ("guide", 45.0),
)  # fmt: skip
LATE_WEIGHTS = (
    ("chat", 16.0), ("recall", 9.0), ("untold", 9.0), ("arithmetic", 45.0), ("needle", 10.0),
    ("copy", 6.0), ("short", 6.0), ("tools", 2.0), ("called", 2.0), ("itself", 4.0),
    ("guide", 45.0),
)  # fmt: skip
LONG_WEIGHTS = (("needle", 1.0),)
PHASES = (
    (0.20, 512, Mix(turns=6, sentences=20)),
    (0.55, 1024, Mix(turns=16, sentences=60, weights=CHAT_WEIGHTS)),
    (1.01, 1024, Mix(turns=24, sentences=80, weights=LATE_WEIGHTS)),
)
LONG = Mix(long_text=1.0, longest=430, weights=LONG_WEIGHTS)


def prediction(
    model: DemoNetwork, h: torch.Tensor, target: torch.Tensor, learn: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss and greedy accuracy over the learned positions of [B, T]."""
    at = learn.flatten().nonzero()[:, 0]
    wanted = F.pad(target.flatten()[at], (0, -len(at) % 256), value=-100)
    at = F.pad(at, (0, -len(at) % 256))  # few distinct sizes, as in network.GROUPS
    logits = model.logits(h.flatten(0, 1)[at])
    right = (logits.argmax(-1) == wanted).sum() / (wanted >= 0).sum()
    return F.cross_entropy(logits, wanted), right


def losses(
    model: DemoNetwork, batch: Batch, with_mtp: bool
) -> tuple[torch.Tensor, dict[str, float]]:
    """Total loss of one batch, and its parts by name."""
    ids, learn, segments = batch.ids, batch.learn, batch.segments
    h, balance = model.hidden(ids, segments)
    main, right = prediction(model, h[:, :-1], ids[:, 1:], learn[:, 1:])
    total = main + BALANCE_WEIGHT * balance
    found = {"loss": main.item(), "right": right.item(), "balance": balance.item()}
    if with_mtp:
        h2, balance = model.hidden_mtp(h, F.pad(ids[:, 1:], (0, 1)), segments)
        learn = learn[:, 2:]
        if segments is not None:
            learn = learn & (segments[:, 2:] == segments[:, :-2])
        mtp, _ = prediction(model, h2[:, :-2], ids[:, 2:], learn)
        total = total + MTP_WEIGHT * mtp + BALANCE_WEIGHT / model.shape.layers * balance
        found["mtp"] = mtp.item()
    return total, found


def optimisers(model: DemoNetwork, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the large matrices, AdamW for embedding, gates, convolution and vectors."""
    matrices, others = [], []
    for name, p in model.named_parameters():
        small = p.ndim < 2 or min(p.shape[-2:]) < 32 or "embed" in name or "conv1d" in name
        (others if small else matrices).append(p)
    adam = torch.optim.AdamW(others, plan.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
    return [Muon(matrices, plan.muon_lr), adam]


def rate(plan: Plan, progress: float, step: int) -> float:
    """Warm up, hold, then fall linearly to zero at the end of the budget."""
    fall = min(1.0, (1 - progress) / plan.decay_share)
    return max(0.02, fall) * min(1.0, (step + 1) / plan.warmup_steps)


def load_model(path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> DemoNetwork:
    """The network of a training checkpoint."""
    saved = torch.load(path, map_location=device, weights_only=True)
    model = DemoNetwork(Shape(**saved["shape"]), dtype)
    model.load_state_dict(saved["model"])
    return model.to(device).eval()


def average_gradients(model: DemoNetwork) -> None:
    """Average the gradients over all processes."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


class Trainer:
    """Network, optimisers and counters; `run` trains until the time limit.

    Under torchrun, every process trains on its own data and gradients are averaged. On a busy CPU,
    two processes of one thread are much faster than one process of two.
    """

    def __init__(
        self,
        shape: Shape,
        plan: Plan,
        folder: Path,
        device: str,
        start: DemoNetwork | None = None,
    ) -> None:
        """A new training of `shape`, or one that goes on from the weights of `start`."""
        torch.manual_seed(plan.seed)
        self.plan, self.folder, self.device = plan, folder, device
        # On a CPU, products in bfloat16 take several times as long.
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        if start is not None:
            start = start.with_embed_scale(shape.embed_scale)
        self.model = DemoNetwork(start.shape if start else shape, dtype).to(device)
        if start is not None:
            self.model.load_state_dict(start.state_dict())
        self.optimisers = optimisers(self.model, plan)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.rank, self.ranks = 0, 1
        if dist.is_initialized():
            self.rank, self.ranks = dist.get_rank(), dist.get_world_size()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "latest.pt"

    def save(self) -> None:
        if self.rank:
            return
        state: dict[str, Any] = {
            "shape": asdict(self.model.shape), "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "step": self.step, "tokens": self.tokens, "seconds": self.seconds,
        }  # fmt: skip
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def resume(self) -> None:
        saved = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(saved["model"])
        for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.step, self.tokens, self.seconds = saved["step"], saved["tokens"], saved["seconds"]

    def source(self) -> BatchSource:
        """Data of every phase, and the long texts; a resumed run gets new data."""
        seed = self.plan.seed * 1_000_000 + self.step * 16 + self.rank
        recipes = [(mix, self.plan.tokens, length) for _, length, mix in PHASES]
        return BatchSource(
            self.folder, seed, [*recipes, (LONG, self.plan.tokens, -4096)], self.plan.workers
        )

    def run(self) -> None:
        plan, source = self.plan, self.source()
        kinds: deque[tuple[int, bool]] = deque()  # phase and is_long of the requested batches
        rates = [o.param_groups[0]["initial_lr"] for o in self.with_initial_rates()]
        started, before, saved_at = time.monotonic(), self.seconds, time.monotonic()
        sums: dict[str, float] = {}
        while True:
            self.seconds = before + time.monotonic() - started
            progress = self.seconds / (plan.minutes * 60)
            over = progress >= 1 or self.seconds - before >= plan.call_minutes * 60
            if self.ranks > 1:  # the first process decides, so that all stop together
                clock = torch.tensor([progress, float(over)], dtype=torch.float64)
                dist.broadcast(clock, 0)
                progress, over = clock[0].item(), bool(clock[1])
            if over:
                break
            while len(kinds) < source.ahead:
                phase = next(i for i, (until, _, _) in enumerate(PHASES) if progress < until)
                due = self.step + len(kinds)
                is_long = (phase == 2 and due % 8 == 0) or (phase == 1 and due % 16 == 0)
                kinds.append((phase, is_long))
                source.request(len(PHASES) if is_long else phase)
            phase, is_long = kinds.popleft()
            batch = source.take().to(self.device)
            loss, parts = losses(self.model, batch, self.step % MTP_EVERY == 0)
            loss.backward()
            if self.ranks > 1:
                average_gradients(self.model)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            scale = rate(plan, progress, self.step)
            for optimiser, lr in zip(self.optimisers, rates, strict=True):
                optimiser.param_groups[0]["lr"] = lr * scale
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            self.step += 1
            self.tokens += batch.ids.numel() * self.ranks
            for key, value in parts.items():
                key = f"long_{key}" if is_long else key
                sums[key] = sums.get(key, 0) + value
                sums[f"n_{key}"] = sums.get(f"n_{key}", 0) + 1
            if self.step % 25 == 0 and not self.rank:
                means = {k: round(v / sums[f"n_{k}"], 4) for k, v in sums.items() if k[:2] != "n_"}
                line = {
                    "step": self.step, "tokens": self.tokens, "minutes": self.seconds / 60,
                    "phase": phase, "scale": round(scale, 3), **means,
                }  # fmt: skip
                print(json.dumps(line), flush=True)
                sums = {}
            if time.monotonic() - saved_at > plan.save_minutes * 60:
                self.save()
                saved_at = time.monotonic()
        self.save()

    def with_initial_rates(self) -> list[torch.optim.Optimizer]:
        for optimiser, lr in zip(
            self.optimisers, (self.plan.muon_lr, self.plan.adam_lr), strict=True
        ):
            optimiser.param_groups[0]["initial_lr"] = lr
        return self.optimisers
