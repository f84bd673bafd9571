"""Time of the matrices of a layer on the GPU: `python -m scripts.benchmarks.matvec`.

For each matrix and number of tokens: microseconds, the ratio to one token, and bytes of the matrix
per second, beside MLX's own operations. Every matrix is read from memory, not from a cache: as many
copies take turns as make 200 MB.

Launches cost the host more time than a small matrix takes. So they queue up behind a long product,
each waiting for the one before; the time of the same queue without matrices is subtracted
(`scripts.support.device_time`).
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx

from qwen35_mlx.kernels import gpu_kernel, matvec
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight, quantized_matmul
from qwen35_mlx.kernels.row_format import Matrix
from qwen35_mlx.model.config import ModelConfig
from scripts.support import device_time, report
from scripts.support.random_weights import SHAPES, code_mask, scale_code

TOKENS = (1, 2, 3, 4, 8)
SET_BYTES = 200e6

# By the name on the command line; None is bfloat16.
FORMATS = {
    **{str(bits): Quantization(64, bits) for bits in (2, 3, 4, 5, 6, 8)},
    "mxfp4": Quantization(32, 4, "mxfp4"),
    "mxfp8": Quantization(32, 8, "mxfp8"),
    "nvfp4": Quantization(16, 4, "nvfp4"),
    "none": None,
}

# Of a matrix: words, scales and biases, those that its format has.
Arrays = list[mx.array]


def matrices(config: ModelConfig) -> dict[str, tuple[int, int, bool, bool]]:
    """By name: outputs, inputs, whether a norm comes before it, and whether a GLU after it."""
    hidden, values = config.hidden_size, config.linear_num_value_heads
    value_dim = values * config.linear_value_head_dim
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    inner = config.intermediate_size or config.shared_expert_intermediate_size
    return {
        "in_proj": (2 * keys + 2 * value_dim + 2 * values, hidden, True, False),
        "out_proj": (hidden, value_dim, False, False),
        "gate_up": (2 * inner, hidden, True, True),
        "down": (hidden, inner, False, False),
        "head": (config.vocab_size, hidden, False, False),
    }


def draw(out: int, width: int, quantization: Quantization | None) -> list[Arrays]:
    """Copies of a random matrix, enough that a cache holds few of them."""
    if quantization is None:
        one = [(width**-0.5 * mx.random.normal((out, width))).astype(mx.bfloat16)]
    else:
        shapes = quantization.packed((out, width))
        words = mx.random.randint(0, 1 << 16, (*shapes["weight"], 2), mx.uint16).view(mx.uint32)
        one = [words.squeeze(-1) & mx.array(code_mask(quantization), mx.uint32)]
        if quantization.mode == "affine":
            scales = mx.full(shapes["scales"], width**-0.5, mx.bfloat16)
            one += [scales, -8 * scales]
        else:
            one.append(mx.full(shapes["scales"], scale_code(quantization, width), mx.uint8))
    copies = int(-(-SET_BYTES // one[0].nbytes))
    found = [[array + mx.zeros_like(array) for array in one] for _ in range(copies)]
    mx.eval(found)
    return found


def matrix(arrays: Arrays, quantization: Quantization | None) -> Matrix:
    if quantization is None:
        return arrays[0]
    words, scales, *biases = arrays
    return QuantizedWeight(words, scales, biases[0] if biases else None, quantization)


def multiply(x: mx.array, w: Matrix) -> mx.array:
    """By MLX's own operation."""
    return x @ w.T if isinstance(w, mx.array) else quantized_matmul(x, w)


def microseconds(
    weights: list[Arrays],
    quantization: Quantization | None,
    x: mx.array,
    norm: RMSNorm | None,
    residual: mx.array | None,
    glu: bool,
) -> tuple[float, float]:
    """Of one call, ours and MLX's."""

    def ours(x: mx.array, arrays: Arrays) -> mx.array:
        return matvec.kernel(x, matrix(arrays, quantization), norm, residual, glu=glu)

    def peer(x: mx.array, arrays: Arrays) -> mx.array:
        product = partial(multiply, w=matrix(arrays, quantization))
        return matvec.reference(x, product, norm, residual, glu=glu)

    def timed(call: Callable[[mx.array, Arrays], mx.array]) -> float:
        compiled = mx.compile(call)
        return device_time.microseconds(
            x, lambda x, i: compiled(x, weights[i % len(weights)]), empty
        )

    empty = device_time.queue_seconds(x, None)
    return timed(ours), timed(peer)


def rows(
    name: str, sizes: tuple[int, int, bool, bool], quantization: Quantization | None
) -> list[dict[str, Any]]:
    """One row per number of tokens."""
    out, width, normed, glu = sizes
    weights = draw(out, width, quantization)
    norm = RMSNorm(mx.ones((width,), mx.bfloat16), 1e-6) if normed else None
    size = sum(array.nbytes for array in weights[0])
    found: list[dict[str, Any]] = []
    for tokens in TOKENS:
        x = mx.random.normal((1, tokens, width)).astype(mx.bfloat16)
        residual = None if normed or name == "head" else mx.zeros((1, tokens, out), mx.bfloat16)
        mx.eval(x)
        us, mlx = microseconds(weights, quantization, x, norm, residual, glu)
        ratio = us / found[0]["us"] if found else 1.0
        row = {"matrix": name, "tokens": tokens, "us": us, "of one": ratio}
        found.append(row | {"GB/s": size / us / 1e3, "MLX, us": mlx})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="4b")
    parser.add_argument(
        "--format", choices=FORMATS, default="4", help="bits, a mode, or none: not quantised"
    )
    parser.add_argument("--only", nargs="+", help="matrices by name; default: all")
    parser.add_argument(
        "--tiling", type=int, nargs=2, metavar=("ROWS", "SETS"), help="in place of its own choice"
    )
    args = parser.parse_args()
    if gpu_kernel.backend() is None:
        parser.error("it needs a GPU")
    if args.tiling:
        own, (count, sets) = matvec.tiling_for, args.tiling
        matvec.tiling_for = lambda *sizes: replace(own(*sizes), rows=count, sets=sets)
    results: list[dict[str, Any]] = []
    for name, sizes in matrices(ModelConfig.from_dict(SHAPES[args.shape])).items():
        if not args.only or name in args.only:
            found = rows(name, sizes, FORMATS[args.format])
            report.print_table(found)
            results += found
    report.print_json("matvec", results, shape=args.shape, format=args.format, tiling=args.tiling)


if __name__ == "__main__":
    main()
