"""A checkpoint on the Hub is converted shard by shard, to the bytes of a plain conversion.

By default few conversions are killed. For more:

    QWEN35_KILLS=30 scripts/test tests/test_convert_stream.py
"""

import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwen35_mlx.checkpoint import remote
from qwen35_mlx.checkpoint.index import INDEX
from qwen35_mlx.checkpoint.safetensors import list_tensors
from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.conversion.record import CARD, RECORD
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.cases import float8, golden, listing, save, write
from tests.fake_hub import COMMIT, REPOSITORY, FakeHub, serve, use

KILLS = int(os.environ.get("QWEN35_KILLS", "1"))
SHARDS = 5
# Some tensors of the goldens are larger, as matrices are in real models, and some are smaller.
SMALL = 4000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config, tensors = golden("moe")
    return write_shards(tmp_path / "source", config, tensors)


def write_shards(folder: Path, config: dict[str, Any], tensors: Any) -> Path:
    """A checkpoint whose shards follow the layers, as published ones do."""
    write(folder, config, tensors, files=SHARDS)
    names = sorted(
        tensors, key=lambda name: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", name)]
    )
    shards = sorted(file.name for file in folder.glob("*.safetensors"))
    cuts = [len(names) * i // SHARDS for i in range(SHARDS + 1)]
    owners: dict[str, str] = {}
    for shard, (start, stop) in zip(shards, itertools.pairwise(cuts), strict=True):
        save(folder / shard, {name: tensors[name] for name in names[start:stop]})
        owners |= dict.fromkeys(names[start:stop], shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": owners}))
    return folder


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    monkeypatch.setattr(remote, "SMALL_BYTES", SMALL)
    monkeypatch.setattr(remote, "_PAUSE", 0.01)
    monkeypatch.setattr(remote, "_HEADER_GUESS", 1000)  # headers are longer, and come in pieces
    monkeypatch.setattr(remote, "_PIECE", 3000)
    with serve(folder) as (handler, address):
        use(address, monkeypatch)
        yield handler


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a result but those that name its source."""
    names = {file.name for file in folder.iterdir()} - {RECORD, CARD}
    return {name: (folder / name).read_bytes() for name in names}


def held(tmp_path: Path) -> dict[str, int]:
    """Bytes of the whole shards that are on the disk."""
    return {f.name: f.stat().st_size for f in tmp_path.glob(f".out.source-*/{COMMIT}/shards/*.s*")}


@pytest.mark.parametrize("options", [{}, {"quantize": True}, {"dequantize": True}])
def test_a_streamed_conversion_writes_what_a_plain_one_does(
    folder: Path, hub: type[FakeHub], tmp_path: Path, options: dict[str, Any]
):
    convert(folder, tmp_path / "expected", **options)
    sizes = {file.name: file.stat().st_size for file in folder.glob("*.safetensors")}
    assert len(sizes) == SHARDS
    most: list[dict[str, int]] = [{}]

    def watch(*_: Any) -> None:
        most[0] = max(most[0], held(tmp_path), key=lambda one: sum(one.values()))

    convert(REPOSITORY, tmp_path / "out", stream=True, progress=watch, **options)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "expected")
    assert listing(tmp_path) == {"source", "expected", "out"}
    source = json.loads((tmp_path / "out" / RECORD).read_text())["source"]
    assert (source["name"], source["revision"]) == (REPOSITORY, COMMIT)
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sizes}
    assert source["sha256"] == hashes
    # Each shard came once, and all were never here together.
    whole = [path for method, path, part in hub.requests if "/cdn/" in path and not part]
    assert len(whole) == len(set(whole)) == SHARDS
    assert 1 <= len(most[0]) < SHARDS
    print(f"most held: {sum(most[0].values())} of {sum(sizes.values())} bytes")


def test_parts_of_one_matrix_in_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # One tensor per expert, and scales of their own.
    config, stored, _ = float8(*golden("moe"), block=(16, 16))
    folder = write_shards(tmp_path / "source", config, stored)
    convert(folder, tmp_path / "expected", quantize=True)
    monkeypatch.setattr(remote, "SMALL_BYTES", 0)
    with serve(folder) as (_, address):
        use(address, monkeypatch)
        convert(REPOSITORY, tmp_path / "out", quantize=True, stream=True)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "expected")


@pytest.mark.parametrize("head", ["mtp.safetensors", "model-mtp.safetensors"])
def test_an_mtp_head_in_a_file_of_its_own(
    folder: Path, hub: type[FakeHub], tmp_path: Path, head: str
):
    _, tensors = golden("moe")
    trunk = {name: tensor for name, tensor in tensors.items() if not name.startswith("mtp.")}
    shutil.rmtree(folder)
    write_shards(folder, golden("moe")[0], trunk)
    save(folder / head, {name: tensors[name] for name in tensors.keys() - trunk.keys()})
    convert(folder, tmp_path / "expected")
    assert (tmp_path / "expected" / "mtp.safetensors").exists()
    convert(REPOSITORY, tmp_path / "out", stream=True)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "expected")


def test_the_disk_must_have_room_for_the_result_and_the_shards_in_work(
    folder: Path, hub: type[FakeHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    summary = convert(folder, tmp_path / "expected")
    seen: list[int] = []

    def watch(*_: Any) -> None:
        seen.append(sum(held(tmp_path).values()))

    convert(REPOSITORY, tmp_path / "out", stream=True, progress=watch)
    shutil.rmtree(tmp_path / "out")
    room = summary.nbytes + max(seen) + (64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room - 1))
    with pytest.raises(
        Qwen35Error, match=r"not enough space .* and shards of the source [\d.]+ MB"
    ):
        convert(REPOSITORY, tmp_path / "out", stream=True)
    assert listing(tmp_path) == {"source", "expected"}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room))
    convert(REPOSITORY, tmp_path / "out", stream=True)


def test_a_damaged_or_short_shard_is_named(
    folder: Path, hub: type[FakeHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    third = sorted(folder.glob("*.safetensors"))[2]
    data = third.read_bytes()
    damages = (
        (data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "arrived damaged: try again with --resume"),
        (data[:-9], "cannot be fetched|damaged|fetch"),
    )
    for damaged, words in damages:
        hub.changed = {third.name: damaged}
        with pytest.raises(Qwen35Error, match=words) as caught:
            convert(REPOSITORY, tmp_path / "new" / "out", stream=True)
        assert third.name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert listing(tmp_path) == {"source"}


def test_a_hub_that_ignores_ranges_is_named(hub: type[FakeHub], tmp_path: Path):
    hub.ignores_ranges = True
    with pytest.raises(Qwen35Error, match="the Hub sends the whole file where bytes"):
        convert(REPOSITORY, tmp_path / "out", stream=True)
    assert listing(tmp_path) == {"source"}


@pytest.mark.parametrize("spoil", ["header", "config.json", INDEX])
def test_untrusted_files_are_refused_in_one_line(
    folder: Path, hub: type[FakeHub], tmp_path: Path, spoil: str
):
    file = min(folder.glob("*.safetensors")) if spoil == "header" else folder / spoil
    file.write_bytes(b"\xff" * 300)
    with pytest.raises(Qwen35Error) as caught:
        convert(REPOSITORY, tmp_path / "out", stream=True)
    assert file.name in str(caught.value)
    assert listing(tmp_path) == {"source"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("org/repo:Q4_K_M", "has GGUF files, which cannot be read in parts"),
        ("org/repo/m.gguf", "has GGUF files, which cannot be read in parts"),
        ("nothing", "is no repository of the Hub: leave out --stream"),
        (".", "is no repository of the Hub: leave out --stream"),
    ],
)
def test_what_cannot_be_streamed(tmp_path: Path, name: str, words: str):
    with pytest.raises(Qwen35Error, match=words):
        convert(name, tmp_path / "out", stream=True)
    assert listing(tmp_path) == set()


def test_a_repository_of_gguf_files_cannot_be_streamed(
    folder: Path, hub: type[FakeHub], tmp_path: Path
):
    for file in folder.iterdir():
        file.unlink()
    (folder / "m-Q4_K_M.gguf").touch()
    with pytest.raises(Qwen35Error, match="has GGUF files, which cannot be read in parts"):
        convert(REPOSITORY, tmp_path / "out", stream=True)
    assert listing(tmp_path) == {"source"}


def test_a_tensor_is_never_read_from_a_header(folder: Path, hub: type[FakeHub], tmp_path: Path):
    shards = remote.open_remote(REPOSITORY, None, tmp_path / "work")
    one = min(folder.glob("*.safetensors")).name
    header = (shards.folder / one).read_bytes()
    assert (folder / one).read_bytes().startswith(header)
    assert len(header) == 8 + int.from_bytes(header[:8], "little")
    with pytest.raises(Qwen35Error, match="is truncated"):
        list_tensors(shards.folder / one)


def test_an_interrupted_conversion_resumes_without_the_shards_that_it_needs_no_more(
    folder: Path, hub: type[FakeHub], tmp_path: Path
):
    convert(folder, tmp_path / "expected")
    seen: list[str] = []

    def interrupt(done: int, total: int, name: str) -> None:
        seen.append(name)
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(REPOSITORY, tmp_path / "out", stream=True, progress=interrupt)
    before = held(tmp_path)
    assert before
    hub.requests.clear()
    # The process that goes on has another number.
    for left in tmp_path.glob(".out.*"):
        left.rename(left.with_name(left.name.replace(str(os.getpid()), "999999999")))
    convert(REPOSITORY, tmp_path / "out", stream=True, resume=True)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "expected")
    assert listing(tmp_path) == {"source", "expected", "out"}
    whole = {
        path.rpartition("/")[2] for _, path, part in hub.requests if "/cdn/" in path and not part
    }
    assert 0 < len(whole) < SHARDS
    assert whole.isdisjoint(before)


WORKER = """
import sys
from qwen35_mlx.checkpoint import remote
from qwen35_mlx.checkpoint.safetensors import list_tensors
from qwen35_mlx.conversion.record import CARD, RECORD
from qwen35_mlx.conversion.converter import convert
remote.SMALL_BYTES = int(sys.argv[2])
print("ready", flush=True)
convert("org/repo", sys.argv[1], quantize=True, stream=True, resume=True)
"""


def test_killed_at_random_moments_and_resumed(folder: Path, tmp_path: Path):
    convert(folder, tmp_path / "expected", quantize=True)
    expected = files_of(tmp_path / "expected")
    arguments = [sys.executable, "-c", WORKER, str(tmp_path / "out"), str(SMALL)]
    with serve(folder) as (hub, address):
        hub.seconds = 0.03  # so that a good part of the time goes into the work that is killed
        home = tmp_path / "home"
        env = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
        }

        def start() -> subprocess.Popen[str]:
            process = subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, text=True)
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            return process

        started = time.monotonic()
        assert start().wait(60) == 0
        whole = time.monotonic() - started
        shutil.rmtree(tmp_path / "out")
        rng = random.Random(KILLS)
        killed = kept = 0
        while killed < KILLS:
            process = start()
            try:
                process.wait(rng.uniform(0, whole))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
            left = listing(tmp_path) - {"source", "expected", "home", "out"}
            assert all(re.fullmatch(r"\.out\.(partial|source)-\d+", name) for name in left)
            kept += any("partial" in name for name in left)
            if not (tmp_path / "out").exists():
                assert start().wait(60) == 0
            assert files_of(tmp_path / "out") == expected
            assert listing(tmp_path) - {"home"} == {"source", "expected", "out"}
            shutil.rmtree(tmp_path / "out")
    print(f"{killed} killed, {kept} with a part of the result")
