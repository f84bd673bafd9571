"""Snapshots on disk: the longest prefix is restored bit by bit, or computed again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.model.cache import Cache, Snapshot
from qwen35_mlx.prompt_cache import disk, prefix_tree
from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache
from qwen35_mlx.prompt_cache.prefix_tree import KV, STATE, PrefixTree

MODEL = "0" * 32
IDS = np.random.default_rng(1).integers(0, 500, 300).tolist()
OTHER = [*IDS[:100], *IDS[:100]]  # shares 100 tokens with IDS


def prefilled(
    model: Any, ids: list[int], *, bits: int | None = None, cache: Cache | None = None
) -> Cache:
    """A cache that holds `ids`; a given one goes on from where it is."""
    cache = cache or model.network.make_cache(kv_bits=bits)
    for _ in prefill(model.network, cache, ids[cache.offset :], 64):
        pass
    return cache


def next_logits(model: Any, cache: Cache) -> np.ndarray:
    """Logits of five tokens that follow, read at once, and of a sixth, decoded."""
    net = model.network
    many = net.logits(net(mx.array([[1, 2, 3, 4, 5]]), cache))
    one = net.logits(net(mx.array([[6]]), cache))
    return np.array(mx.concatenate([many, one], axis=1).astype(mx.float32))


def store_snapshots(
    model: Any, folder: Path, *stops: int, ids: list[int] = IDS, **options: Any
) -> DiskSnapshotCache:
    """Store snapshots of `ids` at these positions on disk."""
    states = DiskSnapshotCache(folder, MODEL, **options)
    cache = model.network.make_cache()
    for stop in stops:
        prefilled(model, ids[:stop], cache=cache)
        states.add(ids[:stop], cache.snapshot())
    states.flush()
    return states


def restore_and_run(
    model: Any, states: DiskSnapshotCache, ids: list[int]
) -> tuple[int, np.ndarray]:
    """The restored position, and the logits after all of `ids`."""
    cache = model.network.make_cache()
    position = states.restore(ids, cache)
    assert cache.offset == position
    return position, next_logits(model, prefilled(model, ids, cache=cache))


def files_of(folder: Path, kind: str = KV) -> list[Path]:
    return sorted((folder / MODEL).glob(f"*.{kind}.safetensors"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("bits", [None, 8])
def test_a_snapshot_is_restored_bit_by_bit(model_folder, tmp_path, dtype, bits):
    from qwen35_mlx.session.load import load

    model = load(model_folder, dtype=dtype)
    cache = prefilled(model, IDS[:200], bits=bits)
    states = DiskSnapshotCache(tmp_path, MODEL)
    states.add(IDS[:200], cache.snapshot())
    back = model.network.make_cache(kv_bits=bits)
    assert states.restore(IDS, back) == 200
    np.testing.assert_array_equal(next_logits(model, back), next_logits(model, cache))


def test_the_longest_proper_prefix_is_found(model, tmp_path):
    states = store_snapshots(model, tmp_path, 40, 100, 250)
    for length, found in ((300, 250), (251, 250), (250, 100), (100, 40), (40, 0), (7, 0)):
        assert states.longest_prefix(IDS[:length]) == found
        assert states.restore(IDS[:length], model.network.make_cache()) == found
    assert states.longest_prefix(OTHER) == 100
    assert states.longest_prefix([IDS[0] + 1, *IDS[1:]]) == 0


def test_each_segment_is_written_once(model, tmp_path):
    states = store_snapshots(model, tmp_path, 100, 200)
    before = states.written_bytes
    store_snapshots(model, tmp_path, 100, 150, ids=OTHER).close()
    nodes = sorted(
        (n.start, n.end) for n in (s.segment for s in prefix_tree.stored_files(tmp_path / MODEL))
    )
    assert nodes == sorted(2 * [(0, 100), (100, 200), (100, 150)])
    states.add(IDS[:100], prefilled(model, IDS[:100]).snapshot())
    states.flush()
    assert states.written_bytes == before


def test_a_branch_within_a_segment_starts_from_the_segment_before(model, tmp_path):
    states = store_snapshots(model, tmp_path, 50, 200)
    branch = [*IDS[:120], 9, 9, 9]
    position, logits = restore_and_run(model, states, branch)
    assert position == 50
    np.testing.assert_allclose(logits, next_logits(model, prefilled(model, branch)), atol=1e-4)
    states.add(branch, prefilled(model, branch).snapshot())
    assert states.restore([*branch, 1], model.network.make_cache()) == len(branch)


def test_a_turn_writes_its_own_keys_and_values_and_one_state(model, tmp_path):
    states = store_snapshots(model, tmp_path, 100, 110)
    rows = {p.name[:15]: p.stat().st_size for p in files_of(tmp_path)}
    sizes = [p.stat().st_size for p in files_of(tmp_path, STATE)]
    per_row = sum(a[0, :, 0].nbytes for a in prefilled(model, IDS[:10]).layers[3].arrays)
    layers = sum(k == "full_attention" for k in model.network.config.layer_types)
    assert rows["0000100-0000110"] - rows["0000000-0000100"] == pytest.approx(
        -90 * (per_row * layers + 4), abs=64
    )
    assert states.written_bytes == sum(rows.values()) + sum(sizes)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)


def flip_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "more").touch()  # a folder that is not empty cannot be unlinked


def make_unreadable(path: Path) -> None:
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")


def age(path: Path) -> None:
    """Rewrite the file as an earlier version would have: whole, but of another format."""
    with snapshot_file.opened(path) as (file, header):
        tensors = {
            n: (e.dtype, snapshot_file.read_tensor(file, e)) for n, e in header.tensors.items()
        }
    older, snapshot_file.FORMAT = snapshot_file.FORMAT, 0
    try:
        snapshot_file.write(path, {**header.metadata}, tensors)
    finally:
        snapshot_file.FORMAT = older


def exchange(path: Path) -> None:
    """Put another segment's content under this name: whole, but under the wrong name."""
    others = [p for p in path.parent.iterdir() if p != path and p.suffixes == path.suffixes]
    shutil.copy(others[0], path)


