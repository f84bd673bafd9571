"""Networks of mixed formats: each matrix is multiplied by what was selected for its format.

The kernels are stood in for by their references, which record the formats they are launched for.
"""

import platform
from collections.abc import Callable
from itertools import count
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import qwen35_mlx
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.checkpoint.recipes import RECIPES, assign
from qwen35_mlx.kernels import autotune, experts, gpu_kernel, matvec
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.quantized import (
    Quantization,
    QuantizedWeight,
)
from qwen35_mlx.kernels.row_format import dense
from qwen35_mlx.kernels.selection import REFERENCE, KernelSelection
from qwen35_mlx.model import moe
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.linear import FusedLinear, Linear, packing_name
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.operations import operations
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from qwen35_mlx.model.weights import Weights
from scripts.support.random_weights import RandomSource

DEMO = Path(qwen35_mlx.__file__).parent / "demo"
FOUR, FIVE, EIGHT = (Quantization(64, bits) for bits in (4, 5, 8))
FLOATS = (
    Quantization(32, 4, "mxfp4"),
    Quantization(32, 8, "mxfp8"),
    Quantization(16, 4, "nvfp4"),
)
Formats = Callable[[str, Quantization], Quantization | None]


class Mixed(RandomSource):
    """Random weights on the demo's shape, in the format that a function gives each module."""

    def __init__(self, config: ModelConfig, formats: Formats):
        super().__init__(config, 4, mx.float32, mtp=True)
        for module, quantization in self._quantizations.items():
            if quantization is not None:
                self._quantizations[module] = formats(module, quantization)


def config() -> ModelConfig:
    return open_checkpoint(DEMO).model


def network(formats: Formats, *, mtp: bool = False) -> Network:
    sizes = config()
    return Network(sizes, Weights(sizes, Mixed(sizes, formats)), mtp)


def name(quantization: Quantization | None) -> str:
    return packing_name(quantization, mx.uint8 if quantization in FLOATS else mx.float32)


SUPPORTS = matvec.supports


@pytest.fixture
def launched(monkeypatch, small_tuning, results_file) -> list[tuple[Quantization | None, bool]]:
    """Format of each launch of the matrix kernel, None for plain, and whether it computed the norm.

    Kernels read 4 and 8 bits and plain matrices, and are faster than the reference.
    """
    found, milliseconds = [], count(1000, -1)

    def kernel(x, w, norm=None, residual=None, *, glu=False, variant=matvec.KERNEL):
        found.append((None if isinstance(w, mx.array) else w.quantization, norm is not None))
        return matvec.reference(x, lambda x: x @ dense(w, x.dtype).T, norm, residual, glu=glu)

    def is_read(w):
        return isinstance(w, mx.array) or w.quantization.bits in (4, 8)

    from_matrices = experts.ExpertWeights.from_matrices

    def readable(*weights, top_k):
        read = [w for w in weights if w is not None and is_read(w)]
        return from_matrices(*read, top_k=top_k) if len(read) == 4 else None

    monkeypatch.setattr(experts.ExpertWeights, "from_matrices", readable)
    monkeypatch.setattr(gpu_kernel, "backend", lambda: "metal")
    monkeypatch.setattr(matvec, "supports", lambda x, w: is_read(w) and SUPPORTS(x, w))
    monkeypatch.setattr(matvec, "kernel", kernel)
    monkeypatch.setattr(matvec, "VARIANTS", (matvec.KERNEL,))
    monkeypatch.setattr(moe, "route", experts.route_reference)
    monkeypatch.setattr(moe, "run_experts", experts.experts_reference)
    monkeypatch.setattr(
        moe,
        "route_and_run_experts",
        lambda x, norm, logits, layer, residual: moe.run_experts(
            x, norm, *moe.route(logits, layer.top_k), layer, residual
        ),
    )
    monkeypatch.setattr(autotune, "milliseconds_per_call", lambda _: float(next(milliseconds)))
    return found


