"""Keys and values: growth, the tail, snapshots and branches."""

import mlx.core as mx
import pytest

from qwen35_mlx.model.kv_cache import TAIL_ROWS, KVCache


def rows(start: int, count: int) -> mx.array:
    """[1, 1, count, 2], each row filled with its position."""
    return mx.broadcast_to(mx.arange(start, start + count)[None, None, :, None], (1, 1, count, 2))


def filled(count: int) -> KVCache:
    cache = KVCache()
    cache.update(rows(0, count), -rows(0, count))
    return cache


def capacity(cache: KVCache) -> int:
    return cache.arrays[0].shape[2]


def test_rows_come_back_in_order_through_growth():
    cache = KVCache()
    for start in range(0, 2000, 50):
        keys, values = cache.update(rows(start, 50), -rows(start, 50))
    assert mx.array_equal(keys, rows(0, 2000))
    assert mx.array_equal(values, -rows(0, 2000))


def decoded(cache: KVCache, start: int, count: int, step: int = 1) -> tuple[mx.array, mx.array]:
    """Append `count` rows, `step` at a time, from row `start`; returns all keys and all values."""
    for i in range(start, start + count, step):
        added = min(step, start + count - i)
        both = cache.append_to_tail(mx.stack([rows(i, added), -rows(i, added)]))
        assert both[1][0].shape[2] >= added
    assert cache.offset == start + count
    keys, values = (mx.concatenate(parts, axis=2) for parts in zip(*both, strict=True))
    return keys, values


@pytest.mark.parametrize("step", [1, 3, 8])
@pytest.mark.parametrize("count", [1, TAIL_ROWS - 1, TAIL_ROWS, TAIL_ROWS + 1, 2 * TAIL_ROWS + 3])
def test_tail_rows_follow_the_buffer_in_order_and_move_into_it(count, step):
    cache = filled(10)
    keys, values = decoded(cache, 10, count, step)
    assert mx.array_equal(keys, rows(0, 10 + count))
    assert mx.array_equal(values, -rows(0, 10 + count))
    keys, values = cache.update(rows(10 + count, 3), -rows(10 + count, 3))
    assert mx.array_equal(keys, rows(0, 13 + count))
    assert mx.array_equal(values, -rows(0, 13 + count))


@pytest.mark.parametrize("step", [1, 7])
def test_quantised_rows_are_the_same_through_the_tail(step):
    keys = mx.random.normal((2, 2, 2 * TAIL_ROWS, 64), key=mx.random.key(1)).astype(mx.bfloat16)
    values = keys[..., ::-1]
    whole, parts = KVCache(8), KVCache(8)
    want = whole.update(keys, values)
    assert mx.array_equal(want[0], mx.quantize(keys, 32, 8)[0])
    parts.update(keys[:, :, :9], values[:, :, :9])
    for start in range(9, keys.shape[2] - step, step):
        rows = slice(start, start + step)
        prefix, tail = parts.append_to_tail(mx.stack([keys[:, :, rows], values[:, :, rows]]))
        both = [mx.concatenate([prefix[i], tail[i]], axis=2) for i in (0, 3)]
    assert mx.array_equal(both[0], want[0][:, :, : parts.offset])
    assert mx.array_equal(both[1], want[3][:, :, : parts.offset])
    parts.take_back(5)
    for got, array in zip(parts.snapshot().rows(0), want, strict=True):
        assert mx.array_equal(got, array[:, :, : parts.offset])


# Fewer rows than the tail has, all of them, and some of the buffer; and after the tail was full.
@pytest.mark.parametrize(("decodes", "taken"), [(5, 3), (5, 5), (5, 9), (0, 4), (TAIL_ROWS + 2, 7)])
def test_rows_that_are_taken_back_are_replaced_by_the_next(decodes, taken):
    cache = filled(10)
    if decodes:
        decoded(cache, 10, decodes, 4)
    cache.take_back(taken)
    left = 10 + decodes - taken
    assert cache.offset == left
    keys, values = decoded(cache, left, 6, 3)
    assert mx.array_equal(keys, rows(0, left + 6))
    assert mx.array_equal(values, -rows(0, left + 6))
    cache.take_back(5)
    keys, _ = cache.update(rows(90, 2), rows(90, 2))
    assert mx.array_equal(keys, mx.concatenate([rows(0, left + 1), rows(90, 2)], axis=2))


