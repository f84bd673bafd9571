"""The built-in tools read below one folder, and nowhere else."""

import os
from pathlib import Path

import pytest
from qwen35_chat.tools.calls import MAX_RESULT_BYTES, ToolResult
from qwen35_chat.tools.folder import MAX_ENTRIES, MAX_FILE_BYTES, FolderServer

from tests.app.chinese_texts import SIMPLIFIED, TRADITIONAL
from tests.app.test_documents import pdf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("outside")
    folder = tmp_path / "notes"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("one\ntwo\nthree\n")
    (folder / "sub" / "b.txt").write_text("inner")
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "up").symlink_to(tmp_path)
    (folder / "inside").symlink_to(folder / "sub")
    return folder


def call(folder: Path, name: str, **arguments: object) -> ToolResult:
    server = FolderServer(folder)
    server.start()
    return server.call(name, arguments).result(10)


def refused(folder: Path, path: object, name: str = "read_file") -> str:
    result = call(folder, name, path=path)
    assert result.error
    assert "outside" not in result.text
    return result.text


def test_files_are_listed_and_read(folder: Path) -> None:
    listed = call(folder, "list_files").text.splitlines()
    assert listed == [
        "a.txt 14",
        "inside (a link, not followed)",
        "out.txt (a link, not followed)",
        "sub/",
        "up (a link, not followed)",
    ]
    assert call(folder, "list_files", path="sub").text == "b.txt 5"
    assert call(folder, "read_file", path="./sub//b.txt") == ToolResult("inner")


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "sub/../../secret.txt",
        "..",
        "sub/..",
        "/etc/passwd",
        "//etc/passwd",
        "~/x",
        "out.txt",
        "up/secret.txt",
        "inside/b.txt",
        "up",
        "a.txt\0.png",
        "\udcff",
        "sub/" * 100,
        "missing",
        "a.txt/x",
        "",
        None,
        5,
    ],
)
def test_a_path_that_leaves_the_folder_or_leads_nowhere_is_refused(
    path: object, folder: Path
) -> None:
    assert refused(folder, path)
    if path != "":
        assert refused(folder, path, "list_files")


def test_a_link_that_is_put_in_the_way_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a name and its opening: only the opening may decide."""
    opening = os.open

    def replaced(path: object, flags: int, *more: object, **named: object) -> int:
        if path == "sub":
            (folder / "sub").rename(folder / "moved")
            (folder / "sub").symlink_to(folder.parent)
        return opening(path, flags, *more, **named)  # pyright: ignore

    monkeypatch.setattr(os, "open", replaced)
    assert refused(folder, "sub/secret.txt") == "a symbolic link is not followed"


def test_a_pipe_is_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert refused(folder, "pipe") == "it is no regular file"


def test_what_is_no_text_is_refused(folder: Path) -> None:
    (folder / "x.bin").write_bytes(b"\xff\xff\0")
    (folder / "y.bin").write_bytes(b"a\0b")
    (folder / "z.docx").write_bytes(b"no document")
    with (folder / "big").open("wb") as big:
        big.truncate(MAX_FILE_BYTES + 1)
    for name in ("x.bin", "y.bin"):
        said = "it is not text in UTF-8, UTF-16, GBK or Big5: convert it to UTF-8 first"
        assert refused(folder, name) == said
    assert refused(folder, "z.docx").startswith("it ")
    assert "the limit is" in refused(folder, "big")


@pytest.mark.parametrize(
    ("text", "codec", "encoding"),
    [
        (SIMPLIFIED[0], "gbk", "GBK"),
        (TRADITIONAL[0], "cp950", "Big5"),
        ("Grüße", "utf-16", "UTF-16"),
        ("plain", "utf-8-sig", "UTF-8 with a byte order mark"),
    ],
)
def test_files_are_read_as_those_of_a_message(
    folder: Path, text: str, codec: str, encoding: str
) -> None:
    (folder / "x.txt").write_bytes(f"{text}\n{text}".encode(codec))
    result = call(folder, "read_file", path="x.txt", first_line=2)
    assert result == ToolResult(f"[read as {encoding}]\n{text}")


@pytest.mark.parametrize("name", ["Paper.PDF", "sub/paper.pdf"])
def test_a_document_is_read_as_its_text(folder: Path, name: str) -> None:
    pytest.importorskip("pypdfium2")
    (folder / name).write_bytes(pdf("Hello", "world"))
    result = call(folder, "read_file", path=name)
    assert result == ToolResult("[page 1]\nHello\n\n[page 2]\nworld")


def test_a_long_file_is_read_in_parts_that_join_to_the_whole(folder: Path) -> None:
    text = "".join(f"line {n} äöü\n" for n in range(20_000))
    (folder / "long.txt").write_text(text)
    joined, line = "", 1
    for _ in range(20):
        part = call(folder, "read_file", path="long.txt", first_line=line).text
        assert len(part.encode()) <= MAX_RESULT_BYTES
        kept, _, note = part.rpartition("[Cut: ")
        if not note.endswith("goes on]"):
            joined += part
            break
        joined += kept
        line = int(note.partition("first_line=")[2].split()[0])
    assert joined == text


def test_a_line_that_is_longer_than_a_result_is_cut(folder: Path) -> None:
    (folder / "wide.txt").write_text("ä" * MAX_RESULT_BYTES + "\nnext")
    part = call(folder, "read_file", path="wide.txt").text
    assert len(part.encode()) <= MAX_RESULT_BYTES
    assert part.endswith("[Cut: line 1 is too long. first_line=2 goes on]")
    assert call(folder, "read_file", path="wide.txt", first_line=2).text == "next"


@pytest.mark.parametrize("line", [0, -1, 99, "2", 1.5, True])
def test_a_line_that_is_not_there(line: object, folder: Path) -> None:
    assert call(folder, "read_file", path="a.txt", first_line=line).error


def test_a_long_listing_is_cut(folder: Path) -> None:
    for n in range(MAX_ENTRIES + 5):
        (folder / "sub" / f"{n:05}").touch()
    assert call(folder, "list_files", path="sub").text.endswith("\n[6 more]")
