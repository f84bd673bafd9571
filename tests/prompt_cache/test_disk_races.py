"""Snapshots beside writers, other windows, wrong clocks and unusual file systems."""

import errno
import fcntl
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.prompt_cache import prefix_tree, reading
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache
from qwen35_mlx.prompt_cache.prefix_tree import STATE, PrefixTree
from tests.prompt_cache.test_disk import (
    IDS,
    MODEL,
    files_of,
    prefilled,
    restore_and_run,
    store_snapshots,
)


def test_a_snapshot_written_while_the_folder_is_listed_is_found(model, tmp_path, monkeypatch):
    """It is among the pending writes or in the folder, never in neither."""
    states = store_snapshots(model, tmp_path, 64)
    listed_once, real_write, real_files = (
        threading.Event(),
        snapshot_file.write,
        prefix_tree.stored_files,
    )

    def write(*arguments: Any) -> int:
        listed_once.wait(10)
        return real_write(*arguments)

    def files(folder: Path) -> list[prefix_tree.StoredFile]:
        found = list(real_files(folder))
        listed_once.set()
        if threading.current_thread() is not states._writer:
            states.flush()  # now it is on disk, but not in the listing
        return found

    monkeypatch.setattr(snapshot_file, "write", write)
    states.add(IDS[:128], prefilled(model, IDS[:128]).snapshot())
    monkeypatch.setattr(prefix_tree, "stored_files", files)
    assert states.longest_prefix(IDS) == 128


def test_after_any_error_the_next_snapshot_is_written(model, tmp_path, monkeypatch):
    states = DiskSnapshotCache(tmp_path, MODEL)

    def broken(*_: Any) -> int:
        raise ValueError("odd")

    monkeypatch.setattr(snapshot_file, "write", broken)
    states.add(IDS[:64], prefilled(model, IDS[:64]).snapshot())
    states.flush()
    assert "cannot be saved" in states.notices()[0]
    monkeypatch.undo()
    states.add(IDS[:64], prefilled(model, IDS[:64]).snapshot())
    assert restore_and_run(model, states, IDS)[0] == 64
    states.close(10)
    assert not states._writer.is_alive()


def test_files_are_readable_by_their_owner_only(model, tmp_path):
    store_snapshots(model, tmp_path, 64).close()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / MODEL).iterdir()}
    assert modes == {0o600}


def test_snapshots_are_stored_where_files_cannot_be_locked(model, tmp_path, monkeypatch):
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    states = store_snapshots(model, tmp_path, 64, 128)
    assert states.notices() == []
    assert restore_and_run(model, states, IDS)[0] == 128
    assert not list((tmp_path / MODEL).glob("*.tmp"))


def set_used(model_folder: Path, moments: dict[int, float]) -> None:
    """Set the time of last use of the states at these positions."""
    for stored in prefix_tree.stored_files(model_folder):
        if stored.kind == STATE and stored.segment.end in moments:
            os.utime(stored.path, (moments[stored.segment.end],) * 2)


def test_the_newest_states_survive_a_clock_set_back(model, tmp_path):
    states = store_snapshots(model, tmp_path, 64, 128, 192)
    now = time.time()
    # The first two were used before the clock was set back by a year.
    set_used(tmp_path / MODEL, {64: now + 3e7, 128: now + 3.1e7, 192: now - 5})
    states.budget = prefix_tree.total_bytes(tmp_path)
    states.add(IDS[:256], prefilled(model, IDS[:256]).snapshot())
    states.flush()
    assert prefix_tree.total_bytes(tmp_path) <= states.budget
    assert states.longest_prefix(IDS) == 256
    assert {s.segment.end for s in PrefixTree.of(tmp_path / MODEL).states.values()} >= {192, 256}


def test_unneeded_files_are_removed_after_a_clock_was_set_back(model, tmp_path):
    store_snapshots(model, tmp_path, 64).close()
    for path in files_of(tmp_path, STATE):
        path.unlink()
    (kv,) = files_of(tmp_path)
    os.utime(kv, (time.time() + 3e7,) * 2)
    prefix_tree.remove_garbage(tmp_path)
    assert not kv.exists()


def test_garbage_is_not_counted_as_dropped(model, tmp_path):
    store_snapshots(model, tmp_path, 64, 128, 192).close()
    files_of(tmp_path)[1].unlink()  # 64-128: the states at 128 and 192 are lost
    assert prefix_tree.evict(tmp_path, 0)[0] == 1


def test_a_snapshot_evicted_by_another_window_during_restore_is_computed_again(
    model, tmp_path, monkeypatch
):
    states = store_snapshots(model, tmp_path, 64, 128)
    real = reading.read_snapshot

    def evict_first(*arguments: Any, **options: Any) -> Any:
        prefix_tree.evict(tmp_path, 0)
        return real(*arguments, **options)

    monkeypatch.setattr(reading, "read_snapshot", evict_first)
    assert states.restore(IDS, model.network.make_cache()) == 0
    assert "is gone" in states.notices()[0]


@pytest.mark.parametrize("where", ["folder", "parent"])
def test_a_linked_folder_works_like_any_other(model, tmp_path, where):
    real = tmp_path / "real" / "states"
    real.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(real if where == "folder" else real.parent, target_is_directory=True)
    folder = link if where == "folder" else link / "states"
    store_snapshots(model, folder, 64, 128).close()
    assert prefix_tree.total_bytes(real) > 0
    assert restore_and_run(model, DiskSnapshotCache(real, MODEL), IDS)[0] == 128
    assert prefix_tree.evict(folder, 0)[0] == 2
    assert prefix_tree.total_bytes(real) == 0


def test_a_file_in_the_place_of_the_folder_is_reported_once(model, tmp_path):
    (tmp_path / "states").touch()
    states = store_snapshots(model, tmp_path / "states", 64, 128)
    (line,) = states.notices()
    assert "cannot be saved" in line
    assert states.longest_prefix(IDS) == 0
