"""What the check of the decode kernel on a machine covers."""

from collections.abc import Sequence
from types import SimpleNamespace

import mlx.core as mx
import pytest

from qwen35_mlx.kernels import gpu_kernel, matvec
from qwen35_mlx.kernels.autotune import Operation, try_variants
from qwen35_mlx.kernels.hadamard import HadamardRotation
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import Quantization, QuantizedWeight
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, KernelSelection
from qwen35_mlx.model.linear import Linear
from qwen35_mlx.model.matrix_operations import Use, checked_passes

NETWORK = SimpleNamespace(dtype=mx.bfloat16)
NORM, RESIDUAL, GLU = {"norm": True}, {"residual": True}, {"norm": True, "glu": True}


def use(out: int, width: int, bits: int, *, norm=False, residual=False, glu=False) -> Use:
    plain = mx.random.normal((out, width), key=mx.random.key(0)).astype(mx.bfloat16)
    weight = plain if bits == 16 else QuantizedWeight.quantized(plain, Quantization(64, bits))
    normed = RMSNorm(mx.full((width,), 1.25, mx.bfloat16), 1e-6) if norm else None
    selection = KernelSelection()
    return Use(Linear(weight, selection), normed, residual, glu)


def uses_of(hidden: int, values: int, intermediate: int, bits: int) -> list[Use]:
    """Inputs and kinds of the matrices of a dense network, with few outputs."""
    return [
        use(32, hidden, bits, **NORM),
        use(16, values, bits, **RESIDUAL),
        use(48, hidden, bits, **GLU),
        use(16, intermediate, bits, **RESIDUAL),
        use(64, hidden, bits),
        use(16, 2 * hidden, bits),
    ]


def constants_of(passes: Sequence[tuple[Use, int]], monkeypatch) -> list[dict[str, int]]:
    """Those that each pass would be compiled with."""
    found = []

    def launch(kernel, inputs, launch):
        found.append(dict(launch.constants))
        return [mx.zeros(shape, dtype) for shape, dtype in launch.outputs]

    with monkeypatch.context() as patch:
        patch.setattr(gpu_kernel.Kernel, "__call__", launch)
        for one, tokens in passes:
            one.linear.selection.matmul_decode = {one.linear.packing: matvec.KERNEL}
            one.call(NETWORK, tokens)()  # pyright: ignore[reportArgumentType]
    return found


def branches(c: dict[str, int]) -> list[tuple[object, ...]]:
    """What the body branches on, by the names of its constants."""
    chunk = 32 if 32 % c["BITS"] else 128 // c["BITS"]
    rounds = -(-c["IN"] // chunk // (32 * c["SIMD_GROUPS"]))
    single, several = c["TOKENS"] == 1, rounds > 1
    staged = c["SETS"], 4 * c["SLAB"] < chunk, several, c["TOKENS"] % c["SETS"]
    return [
        ("tiling", single, several, c["OUTPUTS"] << c["GLU"], c["SETS"], c["SLAB"]),
        ("norm", single, c["NORM"], *staged),
        ("glu", single, c["GLU"], c["OUTPUTS"] << c["GLU"], c["SETS"]),
        ("residual", single, c["RESIDUAL"]),
    ]


@pytest.mark.parametrize("bits", [3, 4, 6, 8, 16])
@pytest.mark.parametrize("sizes", [(1024, 2048, 3584), (2560, 4096, 9216), (5120, 6144, 17408)])
def test_every_branch_that_a_session_takes_is_checked(sizes, bits, monkeypatch):
    uses = uses_of(*sizes, bits)
    every = [(one, n) for one in uses for n in range(1, MAX_DECODE_TOKENS + 1)]
    checked = checked_passes(uses, mx.bfloat16)
    assert len(checked) <= 21 < len(every)
    taken = [
        {b for c in constants_of(p, monkeypatch) for b in branches(c)} for p in (every, checked)
    ]
    assert taken[0] == taken[1]


def test_a_rotated_matrix_does_not_stand_for_one_with_a_norm():
    """Its norm comes before the rotation, outside the kernel."""
    rotated, plain = use(16, 512, 4, **NORM), use(64, 512, 4, **NORM)
    rotated.linear.rotation = HadamardRotation(512, mx.ones((512,)))
    assert not rotated.kind[0]
    assert any(one is plain for one, _ in checked_passes([rotated, plain], mx.bfloat16))


def failure(one: Use, tokens: int) -> str:
    """What the check of a pass finds wrong with the kernel."""
    call = one.call(NETWORK, tokens)  # pyright: ignore[reportArgumentType]
    operation = Operation(
        "matmul_decode", "", [matvec.KERNEL], [call], [call], False, 2e-2, one.linear.packing
    )
    _, trial = try_variants(operation, one.linear.selection)
    return trial.failure


def replaced(monkeypatch, right: str, wrong: str) -> None:
    body = gpu_kernel.Kernel.body.fget
    assert right in body(gpu_kernel.Kernel("matvec", (), ()))
    monkeypatch.setattr(
        gpu_kernel.Kernel, "body", property(lambda k: body(k).replace(right, wrong))
    )


@pytest.mark.usefixtures("kernels", "small_tuning")
def test_a_broken_tiling_is_found(monkeypatch):
    """Its second set has no quads of its own to stage."""
    tiling_for = matvec.tiling_for
    tilings = {tokens: tiling_for(tokens, 64, 4, 2) for tokens in range(1, MAX_DECODE_TOKENS + 1)}
    broken = next(tiling for tiling in tilings.values() if tiling.sets == 2)

    def wrong(*sizes: int) -> matvec.Tiling:
        tiling = tiling_for(*sizes)
        return matvec.Tiling(tiling.rows, 2, 1) if tiling == broken else tiling

    passes = checked_passes([use(24, 64, 4, **NORM)], mx.bfloat16)
    one = next((one, n) for one, n in passes if tilings[n] == broken)
    assert failure(*one) == ""
    monkeypatch.setattr(matvec, "tiling_for", wrong)
    assert failure(*one)


# What is wrong only beside other tokens, in a second set of threads, in a second round.
@pytest.mark.usefixtures("kernels", "small_tuning")
@pytest.mark.parametrize(
    ("right", "wrong", "bits", "width"),
    [
        ("x_quads[t * (IN / 4) + (i", "x_quads[(i", 4, 64),
        ("row[r] = r / OUTPUTS * OUT + (out < OUT ? out : OUT - 1)", "row[r] = r % OUTPUTS", 4, 64),
        ("chunk = round * SET_THREADS + set_thread", "chunk = set_thread", 8, 3072 + 64),
        ("chunk = round * SET_THREADS + set_thread", "chunk = set_thread", 6, 6144 + 64),
    ],
    ids=["the second token", "the second set", "the second round", "values in two words"],
)
def test_a_broken_branch_is_found(monkeypatch, right, wrong, bits, width):
    passes = checked_passes([use(24, width, bits, **NORM)], mx.bfloat16)
    first = [p for p in passes if p[1] > 1][:2] if width == 64 else passes[:1]
    replaced(monkeypatch, right, wrong)
    assert any(failure(*one) for one in first)
