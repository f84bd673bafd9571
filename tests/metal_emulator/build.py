"""Compiles translated kernels with the clang of the `ziglang` package, cached by content."""

import hashlib
import importlib.util
import os
import platform
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
    *("-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "-O1"),
    # Only half: no double, and no generic address space, so that a pointer without one is wrong.
    *("-Xclang", "-cl-ext=-all,+cl_khr_fp16"),
    # Each operation rounds to its type.
    *("-Xclang", "-ffloat16-excess-precision=none", "-Xclang", "-fbfloat16-excess-precision=none"),
    # Every access calls the runtime. Wider ones than 16 bytes would not: no automatic vectors.
    "-fsanitize=thread,array-bounds,integer-divide-by-zero",
    *("-fno-vectorize", "-fno-slp-vectorize"),
    *("-mllvm", "-tsan-instrument-read-before-write"),
    *("-mllvm", "-tsan-instrument-func-entry-exit=0"),
    # Fibers have small stacks. Metal's own attributes are unknown to clang.
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
    """The shared library of a kernel, runtime included; from the cache if it is there.

    Args:
        contract: whether a product and a sum may become one FMA, across statements too.

    Raises:
        CompileError: with clang's words; its lines count within MLX's text.
    """
    contraction = f"-ffp-contract={'fast' if contract else 'off'}"
    objects = [_object(translated, (*KERNEL_FLAGS, contraction))]
    objects += [_object((HERE / name).read_text(), RUNTIME_FLAGS) for name in RUNTIME]
    names = "".join(path.name for path in objects)
    return _cached(".so", names, lambda out: _zig("ld.lld", "-shared", "-o", out, *objects))


def _object(source: str, flags: tuple[str, ...]) -> Path:
    flags = (*flags, *COMMON)
    headers = "".join((HERE / name).read_text() for name in HEADERS)
    key = "\0".join([source, headers, *flags, version("ziglang")])
    return _cached(".o", key, lambda out: _zig("clang", *flags, "-c", "-", "-o", out, text=source))


def _cached(suffix: str, key: str, make: Callable[[Path], None]) -> Path:
    """The file made from `key`. A rename puts it there whole, whoever else makes it meanwhile."""
    place = os.environ.get("QWEN35_EMULATOR_CACHE")
    folder = Path(place) if place else platformdirs.user_cache_path("qwen35-mlx") / "metal-emulator"
    path = folder / (hashlib.sha256(key.encode()).hexdigest()[:32] + suffix)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / path.name
            make(made)
            made.replace(path)
    return path


def _zig(*command: str | Path, text: str = "") -> None:
    spec = importlib.util.find_spec("ziglang")
    assert spec
    assert spec.origin
    zig = Path(spec.origin).parent / "zig"
    done = subprocess.run([zig, *command], input=text, capture_output=True, text=True)
    if done.returncode:
        raise CompileError(done.stderr.strip())
