"""Parts of a split file: found by name, checked by header."""

import shutil
from pathlib import Path

import pytest

from qwen35_mlx.checkpoint.gguf.file import open_gguf
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.cases import golden
from tests.checkpoint.gguf.cases import convert, golden_gguf, write_gguf


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    write_gguf(tmp_path / "f.gguf", *convert(*golden("dense")), tensors_per_part=30)
    return sorted(tmp_path.glob("*.gguf"))


def refused(path: Path) -> str:
    with pytest.raises(Qwen35Error) as caught:
        open_gguf(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_metadata_is_that_of_the_first_part(parts: list[Path]):
    assert len(parts) == 3
    for part in parts:
        file = open_gguf(part)
        assert file.paths == tuple(parts)
        assert file.metadata["qwen35.block_count"] == 5
        assert {tensor.path for tensor in file.tensors.values()} == set(parts)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_part_is_named(parts: list[Path], number: int):
    parts[number].unlink()
    message = refused(parts[(number + 1) % 3])
    assert message == f"{parts[number]} is missing, one of 3 parts: fetch it"


def test_a_part_under_another_name(parts: list[Path], tmp_path: Path):
    renamed = parts[0].rename(tmp_path / "model.gguf")
    assert "is one of 3 parts, which are found by names such as NAME-00001-of-00003" in refused(
        renamed
    )


def test_parts_in_the_wrong_order(parts: list[Path]):
    shutil.copy(parts[1], parts[2])
    assert f"{parts[2]} is part 2 of 3 by its header" in refused(parts[0])


def test_a_part_of_another_split(parts: list[Path], tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    metadata, arrays = convert(*golden("dense"))
    write_gguf(other / "f.gguf", metadata, dict(list(arrays.items())[:70]), tensors_per_part=30)
    shutil.copy(other / parts[2].name, parts[2])
    assert "tensors where 'split.tensors.count' is" in refused(parts[0])


def test_a_single_file_may_be_named_like_a_part(tmp_path: Path):
    path = golden_gguf(tmp_path / "f-00001-of-00002.gguf")
    assert open_gguf(path).paths == (path,)


def test_a_split_file_behind_a_link(parts: list[Path], tmp_path: Path):
    folder = tmp_path / "links"
    folder.mkdir()
    for part in parts:
        (folder / part.name).symlink_to(part)
    assert open_gguf(folder / parts[1].name).paths[0].parent == folder


def test_a_vocabulary_alone_is_no_model(tmp_path: Path):
    metadata, _ = convert(*golden("dense"))
    assert "has no weights" in refused(write_gguf(tmp_path / "f.gguf", metadata, {}))
