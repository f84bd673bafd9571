"""The memory estimate, by the published sizes."""

import subprocess
import sys
from typing import Any

import mlx.core as mx
import pytest

from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.memory import (
    UNPACK_BUDGET,
    estimate,
    kv_bytes_per_token,
    state_bytes,
    unpacked_expert_bytes,
    unpacked_layer_bytes,
)
from scripts.support.random_weights import RandomSource, random_network
from tests.goldens import NAMES, network
from tests.model.test_weight_shapes import experts, published

SMALL = published(1024, 24, 8, 2, 16, intermediate_size=3584)
LARGE = published(5120, 64, 24, 4, 48, intermediate_size=17408)
SPARSE = published(2048, 40, 16, 2, 32, **experts(256, 8, 512))


@pytest.mark.parametrize(
    ("config", "per_token", "state"),
    [
        (SMALL, 12_288, 18_874_368 + 663_552),
        (LARGE, 65_536, 150_994_944 + 2_949_120),
        (SPARSE, 20_480, 62_914_560 + 1_474_560),
    ],
)
def test_bytes_of_the_published_sizes_in_bfloat16(config: Any, per_token: int, state: int):
    sizes = ModelConfig.from_dict(config)
    assert kv_bytes_per_token(sizes, 2) == per_token
    assert kv_bytes_per_token(sizes, 4) == 2 * per_token
    # 8 bits each, and a scale and a bias of two bytes for 32 of them.
    assert kv_bytes_per_token(sizes, 2, kv_bits=8) == per_token // 2 * 9 // 8
    assert state_bytes(sizes, 2) == state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kv_bits", [None, 8])
def test_bytes_are_those_of_a_cache(name: str, kv_bits: int | None):
    net = network(name)
    cache = net.make_cache(kv_bits=kv_bits)
    net(mx.zeros((1, 256), mx.int32), cache)  # a whole buffer, without room to grow
    want = 256 * kv_bytes_per_token(net.config, 4, kv_bits) + state_bytes(net.config, 4)
    assert cache.nbytes == want


@pytest.mark.parametrize(
    ("kv_bits", "want"),
    [
        (None, (2_867_200_000, 113_246_208, 2_852_126_720)),
        (8, (1_940_480_000, 113_246_208, 2_852_126_720)),
    ],
)
def test_the_estimate_of_a_long_prompt(kv_bits: int | None, want: tuple[int, int, int]):
    got = estimate(ModelConfig.from_dict(SMALL), 2, 160_000, 2048, kv_bits)
    assert (got.kv, got.states, got.work) == want
    assert got.total == sum(want)


def test_quantised_keys_and_values_are_estimated_smaller():
    config = ModelConfig.from_dict(SMALL)
    plain, packed = (estimate(config, 4, 10**6, 128, bits).kv for bits in (None, 8))
    assert packed < plain


def test_unpacked_matrices_count_only_where_they_are_unpacked():
    config = ModelConfig.from_dict(SMALL)
    delta_net = (6144 + 2048 + 32 + 2048) * 1024  # in_proj_qkv, z, b and a, and out_proj
    values = delta_net + 3 * 3584 * 1024
    assert 1 < unpacked_layer_bytes(config, 4) / (3 * 4 * values) < 1.002  # small tensors, too
    packed, unpacked = (estimate(config, 4, 100, 128, None, unpacks=one) for one in (False, True))
    assert unpacked.total - packed.total == unpacked_layer_bytes(config, 4)


def test_unpacked_experts_count_up_to_their_budget():
    config = ModelConfig.from_dict(SPARSE)
    stacks = 3 * 256 * 512 * 2048
    assert unpacked_expert_bytes(config, 2) == 2 * stacks <= UNPACK_BUDGET
    assert unpacked_expert_bytes(config, 8) == 0
    assert unpacked_layer_bytes(config, 2) > 3 * 2 * stacks
    assert unpacked_layer_bytes(config, 8) < 3 * 8 * stacks / 10


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="a GPU multiplies by packed matrices")
def test_no_more_is_in_memory_than_estimated_where_matrices_are_unpacked():
    """A short prompt, whose layers are launched in one go."""
    settings = published(512, 4, 4, 1, 16, intermediate_size=2048, vocab_size=256)
    config = ModelConfig.from_dict(settings)
    net = random_network(RandomSource(config, dtype=mx.float32))
    mx.eval(net(mx.zeros((1, 2), mx.int32), net.make_cache()))
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(net(mx.zeros((1, 16), mx.int32), net.make_cache()))
    peak = mx.get_peak_memory() - before
    found = estimate(config, 4, 16, 16, None, unpacks=True)
    assert unpacked_layer_bytes(config, 4) / 3 < peak < found.total
    assert found.total < 3 * peak


def test_the_estimate_needs_no_mlx():
    code = "import sys, qwen35_mlx.model.memory; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0
