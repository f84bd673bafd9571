"""The source of batches: generated in this process, or ahead of time in others."""

import multiprocessing
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.demo_training.dialogues import Mix
from scripts.demo_training.packing import Batch, packed, single
from scripts.demo_training.text import ChatFormat

# (mix, tokens per batch, row length; a negative length means one document per row)
Recipe = tuple[Mix, int, int]


def streams(text: ChatFormat, seed: int, recipes: list[Recipe]) -> list[Iterator[Batch]]:
    """One endless stream per recipe."""
    return [
        packed(text, seed, mix, tokens, length)
        if length > 0
        else single(text, seed, mix, max(1, tokens // -length), -length)
        for mix, tokens, length in recipes
    ]


def work(folder: Path, seed: int, recipes: list[Recipe], requests: Any, batches: Any) -> None:
    """Worker process: put a batch for each recipe index in the queue, until None."""
    torch.set_num_threads(1)
    batch_streams = streams(ChatFormat.load(folder), seed, recipes)
    while (index := requests.get()) is not None:
        batch = next(batch_streams[index])
        segments = None if batch.segments is None else batch.segments.numpy().astype(np.int16)
        batches.put((batch.ids.numpy().astype(np.int16), batch.learn.numpy(), segments))


class BatchSource:
    """Batches in the order in which they are requested.

    Args:
        folder: the folder of the run, with its tokenizer.
        workers: processes that work ahead, each with its own seed; 0 generates batches here.
    """

    def __init__(self, folder: Path, seed: int, recipes: list[Recipe], workers: int) -> None:
        self.workers, self.requested, self.taken = workers, 0, 0
        if not workers:
            self.waiting: deque[int] = deque()
            self.streams = streams(ChatFormat.load(folder), seed, recipes)
            return
        context = multiprocessing.get_context("spawn")
        self.queues = [(context.Queue(), context.Queue()) for _ in range(workers)]
        for n, pair in enumerate(self.queues):
            arguments = (folder, seed + 1000 * n, recipes, *pair)
            context.Process(target=work, args=arguments, daemon=True).start()

    @property
    def ahead(self) -> int:
        """Batches to request before the first is taken."""
        return max(1, 3 * self.workers)

    def request(self, index: int) -> None:
        """Request a batch of the recipe with this index."""
        if self.workers:
            self.queues[self.requested % self.workers][0].put(index)
        else:
            self.waiting.append(index)
        self.requested += 1

    def take(self) -> Batch:
        """The batch of the oldest open request."""
        if not self.workers:
            return next(self.streams[self.waiting.popleft()])
        ids, learn, segments = self.queues[self.taken % self.workers][1].get()
        self.taken += 1
        return Batch(
            torch.from_numpy(ids).long(),
            torch.from_numpy(learn),
            None if segments is None else torch.from_numpy(segments).long(),
        )