def select(net: Network, operation: str = "matmul_decode") -> tuple[set[str], list[str]]:
    """The formats that the kernel is selected for, and the notices."""
    notices = []
    todo = [op for op in operations(net) if op.name == operation]
    autotune.tune(todo, net.selection, notices.append, retry=True)
    net.selection.compiled = False  # so that every launch is seen
    chosen = getattr(net.selection, operation)
    formats = {key for key in chosen if " x " not in key}
    return {key for key in formats if chosen[key] != REFERENCE}, notices


def break_kernel(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    kernel = matvec.kernel

    def wrong(x, w, *rest, glu=False, variant=matvec.KERNEL):
        y = kernel(x, w, *rest, glu=glu, variant=variant)
        return y * (1.1 if isinstance(w, QuantizedWeight) and w.quantization.bits == bits else 1)

    monkeypatch.setattr(matvec, "kernel", wrong)


def logits(net: Network) -> np.ndarray:
    cache = net.make_cache()
    net(mx.array([[5, 6, 7, 8, 9]]), cache)
    return np.array(net.logits(net(mx.array([[10]]), cache)))


def test_the_mixture_of_a_recipe_decodes_by_kernels_where_they_read_it(launched):
    sizes = config()
    shapes = trunk_tensors(sizes) | mtp_tensors(sizes)
    mixture = assign(RECIPES["4bit"], shapes, sizes)
    net = network(lambda module, _: mixture[f"{module}.weight"])
    bits = {q.bits for q in mixture.values() if q}
    assert {4, 8} < bits
    want = logits(net)
    launched.clear()
    selected, notices = select(net)
    assert {int(packing[0]) for packing in selected} == {4, 8}
    assert notices == []
    launched.clear()
    np.testing.assert_allclose(logits(net), want, atol=2e-4)
    assert {q.bits for q, _ in launched} == {4, 8}


def test_a_first_layer_that_kernels_cannot_read_leaves_the_others_theirs(launched):
    first = ("model.layers.0.", "model.embed_tokens")
    net = network(lambda module, _: FIVE if module.startswith(first) else FOUR)
    assert name(FOUR) in select(net)[0]
    assert {op.packing for op in operations(net) if op.name == "experts_decode"} == {name(FOUR)}


def test_a_format_whose_check_fails_falls_back_alone(launched, monkeypatch):
    net = network(lambda module, _: EIGHT if "in_proj" in module else FOUR)
    want = logits(net)
    break_kernel(monkeypatch, 8)
    selected, (notice,) = select(net)
    assert selected == {name(FOUR)}
    assert f"for {name(EIGHT)}: it differs from its reference" in notice
    launched.clear()
    np.testing.assert_allclose(logits(net), want, atol=2e-4)
    assert {q for q, _ in launched} == {FOUR}


def test_results_of_one_format_do_not_hold_for_another(launched):
    small = Quantization(32, 4)
    net = network(lambda module, q: small if "k_proj" in module else q)
    keys = [op.key for op in operations(net)]
    assert len(set(keys)) == len(keys)
    assert {name(FOUR), name(small), name(EIGHT)} == select(net)[0]


@pytest.mark.parametrize(("head", "mtp"), [("model.embed_tokens", False), ("mtp.fc", True)])
def test_matrices_beside_the_layers_are_checked_too(launched, head, mtp):
    of_head = Quantization(32, 8)

    def formats(module: str, q: Quantization) -> Quantization:
        return of_head if module == head else q

    assert name(of_head) in select(network(formats, mtp=mtp))[0]


def test_layers_with_experts_of_several_formats_choose_each_its_own(launched, monkeypatch):
    layers = {"0": FIVE, "1": EIGHT}

    def formats(module: str, q: Quantization) -> Quantization:
        return layers.get(module.removeprefix("model.layers.")[0], FOUR)

    net = network(formats)
    assert select(net, "experts_decode") == ({name(EIGHT), name(FOUR)}, [])
    right = moe.run_experts

    def wrong(x, norm, weights, chosen, layer, residual):
        y = right(x, norm, weights, chosen, layer, residual)
        return y * (1.1 if layer.down.quantization == EIGHT else 1)

    monkeypatch.setattr(moe, "run_experts", wrong)
    selected, notices = select(net, "experts_decode")
    assert selected == {name(FOUR)}
    assert len(notices) == 2  # one for each variant
    assert all(name(EIGHT) in notice for notice in notices)


def test_experts_without_a_residual(launched):
    """As in the processes of a split network but the first."""
    net = network(lambda module, _: FOUR)
    block, norm = net.layers[0].mlp, net.layers[0].mlp_norm
    assert isinstance(block, moe.SparseMoE)
    x = mx.random.normal((1, 3, net.config.hidden_size))
    want = np.array(block(x, norm, x) - x)
    np.testing.assert_allclose(np.array(block(x, norm, None)), want, atol=1e-5)
    select(net, "experts_decode")
    np.testing.assert_allclose(np.array(block(x, norm, None)), want, atol=1e-4)


def test_small_matrices_that_are_not_quantised_leave_the_kernels_on(launched):
    """In a projection of their own between others, as in many published checkpoints."""
    net = network(lambda module, _: None if module.endswith(("in_proj_a", "in_proj_b")) else FOUR)
    want = logits(net)
    assert select(net) == ({name(FOUR), name(None)}, [])
    launched.clear()
    np.testing.assert_allclose(logits(net), want, atol=2e-4)
    assert {q for q, _ in launched} == {FOUR, None}


def test_experts_of_an_mtp_head_choose_by_their_own_format(launched):
    net = network(lambda module, _: EIGHT if module.startswith("mtp.") else FOUR, mtp=True)
    assert select(net, "experts_decode") == ({name(EIGHT), name(FOUR)}, [])


class CountedNorm(RMSNorm):
    calls = 0

    def __call__(self, x: mx.array) -> mx.array:
        type(self).calls += 1
        return super().__call__(x)


@pytest.mark.parametrize(
    ("last", "norms"), [(EIGHT, 0), (FIVE, 1), (None, 0)], ids=["read", "not read", "plain"]
)
def test_a_projection_of_two_formats_is_a_launch_for_each_and_one_norm(
    launched, monkeypatch, last, norms
):
    selection = KernelSelection()
    plain = [mx.random.normal((n, 128), key=mx.random.key(n)) / 10 for n in (64, 32, 8, 8)]

    def part(w: mx.array, q: Quantization | None) -> Linear:
        if q is None:
            return Linear(w, selection)
        return Linear(QuantizedWeight(*mx.quantize(w, q.group_size, q.bits), q), selection)

    fused = FusedLinear(*map(part, plain, (FOUR, FOUR, last, last)))
    x = mx.random.normal((1, 2, 128), key=mx.random.key(0))
    weight = mx.random.uniform(0.5, 1.5, (128,), key=mx.random.key(1))
    want = np.array(fused.joined(x, RMSNorm(weight, 1e-6)))
    for quantization in (FOUR, EIGHT, None):
        selection.select("matmul_decode", matvec.KERNEL, name(quantization))
    monkeypatch.setattr(CountedNorm, "calls", 0)
    launched.clear()
    got = fused.joined(x, CountedNorm(weight, 1e-6))
    np.testing.assert_allclose(np.array(got), want, atol=1e-5)
    assert launched == [(q, norms == 0) for q in (FOUR, last) if q != FIVE]
    if norms:
        assert CountedNorm.calls == 1


def test_results_hold_for_one_version_of_macos(launched, monkeypatch):
    keys = set()
    for system in ("15.5", "26.0", ""):
        monkeypatch.setattr(platform, "mac_ver", lambda system=system: (system, ("", "", ""), ""))
        keys.add(autotune.machine_key())
    assert len(keys) == 3
    assert sum("macOS" in key for key in keys) == 2