def test_a_snapshot_keeps_rows_that_are_taken_back_later():
    cache = filled(10)
    decoded(cache, 10, 4)
    at_14 = cache.snapshot()
    decoded(cache, 14, 2)
    cache.take_back(4)
    assert mx.array_equal(cache.snapshot().rows(0)[0], rows(0, 12))
    cache.update(rows(80, 5), rows(80, 5))
    assert mx.array_equal(at_14.rows(0)[0], rows(0, 14))


def test_a_snapshot_contains_the_tail_rows_and_later_rows_do_not_change_it():
    cache = filled(10)
    decoded(cache, 10, 5)
    at_15 = cache.snapshot()
    decoded(cache, 15, 5)
    cache.restore(at_15)
    assert cache.offset == 15
    keys, _ = decoded(cache, 15, 1)
    assert mx.array_equal(keys, rows(0, 16))
    other = KVCache()
    other.restore(at_15)
    other.append_to_tail(mx.stack([rows(99, 1), rows(99, 1)]))
    assert mx.array_equal(other.snapshot().rows(0)[0][..., 0], mx.array([[[*range(15), 99]]]))
    assert mx.array_equal(cache.snapshot().rows(0)[0], rows(0, 16))
    assert mx.array_equal(at_15.rows(0)[0], rows(0, 15))


@pytest.mark.parametrize("used", [1, 256, 257, 5000, 20000])
def test_growth_is_geometric_and_spare_capacity_at_most_a_quarter(used):
    cache = KVCache()
    growths, last = 0, 0
    for start in range(0, used, 100):
        cache.update(rows(start, 100), rows(start, 100))
        growths += capacity(cache) != last
        last = capacity(cache)
    assert capacity(cache) <= 1.25 * cache.offset + 256
    assert growths < 22  # 20,000 rows in steps of 256 would be 79


def test_restoring_reuses_the_buffer_when_no_holder_needs_its_later_rows():
    cache = filled(200)
    at_100 = KVCache()
    at_100.restore(cache.snapshot())
    del at_100
    early = filled(100)
    start = early.snapshot()
    early.update(rows(100, 100), rows(100, 100))
    before = early._buffer
    early.restore(start)
    early.update(rows(0, 10), rows(0, 10))
    assert early._buffer is before


def test_restoring_copies_while_a_later_snapshot_lives():
    cache = filled(100)
    start = cache.snapshot()
    cache.update(rows(100, 100), rows(100, 100))
    end = cache.snapshot()
    cache.restore(start)
    cache.update(rows(7, 10), rows(7, 10))
    assert cache._buffer is not end.buffer
    cache.restore(end)
    keys, _ = cache.update(rows(200, 1), rows(200, 1))
    assert mx.array_equal(keys, rows(0, 201))


def test_a_snapshot_of_an_empty_cache_can_be_restored():
    cache = KVCache()
    empty = cache.snapshot()
    cache.update(rows(0, 5), rows(0, 5))
    cache.restore(empty)
    keys, _ = cache.update(rows(3, 2), rows(3, 2))
    assert mx.array_equal(keys, rows(3, 2))


def test_a_short_branch_of_a_long_conversation_stays_small():
    cache = filled(100)
    start = cache.snapshot()
    cache.update(rows(100, 20_000), rows(100, 20_000))
    whole = cache.snapshot()
    cache.restore(start)
    cache.update(rows(7, 10), rows(7, 10))
    assert capacity(cache) <= 256
    cache.restore(whole)
    keys, _ = cache.update(rows(20_100, 1), rows(20_100, 1))
    assert mx.array_equal(keys, rows(0, 20_101))
    assert capacity(cache) <= 1.25 * 20_101 + 256
