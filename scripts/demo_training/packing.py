"""Batches from conversations: rows of equal length, each with several documents."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from scripts.demo_training.dialogues import Mix, generate
from scripts.demo_training.text import ChatFormat, Sample


@dataclass(frozen=True, slots=True)
class Batch:
    """ids, learn and segments [B, T]; segments is None if each row is one document."""

    ids: torch.Tensor
    learn: torch.Tensor
    segments: torch.Tensor | None

    def to(self, device: str) -> "Batch":
        segments = None if self.segments is None else self.segments.to(device)
        return Batch(self.ids.to(device), self.learn.to(device), segments)


def fill(samples: list[Sample], rows: int, length: int) -> tuple[Batch, list[Sample]]:
    """Pack samples first fit, longest first; returns the batch and the samples left over."""
    ids = torch.zeros(rows, length, dtype=torch.long)
    learn = torch.zeros(rows, length, dtype=torch.bool)
    segments = torch.zeros(rows, length, dtype=torch.long)
    used, count, left = [0] * rows, [0] * rows, []
    for sample in sorted(samples, key=lambda s: -len(s.ids)):
        size = len(sample.ids)
        for row in range(rows):
            if used[row] + size <= length:
                at = slice(used[row], used[row] + size)
                ids[row, at] = torch.tensor(sample.ids)
                learn[row, at] = torch.tensor(sample.learn)
                count[row] += 1
                segments[row, at] = count[row]
                used[row] += size
                break
        else:
            left.append(sample)
    return Batch(ids, learn, segments), left


def packed(text: ChatFormat, seed: int, mix: Mix, tokens: int, length: int) -> Iterator[Batch]:
    """Endless batches of `tokens` tokens in rows of `length`; skips longer documents."""
    samples: list[Sample] = []
    stream = generate(seed, mix)
    while True:
        waiting = sum(len(s.ids) for s in samples)
        while waiting < tokens * 1.3:
            sample = text.sample(next(stream))
            if len(sample.ids) <= length:
                samples.append(sample)
                waiting += len(sample.ids)
        batch, samples = fill(samples, tokens // length, length)
        yield batch


def single(text: ChatFormat, seed: int, mix: Mix, rows: int, length: int) -> Iterator[Batch]:
    """Endless batches of one document per row, padded at the end."""
    stream = generate(seed, mix)
    while True:
        samples: list[Sample] = []
        while len(samples) < rows:
            sample = text.sample(next(stream))
            if len(sample.ids) <= length:
                samples.append(sample)
        size = max(len(s.ids) for s in samples)
        size += -size % 64
        ids = torch.zeros(rows, size, dtype=torch.long)
        learn = torch.zeros(rows, size, dtype=torch.bool)
        for row, sample in enumerate(samples):
            ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
            learn[row, : len(sample.ids)] = torch.tensor(sample.learn)
        yield Batch(ids, learn, None)
