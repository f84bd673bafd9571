"""Whether a GPU can launch each kernel: `python -m scripts.kernel_registers`, with nvcc, no GPU.

The threads of a threadgroup share the registers of one core, and how many a thread takes is up to
the compiler. A kernel that takes too many fails at its launch, on that card alone. This compiles
all that networks of published sizes launch, for one to eight tokens, a chunk of a prompt and the
replay after rejected drafts, as CUDA for one architecture, and compares. Prints the largest
variant of each kernel and all that do not fit, and ends in one JSON line.
"""

import argparse
import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlx.core as mx

from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.kernels.gpu_kernel import CUDA_HEADER, SIMD_WIDTH, Kernel, Launch
from qwen35_mlx.kernels.matvec import VARIANTS
from qwen35_mlx.model.cache import Cache, DeltaState
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.delta_net import GatedDeltaNet
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.weights import Weights
from scripts.support import report
from scripts.support.random_weights import SHAPES, RandomSource, select_gpu_variants

LAYERS = 4  # three of the delta rule, one of attention
CHUNK = 128  # of a prompt; from 256 on the network evaluates its layers
CONTEXT = 300  # tokens
# Of one core of the GPUs with compute capability 8 and 9: it has four parts, which its warps are
# dealt out to. A warp gets its registers in steps of 8 a thread.
PARTS, PART_REGISTERS, STEP = 4, 16_384, 8
CUDA_NAMES = {
    mx.bfloat16: "__nv_bfloat16",
    mx.float16: "__half",
    mx.float32: "float",
    mx.uint32: "uint32_t",
    mx.int32: "int32_t",
    mx.uint8: "uint8_t",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """What is compiled.

    Attributes:
        inputs, outputs: their types.
        constants: names and values, types in CUDA's names.
    """

    kernel: Kernel
    threads: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[tuple[str, int | str], ...]

    @classmethod
    def of(cls, kernel: Kernel, inputs: Iterable[mx.array], launch: Launch) -> "Variant":
        constants = [
            (name, int(value) if isinstance(value, int) else CUDA_NAMES[value])
            for name, value in launch.constants.items()
        ]
        types = tuple(CUDA_NAMES[x.dtype] for x in inputs)
        outputs = tuple(CUDA_NAMES[dtype] for _, dtype in launch.outputs)
        return cls(kernel, launch.threads, types, outputs, tuple(constants))

    @property
    def source(self) -> str:
        """As MLX compiles it, up to how it passes shapes and strides."""
        body = re.sub(r"\bdevice\b", "", self.kernel.text)
        parameters: list[str] = []
        for name, kind in zip(self.kernel.inputs, self.inputs, strict=True):
            parameters.append(f"const {kind}* {name}")
            for part, of in (("shape", "int32_t"), ("strides", "int64_t")):
                if f"{name}_{part}" in body:
                    parameters.append(f"const {of}* {name}_{part}")
        pairs = zip(self.kernel.outputs, self.outputs, strict=True)
        parameters += [f"{kind}* {name}" for name, kind in pairs]
        lines = ["#include <cuda_bf16.h>", "#include <cuda_fp16.h>", "#include <stdint.h>"]
        lines.append(CUDA_HEADER.replace("#define device\n", ""))
        for name, value in self.constants:
            constant = f"constexpr int {name} = {value};"
            lines.append(constant if isinstance(value, int) else f"using {name} = {value};")
        lines.append(f'extern "C" __global__ void kernel({", ".join(parameters)}) {{\n{body}\n}}')
        return "\n".join(lines)


def fits(threads: int, registers: int) -> bool:
    """Whether a core has the registers for one threadgroup."""
    warps = -(-threads // SIMD_WIDTH)
    granted = -(-registers // STEP) * STEP
    return -(-warps // PARTS) * granted * SIMD_WIDTH <= PART_REGISTERS


def registers(variant: Variant, architecture: str, folder: Path) -> int:
    """Of a thread.

    Raises:
        RuntimeError: nvcc refuses the kernel.
    """
    file = Path(tempfile.mkstemp(suffix=".cu", dir=folder)[1])
    file.write_text(variant.source)
    command = ["nvcc", f"-arch={architecture}", "-std=c++17", "-cubin", "-Xptxas", "-v", "-w"]
    done = subprocess.run(
        [*command, "-o", str(file.with_suffix(".cubin")), str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Used (\d+) registers", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"nvcc refuses {variant.kernel.name}: {done.stderr[-2000:]}")
    return int(found[1])


def variants(shape: str, bits: int, tokens: Sequence[int]) -> set[Variant]:
    """All that a network of this shape launches. Nothing is computed."""
    found: set[Variant] = set()

    def note(kernel: Kernel, inputs: Sequence[mx.array], launch: Launch) -> list[mx.array]:
        found.add(Variant.of(kernel, inputs, launch))
        return [mx.zeros(shape, dtype) for shape, dtype in launch.outputs]

    settings = copy.deepcopy(SHAPES[shape])
    settings["text_config"]["num_hidden_layers"] = LAYERS
    with (
        patch.object(Kernel, "__call__", note),
        patch.object(gpu_kernel, "backend", lambda: "cuda"),
        patch.object(RandomSource, "_packed_words", lambda self, shape: mx.zeros(shape, mx.uint32)),
    ):
        source = RandomSource(ModelConfig.from_dict(settings), bits, mtp=True)
        weights = Weights(source.config, source)
        select_gpu_variants(weights.selection, source.packings)
        network = Network(source.config, weights, mtp=True)
        for kv_bits in (None, 8):
            for variant in VARIANTS:
                for packing in source.packings:
                    weights.selection.select("matmul_decode", variant, packing)
                for count in tokens:
                    run(network, filled(network, kv_bits), count)
        run(network, filled(network, None), CHUNK)
    return found


def filled(network: Network, kv_bits: int | None) -> Cache:
    """A cache as after a prompt."""
    cache, config = network.make_cache(kv_bits), network.config
    for layer, entry in zip(network.layers, cache.layers, strict=True):
        if isinstance(entry, KVCache):
            shape = (1, config.num_key_value_heads, CONTEXT, config.head_dim)
            entry.update(mx.zeros(shape, network.dtype), mx.zeros(shape, network.dtype))
        else:
            assert isinstance(layer.mixer, GatedDeltaNet)
            entry.conv, entry.recurrent = layer.mixer.parameters.empty(1, network.dtype)
    cache.offset = CONTEXT
    return cache


def run(network: Network, cache: Cache, tokens: int) -> None:
    """A pass, then replays of all that may stay of it, and a draft."""
    ids = mx.zeros((1, tokens), mx.int32)
    hidden = network(ids, cache, revocable=1 < tokens < CHUNK)
    network.logits(hidden[:, -8:])
    if 1 < tokens < CHUNK:
        for count in range(1, tokens):
            for layer, entry in zip(network.layers, cache.layers, strict=True):
                if isinstance(entry, DeltaState):
                    last = entry.last_pass
                    layer.take_back(count, entry)
                    entry.last_pass = last
    if network.mtp is not None and cache.head is not None:
        network.mtp(hidden, network.embed(ids), cache.head.kv)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shapes", choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--bits", type=int, nargs="+", default=[4], choices=(2, 3, 4, 5, 6, 8))
    parser.add_argument("--tokens", type=int, nargs="+", default=list(range(1, 9)))
    parser.add_argument("--kernels", nargs="+", help="names; default: all")
    parser.add_argument("--architecture", default="sm_90", help="for nvcc")
    args = parser.parse_args()
    if shutil.which("nvcc") is None:
        parser.error("nvcc is not on the PATH: it comes with the CUDA toolkit")
    found: dict[Variant, str] = {}
    for bits in args.bits:
        for shape in args.shapes:
            for variant in variants(shape, bits, args.tokens):
                if not args.kernels or variant.kernel.name in args.kernels:
                    found.setdefault(variant, f"{shape}, {bits} bits")
    print(f"{len(found)} variants", flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = partial(registers, architecture=args.architecture, folder=Path(folder))
        rows: list[dict[str, Any]] = []
        for variant, count in zip(found, pool.map(compiled, found), strict=True):
            names = {"TOKENS", "T", "IN", "OUT", "BITS", "NORM", "GLU", "SETS", "OUTPUTS"}
            rows.append(
                {
                    "kernel": variant.kernel.name,
                    "threads": variant.threads,
                    "registers": count,
                    "fits": fits(variant.threads, count),
                    "first in": found[variant],
                    "with": " ".join(f"{k}={v}" for k, v in variant.constants if k in names),
                }
            )
    rows.sort(key=lambda row: (row["fits"], -row["threads"] * row["registers"]))
    names = list(dict.fromkeys(row["kernel"] for row in rows))
    largest = [next(r for r in rows if r["kernel"] == name and r["fits"]) for name in names]
    misfits = [row for row in rows if not row["fits"]]
    report.print_table([*misfits, *largest])
    report.print_json("kernel_registers", misfits, compiled=len(rows), largest=largest)
    return 1 if misfits else 0


if __name__ == "__main__":
    sys.exit(main())
