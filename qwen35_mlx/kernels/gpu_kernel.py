"""One kernel body for two GPU languages.

A body is the inside of a function in a plain subset of the Metal Shading Language, in a `.metal`
file named after the module that launches it. Metal compiles it as it is; for CUDA a header defines
Metal's names (threadgroup memory is shared memory, a SIMD group is a warp). Files `include_*.metal`
are no kernels: bodies `#include` them.

The subset:

- Load through `static_cast<float>`.
- Scalars are constants (`float_bits`) or taken from the shapes of inputs. An array of one element
  would make every thread wait for it, longest on CUDA, where it stays in host memory.
- Bind small inputs with `auto`: Metal passes those of fewer than 8 elements in another address
  space.
- Threadgroups are one-dimensional and made of whole SIMD groups.
- Of SIMD operations, `simd_sum`, `simd_max`, `simd_shuffle_xor`, `simd_broadcast` and barriers.
- `as_type` makes floats of 32-bit words and halves of 16-bit ones. `fma` is of floats.
- Register arrays are indexed by constants only, after unrolling.
- Wide loads are `float4`, `uint2`, `uint4` or `vec<T, 4>` through a cast pointer, with members by
  name.
"""

import os
import re
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, cast

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error

# Threads of a SIMD group.
SIMD_WIDTH = 32
# An environment variable; "reference" disables all kernels.
KERNELS_ENV = "QWEN35_KERNELS"
# An environment variable of MLX; "0" disables TF32 in float32 matrix products.
TF32_ENV = "MLX_ENABLE_TF32"

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
#define fma __fmaf_rn
template <typename T, int N> struct vec;
template <typename T> struct alignas(4 * sizeof(T)) vec<T, 4> { T x, y, z, w; };
template <typename T> __device__ inline T as_type(unsigned x);
template <> __device__ inline float as_type<float>(unsigned x) { return __uint_as_float(x); }
template <> __device__ inline half as_type<half>(unsigned x) { return __ushort_as_half(x); }
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
    """The bits of a float32, for a kernel's constant, which must be an integer.

    The body gets the float back with `as_type<float>`.
    """
    return int.from_bytes(struct.pack("<f", x), "little", signed=True)


class KernelError(Qwen35Error):
    """A kernel does not compile for this GPU, or exceeds its limits."""


# What `mx.fast.metal_kernel` and `mx.fast.cuda_kernel` return.
Launcher = Callable[..., list[mx.array]]


@dataclass(frozen=True, slots=True)
class Launch:
    """Geometry, outputs and constants of one launch.

    Attributes:
        threadgroups: number along x.
        threads: per threadgroup, a multiple of `SIMD_WIDTH`.
        outputs: shape and dtype of each output.
        constants: dtypes and integers that the body is compiled with.
    """

    threadgroups: int
    threads: int
    outputs: Sequence[tuple[tuple[int, ...], mx.Dtype]]
    constants: Mapping[str, int | mx.Dtype]


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A kernel body and the names of its arrays; equal to itself alone, which is quick to look up.

    Attributes:
        name: of the `.metal` file in this folder, and of the compiled function.
        strided: the body reads inputs by their strides; else MLX copies inputs that are not
            row-contiguous.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    strided: bool = False

    @property
    def body(self) -> str:
        """The source text, with included files in place."""
        return _read(f"{self.name}.metal")

    @property
    def text(self) -> str:
        """The body as MLX compiles it. MLX hashes all of it at each launch, so it is short."""
        return strip_comments(self.body)

    def __call__(self, inputs: Sequence[mx.array], launch: Launch) -> list[mx.array]:
        """Run on the GPU.

        MLX compiles a kernel when its outputs are evaluated, which may be long after this call, and
        what depends on them is then lost. So the first launch of each variant is evaluated here,
        unless it is recorded by `mx.compile` or called within `unevaluated`.

        Raises:
            KernelError: the kernel does not compile for this GPU or exceeds its limits.
        """
        variant = (*launch.constants.values(), launch.threads, *[x.dtype for x in inputs])
        evaluated = _evaluated_variants(self)
        is_new = variant not in evaluated and _evaluate(inputs)
        try:
            outputs = make_launcher(self)(
                inputs=list(inputs),
                template=list(launch.constants.items()),
                grid=(launch.threadgroups * launch.threads, 1, 1),
                threadgroup=(launch.threads, 1, 1),
                output_shapes=[shape for shape, _ in launch.outputs],
                output_dtypes=[dtype for _, dtype in launch.outputs],
            )
            if is_new:
                mx.eval(outputs)
                evaluated.add(variant)
            return outputs
        except (RuntimeError, ValueError) as error:
            if _NO_MEMORY.search(str(error)):
                raise  # its reference would need more
            shapes = ", ".join(
                f"{name} {list(x.shape)} {x.dtype}"
                for name, x in zip(self.inputs, inputs, strict=True)
            )
            reason, _, _ = str(error).partition("\n")
            raise KernelError(
                f"kernel '{self.name}' failed on {shapes} ({reason}): "
                f"set {KERNELS_ENV}=reference to go on without kernels, and report it"
            ) from error


