"""A Gated DeltaNet layer between its projections, in plain MLX and as kernels, against float64."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels import delta_net
from qwen35_mlx.kernels.delta_net import (
    DECODE_VARIANTS,
    MLX_RULE,
    PREFILL_VARIANTS,
    StateTiling,
    decode,
    prefill,
)
from qwen35_mlx.kernels.delta_net_reference import reference
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, REFERENCE, KernelSelection
from scripts.support.delta_inputs import LayerCase
from tests.kernels.cases import float64_layer, relative_error
from tests.metal_emulator import MACHINES

pytestmark = pytest.mark.usefixtures("kernels")

# Also the tile of `PREFILL_VARIANTS`.
TILE = MAX_DECODE_TOKENS


def decode_all(projected, conv, state, layer, **options):
    """Any number of tokens through `decode`, a few at a time."""
    ys = []
    for at in range(0, projected.shape[1], TILE):
        y, conv, state = decode(projected[:, at : at + TILE], conv, state, layer, **options)
        ys.append(y)
    return mx.concatenate(ys, axis=1), conv, state


IMPLEMENTATIONS = {
    "reference": reference,
    "decode": decode_all,
    "prefill": prefill,
}


@pytest.fixture(params=IMPLEMENTATIONS)
def mix(request):
    return IMPLEMENTATIONS[request.param]


def check(mix, case: LayerCase, y_tolerance: float = 2e-6, state_tolerance: float = 2e-6) -> None:
    inputs = case.draw()
    y, conv, state = mix(*inputs)
    want_y, want_conv, want_state = float64_layer(*inputs)
    assert (y.dtype, conv.dtype, state.dtype) == (case.dtype, case.dtype, mx.float32)
    assert relative_error(y, want_y) < y_tolerance
    assert relative_error(state, want_state) < state_tolerance
    assert relative_error(conv, want_conv) == 0


@pytest.mark.parametrize("tokens", [1, 2, 3, TILE - 1, TILE, TILE + 1, 2 * TILE + 3])
def test_any_length_around_a_tile(mix, tokens):
    check(mix, LayerCase(tokens))


@pytest.mark.parametrize("heads", [(2, 2), (1, 4), (2, 6)])
def test_groups_of_value_heads_share_a_key_head(mix, heads):
    check(mix, LayerCase(5, key_heads=heads[0], value_heads=heads[1]))


def test_published_head_size_in_a_batch(mix):
    check(mix, LayerCase(9, batch=3, key_heads=1, value_heads=2, dim=128))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_keeps_a_float32_state(mix, dtype):
    check(mix, LayerCase(11, dtype=dtype), y_tolerance=1e-2, state_tolerance=1e-5)


def test_slow_decay_over_4096_tokens(mix):
    projected, conv, state, layer = LayerCase(4096, key_heads=1, value_heads=1).draw()
    # decay = exp(-rate softplus(a)) between 0.995 and 0.9999
    layer = replace(layer, decay_rate=mx.array([0.002]), dt_bias=mx.array([0.0]))
    inputs = (projected, conv, state, layer)
    y, _, last = mix(*inputs)
    want_y, _, want_state = float64_layer(*inputs)
    assert relative_error(y, want_y) < 1e-5
    assert relative_error(last, want_state) < 1e-5


def test_vectors_near_zero_keep_their_precision(mix):
    projected, conv, state, layer = LayerCase(6).draw()
    keys = 2 * layer.key_dim
    small = mx.concatenate([projected[..., :keys] * 1e-4, projected[..., keys:]], axis=-1)
    inputs = (small, conv * 0, state, layer)
    y, _, last = mix(*inputs)
    want_y, _, want_state = float64_layer(*inputs)
    assert relative_error(y, want_y) < 2e-6
    assert relative_error(last, want_state) < 2e-6


def test_large_gates_stay_finite(mix):
    projected, conv, state, layer = LayerCase(6).draw()
    gates = mx.concatenate([projected[..., :-8], 60 * projected[..., -8:]], axis=-1)
    inputs = (gates, conv, state, layer)
    y, _, last = mix(*inputs)
    want_y, _, want_state = float64_layer(*inputs)
    assert relative_error(y, want_y) < 2e-6
    assert relative_error(last, want_state) < 2e-6


@pytest.mark.parametrize("cut", [1, TILE, TILE + 3])
def test_any_split_equals_the_whole(mix, cut):
    projected, conv, state, layer = LayerCase(2 * TILE, batch=2).draw()
    whole = mix(projected, conv, state, layer)
    first, *between = mix(projected[:, :cut], conv, state, layer)
    second, *last = mix(projected[:, cut:], *between, layer)
    for got, want in zip([mx.concatenate([first, second], axis=1), *last], whole, strict=True):
        assert relative_error(got, np.array(want, np.float64)) < 2e-6


TILINGS = [
    *(
        (decode_all, tiling)
        for tiling in [StateTiling(4, 16), StateTiling(1, 4), *DECODE_VARIANTS.values()]
    ),
    *((prefill, tiling) for tiling in PREFILL_VARIANTS.values()),
    # Tiles that do not divide the number of tokens, or of threads that load them.
    (prefill, StateTiling(4, 16, tile=3, simd_groups=2)),
    (prefill, StateTiling(2, 4, tile=1, simd_groups=1)),
    (prefill, StateTiling(1, 8, tile=5, simd_groups=8)),
]


@pytest.mark.parametrize(("run", "tiling"), TILINGS)
@pytest.mark.parametrize("tokens", [1, TILE, TILE + 3])
def test_other_tilings_give_the_same(run, tiling, tokens):
    case = LayerCase(tokens, dim=128, key_heads=1, value_heads=2)
    assert tiling.supports(case.draw()[3])
    check(lambda *inputs: run(*inputs, tiling=tiling), case)


@pytest.mark.parametrize("kernels", MACHINES, indirect=True, ids=str)
@pytest.mark.parametrize(
    "tiling", [StateTiling(tile=8), StateTiling(1, 4, tile=2), StateTiling(1, tile=3)]
)
def test_tiles_on_every_machine(tiling):
    case = LayerCase(2 * TILE + 3, batch=2)
    check(lambda *inputs: prefill(*inputs, tiling=tiling), case)


def test_tiles_fit_into_threadgroup_memory():
    layer = LayerCase(1, dim=128).draw()[3]
    assert StateTiling(tile=14).supports(layer)
    assert not StateTiling(tile=15).supports(layer)


def test_mlx_own_rule_gives_the_same():
    """With heads of 128, the only size that it supports on a GPU."""
    case = LayerCase(TILE + 3, dim=128, key_heads=1, value_heads=2)
    check(lambda *inputs: prefill(*inputs, tiling=None), case)


@pytest.mark.parametrize(
    ("variant", "tiling"), [*PREFILL_VARIANTS.items(), (MLX_RULE, None), (REFERENCE, None)]
)
@pytest.mark.parametrize("tokens", [1, MAX_DECODE_TOKENS, MAX_DECODE_TOKENS + 1])
def test_mix_runs_the_selected_variant(monkeypatch, tokens, variant, tiling):
    calls = []
    monkeypatch.setattr(delta_net, "reference", lambda *_: calls.append(("reference", None)))
    for name in ("decode", "prefill"):
        monkeypatch.setattr(
            delta_net, name, lambda *_, tiling, name=name: calls.append((name, tiling))
        )
    (name, decode_tiling), *_ = DECODE_VARIANTS.items()
    selection = KernelSelection(delta_decode=name, delta_prefill=variant)
    delta_net.mix(*LayerCase(tokens).draw(), selection)
    delta_net.mix(*LayerCase(tokens).draw(), KernelSelection())
    prefilled = ("reference", None) if variant == REFERENCE else ("prefill", tiling)
    selected = ("decode", decode_tiling) if tokens <= MAX_DECODE_TOKENS else prefilled
    assert calls == [selected, ("reference", None)]
