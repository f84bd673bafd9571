"""Restoring from many files at once: each bit in its place, few files open, the bad one told."""

import gc
import threading
import time
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.model.cache import Cache, KVCache
from qwen35_mlx.prompt_cache import disk as states_module
from qwen35_mlx.prompt_cache import file as state_file
from qwen35_mlx.prompt_cache import tensors as state_tensors
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache
from qwen35_mlx.prompt_cache.folder import ROWS, STATE
from tests.prompt_cache.test_disk import IDS, MODEL, flip, kept, rows_of, run

STOPS = range(10, 300, 10)


def bits(array: mx.array) -> np.ndarray:
    return np.array(array.view({2: mx.uint16, 4: mx.uint32}[array.itemsize]))


def held(cache: Cache) -> list[np.ndarray]:
    """The bits of all that counts in a cache, without the room to grow."""
    found = []
    for layer in cache.layers:
        if isinstance(layer, KVCache):
            found += [bits(rows[:, :, : layer.offset]) for rows in layer.arrays]
        else:
            found += [bits(array) for array in layer.arrays]
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kv_bits", [None, 8])
def test_every_array_is_restored_from_many_files_to_the_bit(model_folder, tmp_path, dtype, kv_bits):
    from qwen35_mlx.session.model import load

    model = load(model_folder, dtype=dtype)
    cache = model.network.make_cache(kv_bits=kv_bits)
    states = DiskSnapshotCache(tmp_path, MODEL)
    for stop in (1, 70, 75, 200, 290):
        run(model, IDS[:stop], cache=cache)
        states.keep(IDS[:stop], cache.snapshot())
    back = model.network.make_cache(kv_bits=kv_bits)
    assert states.restore(IDS, back) == 290
    expected = held(cache)
    for got, wanted in zip(held(back), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert [a.dtype for a in back.arrays] == [a.dtype for a in cache.arrays]
    assert any(array.any() for array in expected)


def test_the_first_rows_after_a_restore_are_written_in_place(model, tmp_path):
    states = kept(model, tmp_path, 100, 200)
    cache = model.network.make_cache()
    states.restore(IDS, cache)

    def places() -> list[int]:
        layers = [layer for layer in cache.layers if isinstance(layer, KVCache)]
        arrays = [array.view(mx.uint32) for layer in layers for array in layer.arrays]
        return [np.array(array, copy=False).ctypes.data for array in arrays]

    before = places()
    run(model, IDS[:250], cache=cache)
    assert places() == before


def watched(monkeypatch: pytest.MonkeyPatch, enter: Any) -> None:
    """Call `enter` with the path of every file that is opened, while it is open."""
    real = state_file.opened

    @contextmanager
    def opened(path):
        with real(path) as both:
            enter(path)
            yield both

    monkeypatch.setattr(state_file, "opened", opened)


def count(folder: str) -> int:
    """Entries of a folder; skips the test where there is no such folder."""
    if not Path(folder).is_dir():
        pytest.skip(f"counts by {folder}")
    return len(list(Path(folder).iterdir()))


def test_no_more_files_are_open_than_readers(model, tmp_path, monkeypatch):
    states = kept(model, tmp_path, *STOPS)
    counts, one = [], threading.Lock()

    def note(_: Path) -> None:
        time.sleep(0.01)  # so that others come too
        with one:
            counts.append(count("/dev/fd"))

    before = count("/dev/fd")
    watched(monkeypatch, note)
    assert states.restore(IDS, model.network.make_cache()) == STOPS[-1]
    assert len(counts) > len(STOPS)
    assert 1 < max(counts) - before <= states_module.READERS
    assert count("/dev/fd") == before


def test_one_of_many_files_is_damaged_and_told(model, tmp_path):
    states = kept(model, tmp_path, *STOPS)
    bad = rows_of(tmp_path)[15]
    flip(bad)
    assert states.restore(IDS, model.network.make_cache()) == 150
    (line,) = states.notices()
    assert bad.name[:15] in line
    assert "is damaged" in line
    assert len(rows_of(tmp_path)) == len(STOPS) - 1
    assert not bad.exists()


def test_of_two_damaged_files_the_first_is_told_though_it_is_read_last(
    model, tmp_path, monkeypatch
):
    states = kept(model, tmp_path, *STOPS)
    first, second = rows_of(tmp_path)[4], rows_of(tmp_path)[6]
    flip(first)
    flip(second)
    watched(monkeypatch, lambda path: time.sleep(0.2 * (path == first)))
    assert states.restore(IDS, model.network.make_cache()) == 40
    (line,) = states.notices()
    assert first.name[:15] in line
    assert second.exists()


@pytest.mark.parametrize("what", ["layer", "width", "heads", "dtype", "rows"])
def test_a_whole_file_that_does_not_fit_its_neighbours_is_refused(model, tmp_path, what):
    states = kept(model, tmp_path, 50, 100, 150)
    path = rows_of(tmp_path)[1]
    with state_file.opened(path) as (file, header):
        tensors = {n: (e.dtype, state_file.read_tensor(file, e)) for n, e in header.tensors.items()}
    name = next(n for n in tensors if n != "tokens")
    kind, array = tensors.pop(name)
    heads, count, width = array.shape
    other = {
        "layer": {},
        "width": {name: (kind, array.reshape(heads, count * 2, width // 2))},
        "heads": {name: (kind, array.reshape(heads * 2, count, width // 2))},
        "dtype": {name: ("U32", array.view("<u4"))},
        "rows": {name: (kind, np.ascontiguousarray(array[:, 1:]))},
    }
    assert kind == "F32"
    state_file.write(path, header.metadata, {**tensors, **other[what]})
    assert states.restore(IDS, model.network.make_cache()) == 50
    (line,) = states.notices()
    assert path.name[:15] in line


def test_readers_do_not_wait_for_memory_that_does_not_come(model, tmp_path, monkeypatch):
    states = kept(model, tmp_path, 50, 100)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(mx, "eval", interrupt)
        with pytest.raises(KeyboardInterrupt):
            states.restore(IDS, model.network.make_cache())
    assert states.restore(IDS, model.network.make_cache()) == 100


def test_a_try_that_failed_holds_no_memory_while_the_next_runs(model, tmp_path, monkeypatch):
    states = kept(model, tmp_path, 50, 100, 150)
    flip(rows_of(tmp_path)[2])
    rooms: list[weakref.ref[Any]] = []

    class Watched(state_tensors.Room):
        def __init__(self, *args: Any):
            assert not [room for room in rooms if room() is not None]
            super().__init__(*args)
            rooms.append(weakref.ref(self))

    monkeypatch.setattr(state_tensors, "Room", Watched)
    gc.collect()
    gc.disable()
    try:
        assert states.restore(IDS, model.network.make_cache()) == 100
    finally:
        gc.enable()
    assert len(rooms) == 2


def test_restoring_again_and_again_starts_no_more_threads(model, tmp_path):
    states = kept(model, tmp_path, 50, 100)
    counts = []
    for _ in range(12):
        assert states.restore(IDS, model.network.make_cache()) == 100
        counts.append(count("/proc/self/task"))
    assert counts[-1] < counts[0] + states_module.READERS, counts  # some may be ending still


def test_the_state_s_own_file_is_told_after_all_rows(model, tmp_path):
    states = kept(model, tmp_path, 50, 100)
    rows, state = rows_of(tmp_path, ROWS)[1], rows_of(tmp_path, STATE)[1]
    flip(rows)
    flip(state)
    assert states.restore(IDS, model.network.make_cache()) == 50
    (line,) = states.notices()
    assert state.exists()
    assert not rows.exists()
    assert rows.name[:15] in line
