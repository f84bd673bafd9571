"""Each kind of bug raises its error; the same kernel without the bug passes."""

from dataclasses import dataclass, field

import mlx.core as mx
import pytest

from tests.metal_emulator import (
    MACHINES,
    CompileError,
    DivergenceError,
    LimitError,
    OutOfBoundsError,
    RaceError,
    UndefinedError,
    UnwrittenError,
)
from tests.metal_emulator.cases import needs_emulator, run

pytestmark = needs_emulator


@dataclass(frozen=True, slots=True)
class Bug:
    """With `bad` for the @ in `body` the kernel raises `error`, whose message matches `message`.

    With `good` for the @ it passes.
    """

    name: str
    body: str
    good: str
    bad: str
    error: type[Exception] | tuple[type[Exception], ...]
    message: str
    options: dict = field(default_factory=dict)


PREAMBLE = "uint i = thread_position_in_grid.x; uint lane = thread_index_in_simdgroup;\n"
SHARED = """
threadgroup float s[64];
s[i] = x[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
y[i] = s[63 - i];
"""
LANES = """
threadgroup float s[32];
s[i] = x[i];
simdgroup_barrier(mem_flags::mem_threadgroup);
y[i] = s[i ^ 1];
"""
TINY = {"x": mx.ones(4)}
TWO_GROUPS = {"grid": (64, 1, 1), "outputs": {"y": ((64,), mx.float32)}}
ONE_BIG_GROUP = {**TWO_GROUPS, "threadgroup": (64, 1, 1)}