@cache
def _evaluated_variants(kernel: Kernel) -> set[tuple[object, ...]]:
    """The variants of a kernel that have run in this process."""
    return set()


class _OfThread(threading.local):
    evaluates = True


_of_thread = _OfThread()


@contextmanager
def unevaluated() -> Iterator[None]:
    """Kernels that this thread calls evaluate nothing, as it has no stream to do so."""
    _of_thread.evaluates = False
    try:
        yield
    finally:
        _of_thread.evaluates = True


def _evaluate(inputs: Sequence[mx.array]) -> bool:
    """Evaluate arrays, before a kernel reads them; False where none can be evaluated."""
    if not _of_thread.evaluates:
        return False
    try:
        mx.eval(inputs)
    except ValueError:
        return False
    return True


# What MLX says where it cannot allocate an array.
_NO_MEMORY = re.compile(r"malloc|able to allocate|ing to allocate|out of memory", re.IGNORECASE)

_INCLUDE = re.compile(r'^#include "(.+)"\n', re.MULTILINE)


def _read(file: str) -> str:
    text = resources.files("qwen35_mlx.kernels").joinpath(file).read_text("utf-8")
    return _INCLUDE.sub(lambda match: _read(match[1]), text)


def strip_comments(body: str) -> str:
    """A body without comments, indentation and empty lines."""
    return re.sub(r"^\s+", "", re.sub(r"//.*", "", body), flags=re.MULTILINE)


def kernels_disabled() -> bool:
    """Whether the environment disables all kernels."""
    return os.environ.get(KERNELS_ENV) == "reference"


def disable_tf32() -> None:
    """Make MLX compute float32 matrix products in float32, unless the environment says otherwise.

    By default MLX uses TF32 on GPUs that have it, which rounds factors to 10 bits: the state of the
    delta rule is then wrong in the fourth digit. Call it before the first matrix product, when MLX
    reads the variable.
    """
    os.environ.setdefault(TF32_ENV, "0")


def on_gpu() -> bool:
    """Whether MLX computes on a GPU."""
    return mx.default_device() != mx.cpu


def backend() -> str | None:
    """The language kernels are compiled to, "metal" or "cuda"; None if only references run."""
    if kernels_disabled() or not on_gpu():
        return None
    if mx.metal.is_available():
        return "metal"
    return "cuda" if mx.cuda.is_available() else None


@cache
def make_launcher(kernel: Kernel) -> Launcher:
    """MLX's launcher of the kernel, which compiles it at the first launch with given constants."""
    options: dict[str, Any] = {
        "name": f"qwen35_{kernel.name}",
        "input_names": list(kernel.inputs),
        "output_names": list(kernel.outputs),
        "source": kernel.text,
        "ensure_row_contiguous": not kernel.strided,
    }
    if backend() == "metal":
        return cast(Launcher, mx.fast.metal_kernel(**options))
    return cast(Launcher, mx.fast.cuda_kernel(**options, header=CUDA_HEADER))
