"""Functions of arrays alone that `mx.compile` records, so that Python does not build their graph.

During decode the launches of small kernels dominate, and building a graph in Python takes longer
than replaying a recorded one.
"""

from collections.abc import Callable, Hashable
from typing import Any

import mlx.core as mx

from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, KernelSelection

Function = Callable[..., Any]


class Recordings:
    """The recorded functions of one layer, one for each batch and number of tokens.

    The first run of a function is not recorded, so that a kernel that fails in it can give way to
    its reference: see `Kernel.__call__`. A recording keeps the kernels that it was made with, so a
    fallback begins new ones.
    """

    def __init__(self, selection: KernelSelection):
        self._selection = selection
        self._compiled: dict[tuple[str | int, ...], Function] = {}
        self._fallbacks = 0

    def applies(self, x: mx.array) -> bool:
        """Whether functions of x, [B, T, ...], are recorded: those of a few tokens."""
        return self._selection.compiled and x.shape[1] <= MAX_DECODE_TOKENS

    def get(self, function: Function, x: mx.array) -> Function:
        """A method of the layer, in the form to call where x is among its arguments."""
        if not self.applies(x):
            return function
        if self._fallbacks != self._selection.fallbacks:
            self._compiled.clear()
            self._fallbacks = self._selection.fallbacks
        key = function.__name__, *x.shape[:2]
        compiled = self._compiled.get(key)
        if compiled is None:
            self._compiled[key] = mx.compile(function)
            return function
        return compiled


class PassRecording:
    """A function without weights that layers alike run in a pass: the first one records it.

    For what is different in every pass, such as where new keys and values go.
    """

    def __init__(self, selection: KernelSelection):
        self._selection = selection
        self._run: set[tuple[int, ...]] = set()
        # By constants, the oldest first: a pass over several conversations has some of each.
        self._compiled: dict[Hashable, Function] = {}

    def get(self, function: Function, constants: Hashable, x: mx.array) -> Function:
        """The function, in the form to call.

        Args:
            constants: all that the function depends on besides its arrays.
            x: one of them. The first run with its shape is not recorded, as in `Recordings`.
        """
        if not self._selection.compiled:
            return function
        shape = tuple(x.shape)
        if shape not in self._run:
            self._run.add(shape)
            return function
        compiled = self._compiled.get(constants)
        if compiled is None:
            if len(self._compiled) == MAX_DECODE_TOKENS:
                del self._compiled[next(iter(self._compiled))]
            compiled = self._compiled[constants] = mx.compile(function)
        return compiled
