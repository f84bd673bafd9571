"""One kernel body for two GPU languages.

A body is the inside of a function in a plain subset of the Metal Shading Language, kept in a
`.metal` file beside the module that launches it. On Metal it is compiled as it is; for CUDA a
header gives its names their meaning (threadgroup memory is shared memory, a SIMD group is a warp).

The subset: loads through `static_cast<float>`; scalars as constants (`float_bits`) or as shapes of
inputs, since every thread would wait for a scalar's array, longest on CUDA, where it stays in the
host's memory; small inputs bound with `auto`, since Metal passes those of fewer than 8 elements in
another address space; one-dimensional threadgroups of whole SIMD groups; `simd_sum` and the
barriers of the header below; no dynamically indexed arrays in registers. Wide loads: `float4`,
`uint4` or `vec<T, 4>` through a cast pointer, their parts by name. `#include` stands for a piece
that bodies share, a file of this folder.
"""

import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, cast

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error

SIMD = 32
# "reference" in this variable keeps every kernel off.
SWITCH = "QWEN35_KERNELS"
# MLX's own: "0" in this variable computes products of float32 in float32.
TF32 = "MLX_ENABLE_TF32"

CUDA_HEADER = """
#define threadgroup __shared__
#define device
#define threadgroup_barrier(flags) __syncthreads()
#define simdgroup_barrier(flags) __syncwarp()
#define thread_position_in_threadgroup threadIdx
#define threadgroup_position_in_grid blockIdx
#define threadgroups_per_grid gridDim
#define thread_index_in_simdgroup (threadIdx.x & 31u)
#define simdgroup_index_in_threadgroup (threadIdx.x >> 5)
#define ushort unsigned short
template <typename T, int N> struct vec;
template <typename T> struct alignas(4 * sizeof(T)) vec<T, 4> { T x, y, z, w; };
template <typename T> __device__ inline T as_type(unsigned x) { return __uint_as_float(x); }
namespace precise {
__device__ inline float exp(float x) { return ::expf(x); }
__device__ inline float log(float x) { return ::logf(x); }
__device__ inline float rsqrt(float x) { return ::rsqrtf(x); }
__device__ inline float sin(float x) { return ::sinf(x); }
__device__ inline float cos(float x) { return ::cosf(x); }
}
#define simd_shuffle_xor(x, mask) __shfl_xor_sync(0xffffffffu, x, mask)
#define simd_broadcast(x, lane) __shfl_sync(0xffffffffu, x, lane)
__device__ inline float simd_max(float x) {
  for (int step = 16; step > 0; step >>= 1) x = ::fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}
__device__ inline float simd_sum(float x) {
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
"""


def float_bits(x: float) -> int:
    """A float32 as a constant of a kernel, which takes integers only: `as_type<float>` there."""
    return int.from_bytes(struct.pack("<f", x), "little", signed=True)


# What `mx.fast.metal_kernel` and `mx.fast.cuda_kernel` return.
Launcher = Callable[..., list[mx.array]]


@dataclass(frozen=True, slots=True)
class Launch:
    """How one call is laid out.

    Attributes:
        threadgroups: how many, along x.
        threads: in each, a multiple of 32.
        outputs: shape and dtype of each.
        constants: dtypes and integers that the body is compiled for.
    """

    threadgroups: int
    threads: int
    outputs: Sequence[tuple[tuple[int, ...], mx.Dtype]]
    constants: Mapping[str, int | mx.Dtype]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A body and the names of its arrays.

    Attributes:
        name: of the `.metal` file in this folder, and of the compiled function.
        strided: inputs may have gaps, which the body minds; else MLX copies those that do.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    strided: bool = False

    @property
    def body(self) -> str:
        """The text, with the pieces that it shares with others where it includes them."""
        return _INCLUDE.sub(lambda found: _text(found[1]), _text(f"{self.name}.metal"))

    def __call__(self, inputs: Sequence[mx.array], launch: Launch) -> list[mx.array]:
        """Run on the GPU.

        Raises:
            Qwen35Error: the kernel does not compile for, or does not fit, this GPU.
        """
        try:
            return compiled(self)(
                inputs=list(inputs),
                template=list(launch.constants.items()),
                grid=(launch.threadgroups * launch.threads, 1, 1),
                threadgroup=(launch.threads, 1, 1),
                output_shapes=[shape for shape, _ in launch.outputs],
                output_dtypes=[dtype for _, dtype in launch.outputs],
            )
        except (RuntimeError, ValueError) as error:
            shapes = ", ".join(
                f"{name} {list(x.shape)} {x.dtype}"
                for name, x in zip(self.inputs, inputs, strict=True)
            )
            raise Qwen35Error(
                f"kernel '{self.name}' failed on {shapes} ({str(error).splitlines()[0]}): "
                f"set {SWITCH}=reference to go on without kernels, and report it"
            ) from error


_INCLUDE = re.compile(r'^#include "(.+)"\n', re.MULTILINE)


def _text(file: str) -> str:
    return resources.files("qwen35_mlx.kernels").joinpath(file).read_text("utf-8")


def bare(body: str) -> str:
    """A body without comments, indentation and empty lines."""
    return re.sub(r"^\s+", "", re.sub(r"//.*", "", body), flags=re.MULTILINE)


def switched_off() -> bool:
    """Whether the user wants nothing but references."""
    return os.environ.get(SWITCH) == "reference"


def full_float32() -> None:
    """Have MLX compute products of float32 in float32, unless the user has said what it shall do.

    By default it rounds their factors to 10 bits on a GPU whose matrix units want that: a state of
    the delta rule is then wrong in the fourth digit. MLX looks when it first multiplies.
    """
    os.environ.setdefault(TF32, "0")


def backend() -> str | None:
    """The language that kernels are compiled to here; None where the references run."""
    if switched_off() or mx.default_device() == mx.cpu:
        return None
    if mx.metal.is_available():
        return "metal"
    return "cuda" if mx.cuda.is_available() else None


@cache
def compiled(kernel: Kernel) -> Launcher:
    """The kernel for this machine's GPU; MLX compiles it at the first launch of each variant."""
    names: dict[str, Any] = {
        "name": f"qwen35_{kernel.name}",
        "input_names": list(kernel.inputs),
        "output_names": list(kernel.outputs),
        "source": kernel.body,
        "ensure_row_contiguous": not kernel.strided,
    }
    if backend() == "metal":
        return cast(Launcher, mx.fast.metal_kernel(**names))
    # At each launch MLX's CUDA backend hashes the whole text.
    names["source"] = bare(names["source"])
    return cast(Launcher, mx.fast.cuda_kernel(**names, header=CUDA_HEADER))
