"""Small files have one-line errors; large ones are read and written in limited pieces."""

import io
from pathlib import Path

import pytest

from qwen35_mlx import files
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_exactly, read_json_object, read_text, write_all, write_durably


def test_a_json_object_and_a_missing_file(tmp_path: Path):
    (tmp_path / "f.json").write_text('{"a": [1, "ä"]}', encoding="utf-8")
    assert read_json_object(tmp_path / "f.json") == {"a": [1, "ä"]}
    assert read_json_object(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "does not hold a JSON object"),
        (b"null", "does not hold a JSON object"),
        (b"\xff\xfe{}", "cannot be read"),
    ],
)
def test_the_error_of_a_broken_file_is_one_line_with_its_name(
    tmp_path: Path, content: bytes, says: str
):
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(Qwen35Error, match=rf"f\.json {says}.*: download it again$") as caught:
        read_json_object(tmp_path / "f.json")
    assert "\n" not in str(caught.value)


def test_read_text_names_an_unreadable_file(tmp_path: Path):
    with pytest.raises(Qwen35Error, match="cannot be read"):
        read_text(tmp_path)


def test_pieces_of_limited_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "MAX_IO_BYTES", 3)
    content = bytes(range(20))
    with io.FileIO(tmp_path / "f", "wb") as file:
        write_all(file, memoryview(content))
    assert (tmp_path / "f").read_bytes() == content
    out = bytearray(11)
    with io.FileIO(tmp_path / "f") as file:
        read_exactly(file, memoryview(out), 7)
    assert out == content[7:18]


def test_reading_beyond_the_end(tmp_path: Path):
    (tmp_path / "f").write_bytes(bytes(10))
    with io.FileIO(tmp_path / "f") as file, pytest.raises(EOFError, match="ends at byte 10"):
        read_exactly(file, memoryview(bytearray(8)), 3)


def test_write_durably_does_not_overwrite(tmp_path: Path):
    write_durably(tmp_path / "f", "ä")
    with pytest.raises(FileExistsError):
        write_durably(tmp_path / "f", b"other")
    assert (tmp_path / "f").read_text(encoding="utf-8") == "ä"
