"""Compiles translated kernels with the clang of the `ziglang` package; results are cached."""

import hashlib
import importlib.util
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import platformdirs

from tests.metal_emulator.errors import CompileError

HERE = Path(__file__).parent
HEADERS = ("shim.h", "shared.h", "runtime.h")
RUNTIME = ("memory.c", "schedule.c")

COMMON = ("-fPIC", f"-I{HERE}", "-mfma", "-mf16c", "-Werror")
RUNTIME_FLAGS = ("-x", "c", "-std=gnu17", "-O2", "-ffreestanding", "-fvisibility=hidden")
KERNEL_FLAGS = (
    *("-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "-O1", "-gline-tables-only"),
    # Half as the only extension: no double, and no generic address space, so that a pointer without
    # an address space is an error.
    *("-Xclang", "-cl-ext=-all,+cl_khr_fp16"),
    # Each operation is rounded to its type.
    *("-Xclang", "-ffloat16-excess-precision=none", "-Xclang", "-fbfloat16-excess-precision=none"),
    # Every access calls the runtime, up to 16 bytes wide: hence no automatic vectors.
    "-fsanitize=thread,array-bounds,integer-divide-by-zero",
    *("-fno-vectorize", "-fno-slp-vectorize"),
    *("-mllvm", "-tsan-instrument-read-before-write"),
    *("-mllvm", "-tsan-instrument-func-entry-exit=0"),
    # Fibers have small stacks. Clang does not know Metal's attributes.
    "-Wframe-larger-than=16384",
    *("-Wuninitialized", "-Wsometimes-uninitialized", "-Wno-unknown-attributes"),
)


def unsupported() -> str | None:
    """Why the emulator cannot run here, or None."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the Metal emulator runs on x86-64 Linux only"
    if not {"fma", "f16c"} <= set(Path("/proc/cpuinfo").read_text().split()):
        return "the Metal emulator needs a processor with FMA and F16C"
    if importlib.util.find_spec("ziglang") is None:
        return "the Metal emulator needs the package ziglang (extra `dev`)"
    return None


def compile_kernel(translated: str, contract: bool) -> Path:
    """The shared library of a kernel with the runtime, from the cache if possible.

    Args:
        contract: whether a product and a sum become one FMA, across statements too.

    Raises:
        CompileError: clang's message, with line numbers of MLX's text.
    """
    contraction = f"-ffp-contract={'fast' if contract else 'off'}"
    objects = [_object(translated, (*KERNEL_FLAGS, contraction))]
    objects += [_object((HERE / name).read_text(), RUNTIME_FLAGS) for name in RUNTIME]
    names = "".join(path.name for path in objects)

    def link(out: Path) -> None:
        _zig("ld.lld", "-shared", "-o", out, *objects)

    return _cached(".so", names, link)


def _object(source: str, flags: tuple[str, ...]) -> Path:
    flags = (*flags, *COMMON)
    headers = "".join((HERE / name).read_text() for name in HEADERS)
    key = "\0".join([source, headers, *flags, version("ziglang")])

    def make(out: Path) -> None:
        assembly = _with_lines(_zig("clang", *flags, "-S", "-", "-o", "-", text=source))
        _zig("clang", "-x", "assembler", "-c", "-", "-o", out, text=assembly)

    return _cached(".o", key, make)


def _with_lines(assembly: str) -> str:
    """Store the kernel's line number before each call of the runtime's checks."""
    lines = []
    number = 0
    for line in assembly.splitlines():
        if location := re.search(r"\.loc\t.*# kernel:(\d+):", line):
            number = int(location[1]) or number
        if "callq\t__tsan_" in line:
            lines.append(f"\tmovl\t${number}, emulator_line(%rip)")
        lines.append(line)
    return "\n".join(lines) + "\n"


def _cached(suffix: str, key: str, make: Callable[[Path], None]) -> Path:
    """The cached file for `key`, made if missing; a rename makes it appear atomically."""
    configured = os.environ.get("QWEN35_EMULATOR_CACHE")
    folder = (
        Path(configured)
        if configured
        else platformdirs.user_cache_path("qwen35-mlx") / "metal-emulator"
    )
    path = folder / (hashlib.sha256(key.encode()).hexdigest()[:32] + suffix)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / path.name
            make(made)
            made.replace(path)
    return path


def _zig(*command: str | Path, text: str = "") -> str:
    spec = importlib.util.find_spec("ziglang")
    assert spec
    assert spec.origin
    zig = Path(spec.origin).parent / "zig"
    result = subprocess.run([zig, *command], input=text, capture_output=True, text=True)
    if result.returncode:
        raise CompileError(result.stderr.strip())
    return result.stdout
