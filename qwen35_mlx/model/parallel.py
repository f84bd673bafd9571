"""What the processes of a network exchange. See `model.split` for who has what."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS
from qwen35_mlx.model.config import Shard


@dataclass(frozen=True, slots=True)
class Parallel:
    """The processes that run one network together.

    All of them make the same calls in the same order, and all get the same results to the bit.

    MLX computes a graph in an order of its own, which may differ between processes. So a graph with
    several exchanges must leave no choice: each needs the result of the one before, and `begin`
    keeps it apart from later graphs.

    Attributes:
        group: None for a process by itself, where nothing is exchanged.
        pipeline: as for `Shard`.
    """

    group: mx.distributed.Group | None = None
    pipeline: bool = False

    @property
    def shard(self) -> Shard | None:
        """The part of this process."""
        group = self.group
        return None if group is None else Shard(group.rank(), group.size(), self.pipeline)

    @property
    def of_layer(self) -> "Parallel":
        """The processes that compute one layer together."""
        return ALONE if self.pipeline else self

    @property
    def adds_residual(self) -> bool:
        """Whether this process adds the residual to its partial product: one of them does."""
        return self.group is None or self.group.rank() == 0

    def residual(self, x: mx.array) -> mx.array | None:
        """x, if this process `adds_residual`."""
        return x if self.adds_residual else None

    def sum(self, x: mx.array) -> mx.array:
        """The sum of the x of all processes, [..., width] each."""
        if self.group is None:
            return x
        if x.size > MAX_DECODE_TOKENS * x.shape[-1] or mx.cuda.is_available():
            return mx.distributed.all_sum(x, group=self.group)
        # Over a ring, a gather takes half the steps of a sum, which count for a few rows; and the
        # order of the additions is the same everywhere. With CUDA, launches count, and NCCL gives
        # all processes the same sum.
        first, *others = mx.distributed.all_gather(x[None], group=self.group)
        total = first.astype(mx.float32)
        for part in others:
            total = total + part
        return total.astype(x.dtype)

    def from_first(self, x: mx.array) -> mx.array:
        """The x of the first process. Those of the others give its shape and type alone."""
        if self.group is None:
            return x
        return mx.distributed.all_gather(x[None], group=self.group)[0]

    def before_layers(self, x: mx.array) -> mx.array:
        """The input of this process's layers, from that of the first one."""
        if self.group is None or not self.pipeline or self.group.rank() == 0:
            return x
        return self.begin(mx.distributed.recv_like(x, self.group.rank() - 1, group=self.group))

    def after_layers(self, x: mx.array) -> mx.array:
        """The output of the last layer of all, from that of this process's layers."""
        if self.group is None or not self.pipeline:
            return self.begin(x)
        following = self.group.rank() + 1
        if following < self.group.size():
            self.begin(mx.distributed.send(x, following, group=self.group))
            x = mx.zeros_like(x)
        return self.begin(self.sum(x))

    def begin(self, x: mx.array) -> mx.array:
        """x, which is being computed now: its exchanges come before those of later graphs."""
        if self.group is not None:
            mx.async_eval(x)
        return x

    def side_by_side(self, x: mx.array) -> mx.array:
        """The x of all processes, by rank: [..., width] -> [..., ranks * width]."""
        if self.group is None:
            return x
        parts = mx.distributed.all_gather(x.reshape(1, -1, x.shape[-1]), group=self.group)
        return parts.swapaxes(0, 1).reshape(*x.shape[:-1], -1)

    def exchange(self, text: str) -> list[str]:
        """The texts of all processes, by rank."""
        if self.group is None:
            return [text]
        data = text.encode()
        lengths = np.array(mx.distributed.all_gather(mx.array([len(data)]), group=self.group))
        padded = mx.array(np.frombuffer(data.ljust(max(*lengths, 1)), np.uint8))
        rows = np.array(mx.distributed.all_gather(padded[None], group=self.group))
        return [row[:n].tobytes().decode() for row, n in zip(rows, lengths, strict=True)]


ALONE = Parallel()