BUGS = [
    Bug("read", "y[i] = x[@];", "i", "i + 40", OutOfBoundsError,
        r"thread \(\d+, 0, 0\) reads x\[(6[4-9]|7[01])\], out of bounds \(line 7, `y\[i\] = x"),
    Bug("read before the start", "y[i] = x[@];", "i", "int(i) - 3", OutOfBoundsError,
        r"thread \([012], 0, 0\) reads x\[-[123]\]"),
    Bug("read with an index that wrapped", "y[i] = x[@];", "i", "i - 3", OutOfBoundsError,
        r"thread \([012], 0, 0\) reads x\[429496729[345]\]"),
    Bug("read in the constant space", "y[i] = x[@];", "i & 3", "i", OutOfBoundsError,
        r"thread \((\d+), 0, 0\) reads x\[\1\]", {"inputs": TINY}),
    Bug("write", "y[i @] = x[i];", "", "+ 1", OutOfBoundsError,
        r"thread \(31, 0, 0\) writes y\[32\]"),
    Bug("ragged edge", "@ y[i] = x[i];", "if (i < 40)", "", OutOfBoundsError,
        r"thread \((\d+), 0, 0\) writes y\[\1\]",
        {"grid": (64, 1, 1), "outputs": {"y": ((40,), mx.float32)}}),
    Bug("vector beyond the end", "float4 v = *(device const float4*)(x + @); y[i] = v.x;",
        "4 * (i / 4)", "4 * i", OutOfBoundsError, r"reads x\[(64|\d{2,3})\], out of bounds"),
    Bug("misaligned vector", "float4 v = *(device const float4*)(x + @); y[i] = v.x;",
        "4", "2", OutOfBoundsError, r"reads x\[2\] misaligned"),
    Bug("input changed", "y[i] = x[i]; @", "", "((device float*)x)[i] = 0.0f;",
        OutOfBoundsError, r"thread \((\d+), 0, 0\) writes the input x\[\1\]"),
    Bug("threadgroup array", SHARED.replace("63 - i", "@"), "63 - i", "64 - i",
        OutOfBoundsError, r"thread \(0, 0, 0\) uses index 64, outside its array \(line \d+, `y",
        ONE_BIG_GROUP),
    Bug("missing barrier", SHARED.replace("threadgroup_barrier(mem_flags::mem_threadgroup);", "@"),
        "threadgroup_barrier(mem_flags::mem_threadgroup);",
        "threadgroup_barrier(mem_flags::mem_device);", RaceError,
        r"race on threadgroup array s\[\d+\]: thread \(\d+, 0, 0\) reads it \(line 11, `y.*`\) and "
        r"thread \(\d+, 0, 0\) wrote it \(line 9, `s\[i\] = x\[i\];`\)", ONE_BIG_GROUP),
    Bug("barrier of the SIMD group only", SHARED.replace("threadgroup_barrier", "@"),
        "threadgroup_barrier", "simdgroup_barrier", (RaceError, UnwrittenError),
        r"threadgroup array s", ONE_BIG_GROUP),
    Bug("missing barrier before reuse", SHARED + "@ s[i] = 0.0f; y[i] += s[i];",
        "threadgroup_barrier(mem_flags::mem_threadgroup);", "", RaceError,
        r"race on threadgroup array s\[\d+\]", ONE_BIG_GROUP),
    Bug("missing SIMD barrier",
        LANES.replace("simdgroup_barrier(mem_flags::mem_threadgroup);", "@"),
        "simdgroup_barrier(mem_flags::mem_threadgroup);",
        "s[i] += simd_sum(s[i]);  /* is not one */", RaceError, r"race on threadgroup array s"),
    Bug("two threadgroups, one element", "y[@] = x[i];", "i", "i & 31", RaceError,
        r"race on y\[\d+\]: .* writes it \(line 7, .* wrote it \(line 7",
        {**TWO_GROUPS, "init_value": 0.0}),
    Bug("read of another threadgroup's output", "y[i] = x[i]; y[i] += @;", "y[i]", "y[i ^ 32]",
        RaceError, r"race on y\[\d+\]",
        {**TWO_GROUPS, "init_value": 0.0}),
    Bug("barrier in a branch", "@ threadgroup_barrier(mem_flags::mem_none); y[i] = x[i];",
        "", "if (i < 40)", DivergenceError,
        r"waits at threadgroup_barrier \(line \d+, `if .*`\) but thread .* is at the end",
        ONE_BIG_GROUP),
    Bug("two barriers in two branches",
        "if (i @ 40) { threadgroup_barrier(mem_flags::mem_none); }\n"
        "else { threadgroup_barrier(mem_flags::mem_none); }\n y[i] = x[i];",
        "< 100 +", "<", DivergenceError, r"waits at threadgroup_barrier .* is at line",
        ONE_BIG_GROUP),
    Bug("return before a barrier", "@ threadgroup_barrier(mem_flags::mem_none); y[i] = x[i];",
        "", "if (i == 63) return;", DivergenceError, "the end of the kernel", ONE_BIG_GROUP),
    Bug("SIMD operation in a branch", "float v = x[i];\n@ v = simd_sum(v);\n y[i] = simd_max(v);",
        "", "if (lane < 16)", DivergenceError,
        r"waits at simd_sum \(line .*\) but .* `y\[i\] = simd_max"),
    Bug("value of a lane that left", "@\n y[i] = simd_shuffle_xor(x[i], 16);", "",
        "y[i] = 0.0f; if (lane >= 24) return;", DivergenceError,
        r"reads from lane (2[4-9]|3[01])"),
    Bug("threadgroup memory never written",
        "threadgroup float s[32];\n@ s[i] = x[i];\n y[i] = s[i];", "",
        "if (i != 5)", UnwrittenError, r"thread \(5, 0, 0\) reads threadgroup array s\[5\]"),
    Bug("threadgroup memory of the group before",
        "threadgroup float s[32];\n@ s[lane] = x[lane];\n y[i] = s[lane];", "",
        "if (i < 32)", UnwrittenError, "reads threadgroup array s", TWO_GROUPS),
    Bug("output read first", "@ y[i] += x[i];", "y[i] = 0.0f;", "", UnwrittenError,
        r"thread \((\d+), 0, 0\) reads y\[\1\], which was never written"),
    Bug("output forgotten", "@ y[i] = x[i];", "", "if (i != 7)", UnwrittenError,
        r"output element y\[7\] was never written"),
    Bug("constant as device", "@ p = x; y[i] = p[i & 3];", "auto", "device const float*",
        CompileError, "address space|cannot initialize", {"inputs": TINY}),
    Bug("pointer without a space", "@ p = x; y[i] = p[i];", "auto", "const float*",
        CompileError, "cannot initialize"),
    Bug("double literal", "y[i] = x[i] * 0.5@;", "f", "", CompileError, "double"),
    Bug("double variable", "@ v = x[i]; y[i] = v;", "float", "double", CompileError, "double"),
    Bug("name outside the subset", "y[i] = @(x[i]);", "simd_sum", "simd_prefix_inclusive_sum",
        CompileError, "undeclared"),
    Bug("variable without a value", "float v @; if (i < 40) v = x[i]; y[i] = v;", "= 0.0f", "",
        CompileError, "uninitialized"),
    Bug("index of a thread's own array", "float v[4] = {}; v[(i & 3) @] = x[i]; y[i] = v[i & 3];",
        "", "+ 1", OutOfBoundsError, r"uses index 4, outside its array \(line \d+, `float v"),
    Bug("division by zero", "y[i] = x[i / (i @)];", "+ 1", "", UndefinedError, "divides by zero"),
    Bug("too much threadgroup memory",
        "threadgroup float s[8192 @];\n s[i] = x[i]; y[i] = s[i];", "", "+ 1", LimitError, "32768"),
]  # fmt: skip


@pytest.mark.parametrize("machine", MACHINES[:3], ids=["ascending", "descending", "mixed"])
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_raises_its_error_and_the_kernel_without_it_passes(bug, machine):
    options = {"inputs": {"x": mx.arange(64, dtype=mx.float32)}, "machine": machine, **bug.options}
    run(PREAMBLE + bug.body.replace("@", bug.good), **options)
    with pytest.raises(bug.error, match=bug.message):
        run(PREAMBLE + bug.body.replace("@", bug.bad), **options)
