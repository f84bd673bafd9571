"""The fused layer, in plain MLX and as a kernel, against float64."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels.delta_net import (
    PROMPTS,
    STEP_TOKENS,
    STEPS,
    Layout,
    mix,
    prompt,
    step,
)
from qwen35_mlx.kernels.delta_net_reference import reference
from qwen35_mlx.kernels.selection import KernelSelection
from scripts.support.delta_inputs import LayerCase
from tests.kernels.cases import float64_layer, relative_error
from tests.metal_emulator import MACHINES

pytestmark = pytest.mark.usefixtures("kernels")

TILE = STEP_TOKENS


def steps(projected, conv, state, layer, **how):
    """Any number of tokens through the form for few."""
    ys = []
    for at in range(0, projected.shape[1], TILE):
        y, conv, state = step(projected[:, at : at + TILE], conv, state, layer, **how)
        ys.append(y)
    return mx.concatenate(ys, axis=1), conv, state


FORMS = {
    "reference": reference,
    "steps": steps,
    "prompt": prompt,
}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def check(form, case: LayerCase, y_tolerance: float = 2e-6, state_tolerance: float = 2e-6) -> None:
    inputs = case.draw()
    y, conv, state = form(*inputs)
    want_y, want_conv, want_state = float64_layer(*inputs)
    assert (y.dtype, conv.dtype, state.dtype) == (case.dtype, case.dtype, mx.float32)
    assert relative_error(y, want_y) < y_tolerance
    assert relative_error(state, want_state) < state_tolerance
    assert relative_error(conv, want_conv) == 0


@pytest.mark.parametrize("tokens", [1, 2, 3, TILE - 1, TILE, TILE + 1, 2 * TILE + 3])
def test_any_length_around_a_tile(form, tokens):
    check(form, LayerCase(tokens))


@pytest.mark.parametrize("heads", [(2, 2), (1, 4), (2, 6)])
def test_value_heads_share_key_heads_in_runs(form, heads):
    check(form, LayerCase(5, key_heads=heads[0], value_heads=heads[1]))


def test_published_head_size_in_a_batch(form):
    check(form, LayerCase(9, batch=3, key_heads=1, value_heads=2, dim=128))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_keeps_a_float32_state(form, dtype):
    check(form, LayerCase(11, dtype=dtype), y_tolerance=1e-2, state_tolerance=1e-5)


def test_slow_decay_over_4096_steps(form):
    projected, conv, state, layer = LayerCase(4096, key_heads=1, value_heads=1).draw()
    # decay = exp(-rate softplus(a)) between 0.995 and 0.9999
    layer = replace(layer, decay_rate=mx.array([0.002]), dt_bias=mx.array([0.0]))
    inputs = (projected, conv, state, layer)
    y, _, last = form(*inputs)
    want_y, _, want_state = float64_layer(*inputs)
    assert relative_error(y, want_y) < 1e-5
    assert relative_error(last, want_state) < 1e-5


def test_vectors_near_zero_are_not_blown_up(form):
    projected, conv, state, layer = LayerCase(6).draw()
    keys = 2 * layer.key_dim
    small = mx.concatenate([projected[..., :keys] * 1e-4, projected[..., keys:]], axis=-1)
    inputs = (small, conv * 0, state, layer)
    y, _, last = form(*inputs)
    want_y, _, want_state = float64_layer(*inputs)
    assert relative_error(y, want_y) < 2e-6
    assert relative_error(last, want_state) < 2e-6


def test_gates_far_out_stay_finite(form):
    projected, conv, state, layer = LayerCase(6).draw()
    gates = mx.concatenate([projected[..., :-8], 60 * projected[..., -8:]], axis=-1)
    inputs = (gates, conv, state, layer)
    y, _, last = form(*inputs)
    want_y, _, want_state = float64_layer(*inputs)
    assert relative_error(y, want_y) < 2e-6
    assert relative_error(last, want_state) < 2e-6


@pytest.mark.parametrize("tokens", [3, 2 * TILE + 3])
def test_padding_on_the_left_leaves_no_trace(tokens):
    projected, conv, state, layer = LayerCase(tokens, batch=3).draw()
    conv, state = conv * 0, state * 0
    padding = [0, 2, tokens]
    valid = mx.arange(tokens) >= mx.array(padding)[:, None]
    want_y, want_conv, want_state = float64_layer(projected, conv, state, layer, padding)
    fast = KernelSelection(delta_decode="one dispatch", delta_prefill="tiles")
    for selection in (KernelSelection(), fast):
        y, conv_out, state_out = mix(projected, conv, state, layer, valid, selection)
        for row, count in enumerate(padding[:2]):
            assert relative_error(y[row, count:], want_y[row, count:]) < 2e-6
        assert relative_error(state_out, want_state) < 2e-6
        assert relative_error(conv_out, want_conv) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8])
def test_taking_only_some_tokens_equals_never_having_had_the_others(count):
    projected, conv, state, layer = LayerCase(8, batch=2).draw()
    y, conv_out, state_out = step(projected, conv, state, layer, count=count)
    assert not mx.any(y[:, count:])
    if count == 0:
        assert mx.array_equal(conv_out, conv)
        assert mx.array_equal(state_out, state)
        return
    want_y, want_conv, want_state = step(projected[:, :count], conv, state, layer)
    # Not to the bit: another number of tokens is another kernel.
    assert relative_error(y[:, :count], np.array(want_y, np.float64)) < 1e-6
    assert relative_error(state_out, np.array(want_state, np.float64)) < 1e-6
    assert mx.array_equal(conv_out, want_conv)


@pytest.mark.parametrize("cut", [1, TILE, TILE + 3])
def test_any_split_equals_the_whole(form, cut):
    projected, conv, state, layer = LayerCase(2 * TILE, batch=2).draw()
    whole = form(projected, conv, state, layer)
    first, *between = form(projected[:, :cut], conv, state, layer)
    second, *last = form(projected[:, cut:], *between, layer)
    for got, want in zip([mx.concatenate([first, second], axis=1), *last], whole, strict=True):
        assert relative_error(got, np.array(want, np.float64)) < 2e-6


LAYOUTS = [
    *((steps, layout) for layout in [Layout(4, 16), Layout(1, 4), *STEPS.values()]),
    *((prompt, layout) for layout in PROMPTS.values()),
    # Tiles that do not divide the lengths, or the threads that fetch them.
    (prompt, Layout(4, 16, tile=3, simds=2)),
    (prompt, Layout(2, 4, tile=1, simds=1)),
    (prompt, Layout(1, 8, tile=5, simds=8)),
]


@pytest.mark.parametrize(("run", "layout"), LAYOUTS)
@pytest.mark.parametrize("tokens", [1, TILE, TILE + 3])
def test_other_layouts_give_the_same(run, layout, tokens):
    case = LayerCase(tokens, dim=128, key_heads=1, value_heads=2)
    assert layout.fits(case.draw()[3])
    check(lambda *inputs: run(*inputs, layout=layout), case)


@pytest.mark.parametrize("kernels", MACHINES, indirect=True, ids=str)
@pytest.mark.parametrize("layout", [Layout(tile=8), Layout(1, 4, tile=2), Layout(1, tile=3)])
def test_tiles_on_every_machine(layout):
    case = LayerCase(2 * TILE + 3, batch=2)
    check(lambda *inputs: prompt(*inputs, layout=layout), case)


def test_tiles_fit_into_threadgroup_memory():
    layer = LayerCase(1, dim=128).draw()[3]
    assert Layout(tile=14).fits(layer)
    assert not Layout(tile=15).fits(layer)


def test_the_rule_as_mlx_has_it_gives_the_same():
    """It wants heads of 128 on a GPU, whence the size."""
    case = LayerCase(TILE + 3, dim=128, key_heads=1, value_heads=2)
    check(lambda *inputs: prompt(*inputs, layout=None), case)
