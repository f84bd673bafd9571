"""Where batches come from: made in this process, or ahead of time by others."""

import multiprocessing
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.demo_training.dialogues import Mix
from scripts.demo_training.packing import Batch, packed, single
from scripts.demo_training.text import Text

# (mix, tokens of a batch, length of a row; rows hold one document each if it is negative)
Recipe = tuple[Mix, int, int]


def streams(text: Text, seed: int, recipes: list[Recipe]) -> list[Iterator[Batch]]:
    """One endless stream a recipe."""
    return [
        packed(text, seed, mix, tokens, length)
        if length > 0
        else single(text, seed, mix, max(1, tokens // -length), -length)
        for mix, tokens, length in recipes
    ]


def work(folder: Path, seed: int, recipes: list[Recipe], asked: Any, made: Any) -> None:
    """Make what is asked for, until None is."""
    torch.set_num_threads(1)
    sources = streams(Text.load(folder), seed, recipes)
    while (index := asked.get()) is not None:
        batch = next(sources[index])
        segments = None if batch.segments is None else batch.segments.numpy().astype(np.int16)
        made.put((batch.ids.numpy().astype(np.int16), batch.learn.numpy(), segments))


class Source:
    """Batches in the order in which they were asked for, whatever makes them.

    Args:
        folder: of the run, with its tokenizer.
        workers: processes that work ahead, each on data of its own; 0 for none.
    """

    def __init__(self, folder: Path, seed: int, recipes: list[Recipe], workers: int) -> None:
        self.workers, self.asked, self.taken = workers, 0, 0
        if not workers:
            self.waiting: deque[int] = deque()
            self.streams = streams(Text.load(folder), seed, recipes)
            return
        context = multiprocessing.get_context("spawn")
        self.queues = [(context.Queue(), context.Queue()) for _ in range(workers)]
        for n, pair in enumerate(self.queues):
            arguments = (folder, seed + 1000 * n, recipes, *pair)
            context.Process(target=work, args=arguments, daemon=True).start()

    @property
    def ahead(self) -> int:
        """How many batches to ask for before the first is taken."""
        return max(1, 3 * self.workers)

    def ask(self, index: int) -> None:
        """Order a batch of this recipe."""
        if self.workers:
            self.queues[self.asked % self.workers][0].put(index)
        else:
            self.waiting.append(index)
        self.asked += 1

    def take(self) -> Batch:
        """The oldest batch that was ordered."""
        if not self.workers:
            return next(self.streams[self.waiting.popleft()])
        ids, learn, segments = self.queues[self.taken % self.workers][1].get()
        self.taken += 1
        return Batch(
            torch.from_numpy(ids).long(),
            torch.from_numpy(learn),
            None if segments is None else torch.from_numpy(segments).long(),
        )
