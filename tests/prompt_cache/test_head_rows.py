"""What an MTP head has read, on disk: restored bit by bit, or left out without a word."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.model.cache import Cache
from qwen35_mlx.prompt_cache import prefix_tree
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache
from qwen35_mlx.prompt_cache.prefix_tree import KV
from tests.prompt_cache.test_disk import IDS, MODEL, files_of, flip, next_logits, prefilled


def head_reads(model: Any, cache: Cache, rows: int) -> None:
    """Random rows in place of the head's own, up to the end of the cache."""
    config, rng = model.network.config, np.random.default_rng(cache.offset)
    shape = (1, config.num_key_value_heads, rows, config.head_dim)
    head = cache.head
    assert head is not None
    head.kv.update(*(mx.array(rng.normal(size=shape), mx.float32) for _ in "kv"))
    head.hidden = mx.array(rng.normal(size=(1, 1, config.hidden_size)), mx.float32)
    head.end = cache.offset


def stored(
    model: Any, folder: Path, steps: list[tuple[int, int]], bits: int | None = None
) -> tuple[DiskSnapshotCache, Cache]:
    """Snapshots on disk, and the cache at the last one.

    Args:
        steps: positions, and how many rows the head reads there; it stops being in step at 0.
    """
    states = DiskSnapshotCache(folder, MODEL)
    cache = model.network.make_cache(kv_bits=bits)
    for end, rows in steps:
        prefilled(model, IDS[:end], cache=cache)
        if rows:
            head_reads(model, cache, rows)
        states.add(IDS[:end], cache.snapshot())
    states.flush()
    return states, cache


def restored(model: Any, states: DiskSnapshotCache, bits: int | None = None) -> Cache:
    cache = model.network.make_cache(kv_bits=bits)
    assert states.restore(IDS, cache) == 200
    assert states.notices() == []
    return cache


def assert_same_head(cache: Cache, other: Cache) -> None:
    assert cache.head is not None
    assert other.head is not None
    assert (cache.head.end, cache.head.kv.offset) == (other.head.end, other.head.kv.offset)
    assert mx.array_equal(cache.head.hidden, other.head.hidden)
    rows, others = (one.head.kv.snapshot().rows(0) for one in (cache, other))  # type: ignore[union-attr]
    for mine, its in zip(rows, others, strict=True):
        assert mx.array_equal(mine, its)


# The head may have begun with the second token, within a later segment, or at its start.
READ = {
    "all": [(50, 49), (120, 70), (200, 80)],
    "one segment": [(200, 199)],
    "a first token alone": [(1, 0), (120, 119), (200, 80)],
    "from within a segment": [(50, 0), (120, 30), (200, 80)],
    "from the last segment": [(50, 0), (120, 0), (200, 80)],
    "the last tokens": [(120, 0), (200, 7)],
}


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("steps", READ)
def test_the_rows_of_a_head_are_restored_bit_by_bit(model, tmp_path, steps, bits):
    states, cache = stored(model, tmp_path, READ[steps], bits)
    assert_same_head(restored(model, states, bits), cache)


def test_later_segments_join_those_before(model, tmp_path):
    """A restored head goes on, and is restored again from files of both times."""
    states, _ = stored(model, tmp_path, [(50, 49), (120, 70)])
    again = model.network.make_cache()
    states.restore(IDS[:121], again)
    prefilled(model, IDS[:200], cache=again)
    head_reads(model, again, 80)
    states.add(IDS[:200], again.snapshot())
    assert_same_head(restored(model, states), again)


# The head did not read all tokens after the first that it read.
GAPS = {
    "none": [(50, 0), (200, 0)],
    "at the end": [(50, 49), (200, 0)],
    "in the middle": [(50, 49), (120, 0), (200, 80)],
}


@pytest.mark.parametrize("steps", GAPS)
def test_a_head_with_missing_rows_begins_anew_and_the_rest_is_restored(model, tmp_path, steps):
    states, _ = stored(model, tmp_path, GAPS[steps])
    cache = restored(model, states)
    assert cache.head is not None
    assert (cache.head.hidden, cache.head.kv.offset, cache.head.end) == (None, 0, 0)
    want = next_logits(model, prefilled(model, IDS[:200]))
    np.testing.assert_allclose(next_logits(model, cache), want, atol=1e-4)


def test_rows_of_another_count_are_not_joined(model, tmp_path):
    """A segment written by a process whose head had begun elsewhere."""
    stored(model, tmp_path / "a", [(50, 49), (120, 70), (200, 80)])
    states, _ = stored(model, tmp_path / "b", [(50, 20), (120, 70), (200, 80)])
    middle, other = files_of(tmp_path / "a")[1], files_of(tmp_path / "b")[1]
    other.write_bytes(middle.read_bytes())
    cache = restored(model, states)
    assert cache.head is not None
    assert cache.head.kv.offset == 0


def test_a_network_without_the_head_restores_the_rest(model, tmp_path):
    states, cache = stored(model, tmp_path, READ["all"])
    plain = Cache(model.network.config)
    assert states.restore(IDS, plain) == 200
    np.testing.assert_array_equal(next_logits(model, plain), next_logits(model, cache))
    assert states.notices() == []


def test_a_damaged_row_of_the_head_is_found(model, tmp_path):
    states, _ = stored(model, tmp_path, READ["all"])
    last = files_of(tmp_path, KV)[-1]
    flip(last)  # its last tensor is the head's
    assert states.restore(IDS, model.network.make_cache()) == 120
    assert "is damaged" in states.notices()[0]


def test_a_network_whose_head_reads_nothing_writes_what_it_did_before(model, tmp_path):
    stored(model, tmp_path, GAPS["none"])
    for file in prefix_tree.stored_files(tmp_path / MODEL):
        assert b"head." not in file.path.read_bytes()