DAMAGES = [
    empty,
    truncate,
    flip,
    flip_header,
    replace_by_folder,
    make_unreadable,
    age,
    exchange,
    Path.unlink,
]


@pytest.fixture(scope="module")
def original(model, tmp_path_factory):
    """A folder with snapshots, and the logits after their tokens."""
    folder = tmp_path_factory.mktemp("original")
    store_snapshots(model, folder, 64, 128, 256).close()
    return folder, next_logits(model, prefilled(model, IDS))


@pytest.fixture(scope="module")
def snapshots(model) -> list[Snapshot]:
    """Those that `original` holds, as they are computed again."""
    cache = model.network.make_cache()
    return [prefilled(model, IDS[:stop], cache=cache).snapshot() for stop in (64, 128, 256)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damaged_file_is_computed_again_and_never_changes_logits(
    model, original, snapshots, tmp_path, damage
):
    original, expected = original
    for name in [p.name for p in sorted((original / MODEL).iterdir())]:
        folder = Path(shutil.copytree(original, tmp_path / damage.__name__ / name))
        damage(folder / MODEL / name)
        states = DiskSnapshotCache(folder, MODEL)
        position, logits = restore_and_run(model, states, IDS)
        # Chunks end at the same positions whatever the start, so even the last bit is the same.
        np.testing.assert_array_equal(logits, expected)
        end, start, last = int(name[8:15]), int(name[:7]), name.endswith("state.safetensors")
        if last:
            assert position == (128 if end == 256 else 256)
        else:
            assert position == start
        noticed = [line for line in states.notices() if "stored state" in line]
        touched = not last or end == 256
        # A deleted file cannot be noticed: there is no index, only file names.
        assert len(noticed) == (touched and damage is not Path.unlink), noticed
        if damage is replace_by_folder:
            assert restore_and_run(model, states, IDS)[0] == position
            assert states.notices() == []  # reported once
            continue
        # The cache heals: what is computed now is stored again.
        for snapshot in snapshots:
            states.add(IDS[: snapshot.offset], snapshot)
        assert restore_and_run(model, states, IDS)[0] == 256
        assert states.notices() == []
        states.close()


def test_tokens_are_compared_and_not_only_their_hash(model, tmp_path, monkeypatch):
    states = store_snapshots(model, tmp_path, 64)
    real = prefix_tree.child_key
    monkeypatch.setattr(prefix_tree, "child_key", lambda parent, ids: real(parent, IDS[:64]))
    other = [5] * 64 + [1]
    assert states.restore(other, model.network.make_cache()) == 0
    assert "other tokens" in states.notices()[0]


def test_snapshots_of_another_model_are_not_found(model, tmp_path):
    store_snapshots(model, tmp_path, 64).close()
    assert DiskSnapshotCache(tmp_path, "1" * 32).longest_prefix(IDS) == 0


def test_files_moved_to_another_model_are_refused(model, tmp_path):
    store_snapshots(model, tmp_path, 64).close()
    other = "1" * 32
    (tmp_path / other).mkdir()
    for path in (tmp_path / MODEL).iterdir():
        # Under the very names that this model's files would have.
        start, end, _, rest = path.name.split("-")
        name = rest.split(".", 1)[1]
        root = prefix_tree.root_key(other)
        key = prefix_tree.child_key(root, IDS[:64])
        shutil.copy(path, tmp_path / other / f"{start}-{end}-{root}-{key}.{name}")
    states = DiskSnapshotCache(tmp_path, other)
    assert states.longest_prefix(IDS) == 64
    assert states.restore(IDS, model.network.make_cache()) == 0
    assert "another model" in states.notices()[0]


def test_a_full_disk_is_reported_once_and_costs_only_the_snapshot(model, tmp_path, monkeypatch):
    states = store_snapshots(model, tmp_path, 40)

    def full(path, metadata, tensors):
        raise OSError(28, "No space left on device")

    real = snapshot_file.write
    monkeypatch.setattr(snapshot_file, "write", full)
    states.add(IDS[:100], prefilled(model, IDS[:100]).snapshot())
    states.add(IDS[:200], prefilled(model, IDS[:200]).snapshot())
    states.flush()
    (line,) = states.notices()
    assert "No space left" in line
    assert states.longest_prefix(IDS) == 40
    monkeypatch.setattr(snapshot_file, "write", real)
    states.add(IDS[:200], prefilled(model, IDS[:200]).snapshot())
    assert restore_and_run(model, states, IDS)[0] == 200


def test_snapshots_leave_the_reserve_free(model, tmp_path, monkeypatch):
    free = disk.RESERVE + 1000
    monkeypatch.setattr(disk, "disk_usage", lambda _: SimpleNamespace(free=free))
    states = store_snapshots(model, tmp_path, 40)
    assert "256 MB are free" in states.notices()[0]
    assert prefix_tree.total_bytes(tmp_path) == 0


def test_eviction_takes_the_least_recently_used_and_kv_with_its_last_state(model, tmp_path):
    store_snapshots(model, tmp_path, 100, 200).close()
    store_snapshots(model, tmp_path, 100, 150, ids=OTHER).close()
    for n, node in enumerate(
        sorted({s.segment for s in prefix_tree.stored_files(tmp_path / MODEL)}, key=str)
    ):
        os.utime(node.path(STATE), (n, n))  # 0-100, 100-150, 100-200
    tree = PrefixTree.of(tmp_path / MODEL)
    assert [s.segment.end for s in sorted(tree.states.values(), key=lambda s: s.used)] == [
        100,
        150,
        200,
    ]
    whole = prefix_tree.total_bytes(tmp_path)
    assert prefix_tree.evict(tmp_path, whole) == (0, 0)
    dropped, freed = prefix_tree.evict(tmp_path, whole - 1)
    assert (dropped, freed) == (1, whole - prefix_tree.total_bytes(tmp_path))
    left = PrefixTree.of(tmp_path / MODEL)
    assert sorted(s.segment.end for s in left.states.values()) == [150, 200]
    assert sorted(s.segment.end for s in left.kv.values()) == [100, 150, 200]
    prefix_tree.evict(tmp_path, prefix_tree.total_bytes(tmp_path) - 1)
    left = PrefixTree.of(tmp_path / MODEL)
    assert sorted(s.segment.end for s in left.states.values()) == [200]
    assert sorted(s.segment.end for s in left.kv.values()) == [100, 200]
    states = DiskSnapshotCache(tmp_path, MODEL)
    assert restore_and_run(model, states, IDS)[0] == 200
    prefix_tree.evict(tmp_path, 0)
    assert list(prefix_tree.stored_files(tmp_path / MODEL)) == []


def test_the_budget_holds_during_a_chat_and_evictions_are_reported(model, tmp_path):
    size = store_snapshots(model, tmp_path / "one", 100).written_bytes
    budget = int(2.6 * size)
    states = store_snapshots(model, tmp_path / "all", 50, 100, 150, 200, 250, budget=budget)
    assert prefix_tree.total_bytes(tmp_path / "all") <= budget
    assert any("dropped" in line for line in states.notices())
    assert states.longest_prefix(IDS) == 250


def test_a_state_larger_than_the_budget_is_not_written_but_reported(model, tmp_path):
    states = store_snapshots(model, tmp_path, 100, 200, budget=1000)
    (line,) = states.notices()
    assert "more than" in line
    assert prefix_tree.total_bytes(tmp_path) == 0


def test_removing_garbage_leaves_everything_usable_and_foreign_files(model, tmp_path):
    store_snapshots(model, tmp_path, 64, 128, 256).close()
    files_of(tmp_path)[1].unlink()  # 64-128: then 128 and 256 cannot be restored
    (tmp_path / MODEL / "notes.txt").write_text("mine")
    (tmp_path / MODEL / "0.kv.safetensors.1-a.tmp").write_bytes(b"half")
    fresh = files_of(tmp_path)[-1]
    assert prefix_tree.remove_garbage(tmp_path) == 3  # two states and the temporary file
    assert fresh.exists()  # its state may be about to be written
    os.utime(fresh, (0, 0))
    assert prefix_tree.remove_garbage(tmp_path) == 1
    names = {p.name[:15] for p in (tmp_path / MODEL).iterdir()}
    assert names == {"0000000-0000064", "notes.txt"}


def test_files_deleted_by_another_process_are_written_again(model, tmp_path):
    states = store_snapshots(model, tmp_path, 64, 128)
    for path in (tmp_path / MODEL).iterdir():
        path.unlink()
    states.add(IDS[:200], prefilled(model, IDS[:200]).snapshot())
    assert restore_and_run(model, states, IDS)[0] == 200


KILLED = """
import sys
from tests.prompt_cache.test_disk import *
from qwen35_mlx.session.load import load
model = load(sys.argv[1])
while True:
    cache = model.network.make_cache()
    states = DiskSnapshotCache(Path(sys.argv[2]), MODEL)
    for stop in range(10, 300, 10):
        prefilled(model, IDS[:stop], cache=cache)
        states.add(IDS[:stop], cache.snapshot())
        print(stop, flush=True)
    states.flush()
    prefix_tree.evict(Path(sys.argv[2]), 0)
"""


def test_a_killed_process_leaves_only_whole_files(model, model_folder, tmp_path):
    seen = set()
    for count in (1, 17, 35):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(model_folder), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for _ in range(count):
            child.stdout.readline()
        child.kill()
        child.wait()
        states = DiskSnapshotCache(tmp_path, MODEL)
        assert not list((tmp_path / MODEL).glob("*.tmp"))
        for stored in prefix_tree.stored_files(tmp_path / MODEL):
            snapshot_file.verify(stored.path)
        position, logits = restore_and_run(model, states, IDS)
        seen.add(position)
        np.testing.assert_allclose(logits, next_logits(model, prefilled(model, IDS)), atol=1e-4)
        assert states.notices() == []
        states.close()
    assert len(seen) > 1
