"""The gated delta rule in plain MLX against float64."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.kernels.delta_net_reference import (
    CHUNK,
    CPU_CHUNK,
    chunked,
    gated_delta_rule,
    recurrent,
)
from scripts.support.delta_inputs import DeltaCase
from tests.kernels.cases import float64_rule, relative_error, to_mlx

RULES = [recurrent, chunked, gated_delta_rule]
LENGTHS = [1, 2, 3, CPU_CHUNK, CPU_CHUNK + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5]


def check(rule, case: DeltaCase, tolerance: float = 2e-6) -> None:
    drawn = case.draw()
    y, state = rule(**to_mlx(drawn))
    want_y, want_state = float64_rule(**drawn)
    assert y.dtype == state.dtype == mx.float32
    assert relative_error(y, want_y) < tolerance
    assert relative_error(state, want_state) < tolerance


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tokens", LENGTHS)
def test_any_length_around_a_chunk(rule, tokens):
    check(rule, DeltaCase(tokens))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("heads", [(2, 2), (1, 4), (2, 6)])
def test_groups_of_value_heads_share_a_key_head(rule, heads):
    check(rule, DeltaCase(70, key_heads=heads[0], value_heads=heads[1]))


@pytest.mark.parametrize("rule", RULES)
def test_batch_and_published_head_size(rule):
    check(rule, DeltaCase(70, batch=3, dk=128, dv=128))


@pytest.mark.parametrize("rule", [recurrent, chunked])
def test_slow_decay_over_4096_tokens(rule):
    # A decay rounded to bfloat16 would be 1 here, and the state half wrong.
    case = DeltaCase(4096, key_heads=1, value_heads=1, decay=(0.995, 0.9999))
    check(rule, case, tolerance=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_decay_to_zero_stays_finite(rule):
    drawn = DeltaCase(100).draw()
    drawn["g"][:, ::3] = -200.0
    y, state = rule(**to_mlx(drawn))
    want_y, want_state = float64_rule(**drawn)
    assert relative_error(y, want_y) < 2e-6
    assert relative_error(state, want_state) < 2e-6


def test_equal_keys_keep_their_precision_in_a_chunk():
    # The worst case of the triangular system: a power series would lose all digits.
    drawn = DeltaCase(CHUNK, decay=(0.9999, 1.0)).draw()
    drawn["k"][:] = drawn["k"][:, :1]
    drawn["beta"][:] = 1.0
    y, state = chunked(**to_mlx(drawn))
    want_y, want_state = float64_rule(**drawn)
    assert relative_error(y, want_y) < 1e-5
    assert relative_error(state, want_state) < 1e-5


@pytest.mark.parametrize("rule", RULES)
def test_zero_keys_recall_nothing(rule):
    drawn = DeltaCase(20).draw()
    drawn["q"][:, 5:9] = 0.0
    drawn["k"][:, 5:9] = 0.0
    y, _ = rule(**to_mlx(drawn))
    assert mx.all(y[:, 5:9] == 0).item()
    want_y, _ = float64_rule(**drawn)
    assert relative_error(y, want_y) < 2e-6


@pytest.mark.parametrize("rule", RULES)
def test_token_without_decay_and_beta_leaves_the_state(rule):
    drawn = DeltaCase(10).draw()
    drawn["g"][:] = 0.0
    drawn["beta"][:] = 0.0
    _, state = rule(**to_mlx(drawn))
    assert relative_error(state, drawn["state"]) < 1e-7


@pytest.mark.parametrize("cut", [1, 7, CHUNK, 100, 129])
def test_any_split_equals_the_whole(cut):
    drawn = to_mlx(DeltaCase(130, batch=2).draw())
    state = drawn.pop("state")
    whole, end = gated_delta_rule(**drawn, state=state)
    first, middle = gated_delta_rule(**{n: x[:, :cut] for n, x in drawn.items()}, state=state)
    second, split_end = gated_delta_rule(**{n: x[:, cut:] for n, x in drawn.items()}, state=middle)
    split = mx.concatenate([first, second], axis=1)
    np.testing.assert_allclose(np.array(split), np.array(whole), atol=2e-6)
    np.testing.assert_allclose(np.array(split_end), np.array(end), atol=5e-6)
