"""Who has which heads, rows and columns of a network that is split."""

from collections import Counter
from dataclasses import replace

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig, Shard
from qwen35_mlx.model.memory import (
    estimate,
    kv_bytes_per_token,
    largest_part,
    state_bytes,
    weight_bytes,
)
from qwen35_mlx.model.split import Heads, Piece, own_name, part_of, split_config
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from scripts.support.random_weights import SHAPES
from tests.goldens import NAMES, network

PUBLISHED = [name for name in SHAPES if not name.startswith("tiny")]


def covered(pieces: list[tuple[Piece, ...]]) -> Counter[int]:
    """How often each row of the whole is in a piece."""
    return Counter(
        row
        for one in pieces
        for first, count in one
        if first is not None
        for row in range(first, first + count)
    )


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("name", NAMES)
def test_every_row_and_column_is_in_one_part(name: str, ranks: int):
    """Those of shared heads may be in several; all parts have the shapes of their config."""
    whole = network(name).config
    shapes = trunk_tensors(whole) | mtp_tensors(whole)
    parts = [split_config(whole, Shard(rank, ranks), 32) for rank in range(ranks)]
    assert all(replace(part, shard=None) == replace(parts[0], shard=None) for part in parts)
    for tensor, shape in (trunk_tensors(parts[0]) | mtp_tensors(parts[0])).items():
        found = [part_of(tensor, whole, part) for part in parts]
        if found[0] is None:
            assert shape == shapes[tensor]
            continue
        axis = found[0].axis
        expected = list(shapes[tensor])
        expected[axis] = found[0].width
        assert shape == tuple(expected), tensor
        times = covered([part.pieces for part in found if part])
        assert set(times) == set(range(shapes[tensor][axis])), tensor
        shared = ("k_proj", "v_proj", "in_proj_qkv", "conv1d")
        if not any(end in tensor for end in shared):
            assert set(times.values()) == {1}, tensor


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("each", [1, 2, 3, 6, 16])
def test_each_head_has_the_group_that_it_shares(each: int, groups: int, ranks: int):
    count = each * groups
    seen: list[int] = []
    for rank in range(ranks):
        own = Heads.of(count, groups, Shard(rank, ranks))
        assert len(own.heads) % len(own.groups) == 0
        unit = len(own.heads) // len(own.groups)
        for place, head in enumerate(own.heads):
            if head is not None:
                assert own.groups[place // unit] == head // each
                seen.append(head)
    assert seen == list(range(count))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_published_models_divide(name: str, ranks: int):
    """No process has more than its share, but for key/value heads of which all need one."""
    whole = ModelConfig.from_dict(SHAPES[name])
    part = split_config(whole, Shard(ranks - 1, ranks), 64)
    assert part.num_key_value_heads == max(whole.num_key_value_heads // ranks, 1)
    for size in (
        *("num_attention_heads", "linear_num_value_heads", "linear_num_key_heads", "vocab_rows"),
        *("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"),
    ):
        assert getattr(part, size) * ranks == getattr(whole, size), size


def test_three_processes_have_a_third_of_the_heads():
    """Of 4 groups of 6 heads: units of 2 heads, the last of a group's three in another process."""
    heads = Heads.of(24, 4, Shard(1, 3))
    assert heads.heads == tuple(range(8, 16))
    assert heads.groups == (1, 1, 2, 2)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_pipeline_has_every_layer_once(ranks: int):
    whole = network("dense").config
    shards = [Shard(rank, ranks, pipeline=True) for rank in range(ranks)]
    parts = [split_config(whole, shard) for shard in shards]
    assert sum((part.layer_types for part in parts), ()) == whole.layer_types
    for tensor in trunk_tensors(whole) | mtp_tensors(whole):
        owners = [shard.rank for shard in shards if own_name(tensor, whole, shard)]
        assert len(owners) == (1 if ".layers." in tensor and "mtp" not in tensor else ranks)
    for shard, part in zip(shards, parts, strict=True):
        own = {own_name(tensor, whole, shard) for tensor in trunk_tensors(whole)} - {None}
        assert own == set(trunk_tensors(part))


def test_a_pipeline_has_no_more_processes_than_layers():
    with pytest.raises(Qwen35Error, match="4 layers cannot be split over 5 processes: choose"):
        split_config(network("dense").config, Shard(0, 5, pipeline=True))


def test_what_does_not_divide_is_filled_up_to_a_multiple_of_32():
    assert Shard(0, 2).width(96) == 48
    assert Shard(0, 2).width(96, 64) == 64
    assert Shard(0, 3).width(3584, 64) == 19 * 64
    assert Shard(0, 3).width(248_320) == 82_784


def test_parts_take_a_share_of_the_memory():
    whole = ModelConfig.from_dict(SHAPES["35b-a3b"])
    half, quarter = (split_config(whole, Shard(0, ranks), 64) for ranks in (2, 4))
    assert state_bytes(half, 2) == state_bytes(whole, 2) // 2
    assert kv_bytes_per_token(half, 2) == kv_bytes_per_token(whole, 2) // 2
    # Two key/value heads: each of four processes has one.
    assert kv_bytes_per_token(quarter, 2) == kv_bytes_per_token(half, 2)
    # The router and the norms are in every part.
    assert weight_bytes(1 << 30, whole, half) == pytest.approx(1 << 29, rel=0.01)
    assert weight_bytes(1 << 30, whole, whole) == 1 << 30
    needs = [estimate(one, 2, 10_000, 2048, None) for one in (whole, half)]
    assert needs[1].kv == needs[0].kv // 2
    assert needs[1].states == needs[0].states // 2
    assert needs[1].work < needs[0].work


def test_the_largest_part_of_whole_layers_counts():
    whole = ModelConfig.from_dict(SHAPES["35b-a3b"])  # 40 layers
    part = largest_part(whole, Shard(0, 3, pipeline=True))
    assert part.num_hidden_layers == 14
    assert split_config(whole, Shard(0, 3, pipeline=True)).num_hidden_layers == 13
    assert largest_part(whole, Shard(1, 2)) == split_config(whole, Shard(1, 2))
