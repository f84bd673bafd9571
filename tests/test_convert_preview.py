"""`--dry-run`: what a conversion would write is what it writes, from headers alone."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from qwen35_mlx.checkpoint import hub as hub_module
from qwen35_mlx.checkpoint import remote
from qwen35_mlx.checkpoint.index import INDEX
from qwen35_mlx.conversion import float16
from qwen35_mlx.conversion.preview import preview_conversion
from qwen35_mlx.convert import main
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.cases import golden, listing, save, unmeasured, write
from tests.checkpoint.test_lora import Q_PROJ, pair, peft
from tests.fake_hub import REPOSITORY, FakeHub, serve, use


def half(name: str = "moe") -> tuple[dict[str, Any], dict[str, mx.array]]:
    config, tensors = golden(name)
    return config, {key: value.astype(mx.bfloat16) for key, value in tensors.items()}


def write_trunk(folder: Path) -> dict[str, mx.array]:
    """A checkpoint of two shards without its MTP head, which is returned."""
    config, tensors = half()
    head = {name: one for name, one in tensors.items() if name.startswith("mtp.")}
    write(folder, config, {name: tensors[name] for name in tensors.keys() - head}, files=2)
    return head


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "source", *half(), files=2)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def hub(
    folder: Path, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[FakeHub]]:
    monkeypatch.setattr(remote, "_PAUSE", 0.01)
    monkeypatch.setattr(remote, "_HEADER_GUESS", 1000)  # headers are longer
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with serve(folder) as (handler, address):
        use(address, monkeypatch)
        yield handler


def fetched(hub: type[FakeHub]) -> list[int]:
    """The sizes of all parts of weight files that were sent, but for headers."""
    found: list[int] = []
    for method, path, part in hub.requests:
        name = path.rpartition("/")[2]
        if method != "GET" or "/cdn/" not in path or not name.endswith(".safetensors"):
            continue
        data = (hub.folder / name).read_bytes()
        first, last = map(int, part.removeprefix("bytes=").split("-")) if part else (0, len(data))
        if last >= max(8 + int.from_bytes(data[:8], "little"), 1000):
            found.append(last + 1 - first)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quantize": True},
        {"recipe": "mixed_3_6"},
        {"quantize": True, "q_mode": "nvfp4", "dtype": "float16"},
        {"dequantize": True},
        {"dtype": "float32"},
    ],
)
@pytest.mark.parametrize("name", ["dense", "moe"])
def test_the_bytes_are_those_of_the_conversion(tmp_path: Path, name: str, options: dict[str, Any]):
    source = write(tmp_path / "source", *half(name))
    preview = preview_conversion(source, tmp_path / "out", **options)
    assert listing(tmp_path) == {"source"}
    summary = unmeasured(source, tmp_path / "out", **options)
    assert (preview.nbytes, preview.parameters) == (summary.nbytes, summary.parameters)
    assert preview.needed_bytes == summary.nbytes + (64 << 20)
    assert set(preview.warnings) >= set(summary.warnings)


def test_what_is_carried_over_is_counted_as_it_is(tmp_path: Path):
    source = write(tmp_path / "source", *half())
    unmeasured(source, tmp_path / "packed", quantize=True, q_group_size=32)
    for options in ({}, {"recipe": "8bit"}, {"dequantize": True}, {"dtype": "float32"}):
        preview = preview_conversion(tmp_path / "packed", tmp_path / "out", **options)
        summary = unmeasured(tmp_path / "packed", tmp_path / "out", **options)
        assert preview.nbytes == summary.nbytes
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("options", [{}, {"quantize": True}, {"dequantize": True}])
@pytest.mark.parametrize("stream", [False, True])
def test_no_weights_are_fetched_from_the_hub(
    folder: Path, hub: type[FakeHub], tmp_path: Path, options: dict[str, Any], stream: bool
):
    before = listing(tmp_path)
    preview = preview_conversion(REPOSITORY, tmp_path / "out", stream=stream, **options)
    assert hub.requests
    assert fetched(hub) == []
    assert not [path for _, path, _ in hub.requests if path.endswith("tokenizer.json")]
    assert listing(tmp_path) == before
    assert listing(tmp_path / "temporary") == set()
    assert preview.nbytes == preview_conversion(folder, tmp_path / "out", **options).nbytes
    assert any(row.kind == "mtp" for row in preview.rows)
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    assert preview.download_bytes == (0 if stream else sum(sizes))
    needed = preview.needed_bytes - preview.nbytes - (64 << 20)
    assert (needed > 0) == stream


@pytest.mark.parametrize("where", ["beside", "repository"])
def test_of_a_head_in_files_of_its_own_only_norms_are_fetched(
    folder: Path, hub: type[FakeHub], tmp_path: Path, where: str
):
    shutil.rmtree(folder)
    if where == "beside":
        save(folder / "mtp.safetensors", write_trunk(folder))
        preview = preview_conversion(REPOSITORY, tmp_path / "out")
    else:
        folder.mkdir()
        save(folder / "model.safetensors", write_trunk(tmp_path / "trunk"))
        preview = preview_conversion(tmp_path / "trunk", tmp_path / "out", mtp=REPOSITORY)
    # Whether its norms are w or 1 + w follows from their values, 64 or fewer of 2 bytes each.
    assert max(fetched(hub)) <= 128
    assert listing(tmp_path / "temporary") == set()
    sources = (folder, None) if where == "beside" else (tmp_path / "trunk", folder)
    expected = preview_conversion(sources[0], tmp_path / "out", mtp=sources[1])
    assert preview.rows == expected.rows
    assert any(row.kind == "mtp" for row in preview.rows)


def test_a_copy_that_is_here_needs_no_network(tmp_path: Path, folder: Path, monkeypatch: Any):
    monkeypatch.setattr(
        hub_module.stored, "copies", lambda _: [SimpleNamespace(path=folder, program="")]
    )
    monkeypatch.setattr(remote, "start_client", lambda: pytest.fail("the network is used"))
    assert preview_conversion(REPOSITORY, tmp_path / "out").download_bytes == 0


def test_a_repository_without_a_tokenizer_is_refused(
    folder: Path, hub: type[FakeHub], tmp_path: Path
):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Qwen35Error, match=r"has no tokenizer\.json"):
        preview_conversion(REPOSITORY, tmp_path / "out")
    assert listing(tmp_path / "temporary") == set()


def test_gguf_files_on_the_hub_are_refused(folder: Path, hub: type[FakeHub], tmp_path: Path):
    for file in folder.iterdir():
        file.unlink()
    (folder / "m-Q4_K_M.gguf").touch()
    for name in (REPOSITORY, f"{REPOSITORY}:Q4_K_M"):
        with pytest.raises(Qwen35Error, match="read in parts: leave out --dry-run"):
            preview_conversion(name, tmp_path / "out")


def test_a_damaged_index_is_refused_in_one_line(folder: Path, hub: type[FakeHub], tmp_path: Path):
    (folder / INDEX).write_bytes(b"\xff" * 300)
    with pytest.raises(Qwen35Error, match=INDEX) as caught:
        preview_conversion(REPOSITORY, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert listing(tmp_path / "temporary") == set()


def test_weights_are_not_read_to_choose_float16(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(float16, "lacks_bfloat16", lambda: True)
    monkeypatch.setattr(float16, "activation_problem", lambda _: pytest.fail("weights are read"))
    preview = preview_conversion(folder, tmp_path / "out")
    assert any("reads the weights, and writes float16" in line for line in preview.warnings)
    preview = preview_conversion(folder, tmp_path / "out", dtype="float16")
    assert any("float16 is checked by the conversion" in line for line in preview.warnings)


def test_the_command_prints_the_table_and_what_comes_next(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
):
    out = tmp_path / "out"
    arguments = ["--hf-path", str(folder), "--mlx-path", str(out), "-q", "--dry-run"]
    assert main([*arguments, "--no-verify", "--resume"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["kind", "tensors", "format", "bits/weight", "bytes"]
    assert any(line.startswith("all ") for line in printed)
    assert [line.split()[0] for line in printed[-3:]] == ["Memory", "Disk:", "Nothing"]
    assert listing(tmp_path) == {"source"}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    out.mkdir()
    (out / "mine").touch()
    assert main(arguments) == 0
    warnings = capsys.readouterr().err
    assert "has no room for it" in warnings
    assert f"{out} exists already" in warnings
    assert main([*arguments, "--gguf", "m.gguf"]) == 2
    assert "leave out --gguf" in capsys.readouterr().err


def test_options_are_checked_as_for_a_conversion(tmp_path: Path, folder: Path):
    with pytest.raises(Qwen35Error, match="exclude each other"):
        preview_conversion(folder, tmp_path / "out", quantize=True, dequantize=True)
    with pytest.raises(Qwen35Error, match="add -q"):
        preview_conversion(folder, tmp_path / "out", q_bits=4)


def test_kinds_are_the_same_under_the_names_of_hugging_face(folder: Path):
    """Where the gates and the up projections of all experts are one tensor."""
    found = [
        {row.kind: row.parameters for row in preview_conversion(folder, dequantize=one).rows}
        for one in (False, True)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("options", [{}, {"quantize": True}])
def test_an_adapter_that_leaves_a_matrix_as_quantised_as_it_was(
    tmp_path: Path, options: dict[str, Any]
):
    source = write(tmp_path / "source", *half("dense"))
    unmeasured(source, tmp_path / "packed", quantize=True, q_bits=8, q_group_size=32)
    adapter = peft(tmp_path / "adapter", pair(Q_PROJ, 256, 64))
    options = {"adapter_path": adapter, **options}
    preview = preview_conversion(tmp_path / "packed", tmp_path / "out", **options)
    summary = unmeasured(tmp_path / "packed", tmp_path / "out", **options)
    assert preview.nbytes == summary.nbytes
    assert any("adapter" in line for line in preview.warnings)
