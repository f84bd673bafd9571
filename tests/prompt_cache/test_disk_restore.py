"""Restoring from many files at once: every bit in place, few files open, bad files reported."""

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

from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.prompt_cache import reading
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache
from qwen35_mlx.prompt_cache.prefix_tree import KV, STATE
from qwen35_mlx.prompt_cache.tensors import RestoreBuffer
from tests.prompt_cache.test_disk import IDS, MODEL, files_of, flip, prefilled, store_snapshots

STOPS = range(10, 300, 10)


def bits(array: mx.array) -> np.ndarray:
    return np.array(array.view({2: mx.uint16, 4: mx.uint32}[array.itemsize]))


def used_bits(cache: Cache) -> list[np.ndarray]:
    """The bits of every array of a cache, without unused capacity."""
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
    from qwen35_mlx.session.load import load

    model = load(model_folder, dtype=dtype)
    cache = model.network.make_cache(kv_bits=kv_bits)
    states = DiskSnapshotCache(tmp_path, MODEL)
    for stop in (1, 70, 75, 200, 290):
        prefilled(model, IDS[:stop], cache=cache)
        states.add(IDS[:stop], cache.snapshot())
    back = model.network.make_cache(kv_bits=kv_bits)
    assert states.restore(IDS, back) == 290
    expected = used_bits(cache)
    for got, wanted in zip(used_bits(back), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert [a.dtype for a in back.arrays] == [a.dtype for a in cache.arrays]
    assert any(array.any() for array in expected)


def test_the_first_tokens_after_a_restore_are_written_in_place(model, tmp_path):
    states = store_snapshots(model, tmp_path, 100, 200)
    cache = model.network.make_cache()
    states.restore(IDS, cache)

    def places() -> list[int]:
        layers = [layer for layer in cache.layers if isinstance(layer, KVCache)]
        arrays = [array.view(mx.uint32) for layer in layers for array in layer.arrays]
        return [np.array(array, copy=False).ctypes.data for array in arrays]

    before = places()
    prefilled(model, IDS[:250], cache=cache)
    assert places() == before


def call_on_open(monkeypatch: pytest.MonkeyPatch, enter: Any) -> None:
    """Call `enter` with the path of every file that is opened, while it is open."""
    real = snapshot_file.opened

    @contextmanager
    def opened(path):
        with real(path) as both:
            enter(path)
            yield both

    monkeypatch.setattr(snapshot_file, "opened", opened)


def count_entries(folder: str) -> int:
    """Number of entries of a folder; skips the test on systems without it."""
    if not Path(folder).is_dir():
        pytest.skip(f"counts by {folder}")
    return len(list(Path(folder).iterdir()))


def test_each_reader_has_one_file_open(model, tmp_path, monkeypatch):
    states = store_snapshots(model, tmp_path, *STOPS)
    counts, one = [], threading.Lock()

    def note(_: Path) -> None:
        time.sleep(0.01)  # so that other readers open theirs meanwhile
        with one:
            counts.append(count_entries("/dev/fd"))

    before = count_entries("/dev/fd")
    call_on_open(monkeypatch, note)
    assert states.restore(IDS, model.network.make_cache()) == STOPS[-1]
    assert len(counts) > len(STOPS)
    assert 1 < max(counts) - before <= reading.READERS
    assert count_entries("/dev/fd") == before


def test_one_damaged_file_of_many_is_reported(model, tmp_path):
    states = store_snapshots(model, tmp_path, *STOPS)
    bad = files_of(tmp_path)[15]
    flip(bad)
    assert states.restore(IDS, model.network.make_cache()) == 150
    (line,) = states.notices()
    assert bad.name[:15] in line
    assert "is damaged" in line
    assert len(files_of(tmp_path)) == len(STOPS) - 1
    assert not bad.exists()


def test_the_first_of_two_damaged_files_is_reported_though_it_is_read_last(
    model, tmp_path, monkeypatch
):
    states = store_snapshots(model, tmp_path, *STOPS)
    first, second = files_of(tmp_path)[4], files_of(tmp_path)[6]
    flip(first)
    flip(second)
    call_on_open(monkeypatch, lambda path: time.sleep(0.2 * (path == first)))
    assert states.restore(IDS, model.network.make_cache()) == 40
    (line,) = states.notices()
    assert first.name[:15] in line
    assert second.exists()


@pytest.mark.parametrize("what", ["layer", "width", "heads", "dtype", "rows"])
def test_a_whole_file_that_does_not_fit_its_neighbours_is_refused(model, tmp_path, what):
    states = store_snapshots(model, tmp_path, 50, 100, 150)
    path = files_of(tmp_path)[1]
    with snapshot_file.opened(path) as (file, header):
        tensors = {
            n: (e.dtype, snapshot_file.read_tensor(file, e)) for n, e in header.tensors.items()
        }
    name = next(n for n in tensors if n != "tokens")
    kind, array = tensors.pop(name)
    heads, rows, width = array.shape
    other = {
        "layer": {},
        "width": {name: (kind, array.reshape(heads, rows * 2, width // 2))},
        "heads": {name: (kind, array.reshape(heads * 2, rows, width // 2))},
        "dtype": {name: ("U32", array.view("<u4"))},
        "rows": {name: (kind, np.ascontiguousarray(array[:, 1:]))},
    }
    assert kind == "F32"
    snapshot_file.write(path, header.metadata, {**tensors, **other[what]})
    assert states.restore(IDS, model.network.make_cache()) == 50
    (line,) = states.notices()
    assert path.name[:15] in line


def test_readers_end_when_the_memory_cannot_be_allocated(model, tmp_path, monkeypatch):
    states = store_snapshots(model, tmp_path, 50, 100)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(mx, "eval", interrupt)
        with pytest.raises(KeyboardInterrupt):
            states.restore(IDS, model.network.make_cache())
    assert states.restore(IDS, model.network.make_cache()) == 100


def test_a_failed_attempt_frees_its_memory_before_the_next(model, tmp_path, monkeypatch):
    states = store_snapshots(model, tmp_path, 50, 100, 150)
    flip(files_of(tmp_path)[2])
    buffers: list[weakref.ref[Any]] = []

    class Watched(RestoreBuffer):
        def __init__(self, *args: Any):
            assert not [buffer for buffer in buffers if buffer() is not None]
            super().__init__(*args)
            buffers.append(weakref.ref(self))

    monkeypatch.setattr(reading, "RestoreBuffer", Watched)
    gc.collect()
    gc.disable()
    try:
        assert states.restore(IDS, model.network.make_cache()) == 100
    finally:
        gc.enable()
    assert len(buffers) == 2


def test_repeated_restores_do_not_accumulate_threads(model, tmp_path):
    states = store_snapshots(model, tmp_path, 50, 100)
    counts = []
    for _ in range(12):
        assert states.restore(IDS, model.network.make_cache()) == 100
        counts.append(count_entries("/proc/self/task"))
    assert counts[-1] < counts[0] + reading.READERS, counts  # some may still be ending


def test_a_damaged_state_is_reported_only_after_all_keys_and_values(model, tmp_path):
    states = store_snapshots(model, tmp_path, 50, 100)
    rows, state = files_of(tmp_path, KV)[1], files_of(tmp_path, STATE)[1]
    flip(rows)
    flip(state)
    assert states.restore(IDS, model.network.make_cache()) == 50
    (line,) = states.notices()
    assert state.exists()
    assert not rows.exists()
    assert rows.name[:15] in line
