"""The text of a kernel as MLX generates it, and its translation for the shim.

MLX records custom kernels when it exports a function, even without Metal. So this is the same text
that a Mac compiles, with signature and template arguments.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from tests.metal_emulator.errors import EmulatorError


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the kernel: a buffer, whose `space` is not empty, or an attribute."""

    name: str
    type: str
    space: str
    reference: bool


@dataclass(frozen=True, slots=True)
class KernelText:
    """A call that MLX recorded. `grid` and `threadgroup` count threads."""

    name: str
    source: str
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]

    def parameters(self) -> list[Parameter]:
        start = self.source.index(f"[[kernel]] void {self.name}(")
        signature = self.source[start : self.source.index(") {\n", start)]
        found = re.findall(
            r"\n  (?:const )?(?:(device|constant) )?(\S+?)([*&]?) (\w+) \[\[", signature
        )
        return [Parameter(name, kind, space, mark == "&") for space, kind, mark, name in found]

    def translated(self) -> str:
        """The source for clang: the runtime provides threadgroup arrays and calls the entry."""
        source, instance = self.source, self.name
        # Clang accepts no attributes on an explicit instantiation; the entry instantiates as well.
        head, separator, tail = source.partition("\ntemplate [[host_name(")
        if separator:
            source = head + "\n"
            match = re.search(r"decltype\((.*)\) ", tail)
            assert match
            instance = match[1]
        source = re.sub(
            r"\bthreadgroup +([\w:<>, ]*[\w>]) +(\w+) *((?:\[[^\]\n]*\])*);",
            # `Same`, because `float4 (` would be parsed as a constructor.
            r"__local emulator::Same<\1> (&\2)\3 = "
            r'*emulator::threadgroup_array<\1\3, \1>("\2", __LINE__);',
            source,
        )
        arguments = []
        buffers = 0
        for parameter in self.parameters():
            if parameter.space:
                pointer = f"({parameter.space} {parameter.type}*)buffers[{buffers}]"
                arguments.append(f"*{pointer}" if parameter.reference else pointer)
                buffers += 1
            else:
                arguments.append(f"self->{parameter.name}")
        return (
            f'#include "shim.h"\n#line 1 "kernel"\n{source}\n#line 1 "entry"\n'
            'extern "C" void emulator_entry(const ulong* buffers, const Thread* self) {\n'
            f"  {instance}({', '.join(arguments)});\n}}\n"
        )


def record(call: Callable[..., Sequence[mx.array]], inputs: Sequence[mx.array]) -> KernelText:
    """The kernel that `call(*inputs)` would launch.

    Raises:
        EmulatorError: `call` does not launch exactly one custom kernel.
    """
    kernels: list[list] = []

    def on_step(step: dict) -> None:
        if step["type"] == "primitive" and step["name"] == "CustomKernel":
            kernels.append(step["arguments"])

    mx.export_function(on_step, call, *inputs)
    if len(kernels) != 1:
        raise EmulatorError(f"expected one custom kernel in the call, found {len(kernels)}")
    name, source, *sizes = kernels[0][:8]
    return KernelText(name, source, tuple(sizes[:3]), tuple(sizes[3:]))
