"""Small files have one-line errors; large ones are read and written in limited pieces."""

import io
import os
from pathlib import Path

import pytest

from qwen35_mlx import files
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import (
    open_regular,
    read_bytes,
    read_exactly,
    read_json_object,
    read_text,
    write_all,
    write_durably,
)


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


def test_every_kind_of_line_break_becomes_a_line_feed(tmp_path: Path):
    (tmp_path / "f").write_bytes(b"a\r\nb\rc\n")
    assert read_text(tmp_path / "f") == "a\nb\nc\n"


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_only_regular_files_are_read_and_none_is_waited_for(tmp_path: Path, put):
    put(tmp_path / "f")
    for read in (read_text, read_bytes, read_json_object):
        with pytest.raises(Qwen35Error, match=r"/f cannot be read \(not a regular file\)"):
            read(tmp_path / "f")
    (tmp_path / "link").symlink_to(tmp_path / "f")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "link")


def test_a_link_to_nothing_is_not_a_missing_file(tmp_path: Path):
    (tmp_path / "f").symlink_to("gone")
    with pytest.raises(Qwen35Error, match="it is a link to nothing"):
        read_json_object(tmp_path / "f")


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path):
    with (tmp_path / "f").open("wb") as file:
        file.truncate(1 << 40)
    for read in (read_text, read_bytes, read_json_object):
        with pytest.raises(Qwen35Error, match="1,099,511,627,776 bytes, the limit is"):
            read(tmp_path / "f")


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
