"""A snapshot's file is complete or missing, and every damaged byte is found."""

import errno
import fcntl
import hashlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

from qwen35_mlx.prompt_cache import file as state_file
from qwen35_mlx.prompt_cache.file import UnusableError

TENSORS = {
    "tokens": ("I32", np.arange(5, dtype="<i4")),
    "layers.0.rows.0": ("BF16", np.arange(12, dtype="<u2").reshape(2, 3, 2)),
    "layers.1.recurrent": ("F32", np.linspace(-1, 1, 6, dtype="<f4")),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    size = state_file.write(path, {"model": "m"}, TENSORS)
    assert size == path.stat().st_size
    return path


def test_round_trip(path):
    with state_file.opened(path) as (file, header):
        assert header.metadata == {"model": "m", "format": "1"}
        for name, (dtype, array) in TENSORS.items():
            entry = header.tensors[name]
            assert entry.dtype == dtype
            np.testing.assert_array_equal(state_file.read_tensor(file, entry), array)


def test_the_format_never_changes(path):
    """Bytes that an earlier version wrote for the same tensors."""
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    assert digest == "f476d893bd69d89d66e3e498e85d8e2b"


def test_mlx_and_the_safetensors_library_read_a_file(path):
    with safe_open(path, "numpy") as opened:
        np.testing.assert_array_equal(opened.get_tensor("tokens"), np.arange(5))
        assert opened.metadata()["model"] == "m"
    loaded = mx.load(str(path))
    assert isinstance(loaded, dict)
    assert loaded["layers.0.rows.0"].dtype == mx.bfloat16
    assert loaded["layers.0.rows.0"].shape == (2, 3, 2)


def test_a_tensor_is_read_into_parts_of_a_larger_array(path):
    out = np.full((2, 8, 2), 99, "<u2")
    with state_file.opened(path) as (file, header):
        parts = [state_file.byte_view(head) for head in out[:, 4:7]]
        state_file.read_tensor(file, header.tensors["layers.0.rows.0"], parts)
    np.testing.assert_array_equal(out[:, 4:7], TENSORS["layers.0.rows.0"][1])
    assert (out[:, :4] == 99).all()
    assert (out[:, 7:] == 99).all()


def test_every_flipped_bit_is_found(path):
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(UnusableError):
            state_file.verify(path)
    path.write_bytes(whole)
    state_file.verify(path)


def test_white_space_in_the_header_counts(path):
    """The same JSON in other bytes, which only a comparison with the canonical text finds."""
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b", ", b",\n", 1))
    with pytest.raises(UnusableError, match="damaged"):
        state_file.verify(path)


def test_every_wrong_length_is_found(path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UnusableError):
            state_file.verify(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(UnusableError, match="damaged"):
        state_file.verify(path)


def test_exchanged_tensors_are_found(tmp_path):
    path = tmp_path / "b.safetensors"
    pair = {"a": ("F32", np.zeros(4, "<f4")), "b": ("F32", np.ones(4, "<f4"))}
    state_file.write(path, {}, pair)
    whole = path.read_bytes()
    path.write_bytes(whole[:-32] + whole[-16:] + whole[-32:-16])
    with pytest.raises(UnusableError, match="damaged"):
        state_file.verify(path)


def test_another_format_is_named(path, monkeypatch):
    monkeypatch.setattr(state_file, "FORMAT", 2)
    with pytest.raises(UnusableError, match="format 1, and this version reads 2"):
        state_file.verify(path)


def test_a_folder_and_a_missing_file_are_unusable(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnusableError, match="cannot be read"):
        state_file.verify(tmp_path / "folder")
    with pytest.raises(UnusableError, match="gone"):
        state_file.verify(tmp_path / "nothing")


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(file, data):
        file.write(data[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state_file, "write_all", full)
    with pytest.raises(OSError, match="No space"):
        state_file.write(tmp_path / "a.safetensors", {}, TENSORS)
    assert list(tmp_path.iterdir()) == []


def test_only_temporary_files_whose_writer_is_gone_are_removed(tmp_path):
    abandoned, active = tmp_path / "a.1-x.tmp", tmp_path / "b.2-y.tmp"
    abandoned.write_bytes(b"x")
    with active.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert state_file.remove_abandoned(tmp_path) == 1
        assert active.exists()
    assert not abandoned.exists()
    assert state_file.remove_abandoned(tmp_path) == 1


def test_a_temporary_file_removed_before_its_lock_is_created_again(tmp_path, monkeypatch):
    real, stolen = fcntl.flock, []

    def flock(file, how):
        if not stolen:
            stolen.append(next(tmp_path.glob("*.tmp")))
            stolen[0].unlink()
        real(file, how)

    monkeypatch.setattr(state_file.fcntl, "flock", flock)
    state_file.write(tmp_path / "a.safetensors", {}, TENSORS)
    state_file.verify(tmp_path / "a.safetensors")
    assert stolen
