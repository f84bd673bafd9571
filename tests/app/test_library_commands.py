"""`--list`, `--export`, `--import`, `--backup`, `--rescue`: plain output, one-line errors."""

import io
import json
import shlex
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from qwen35_chat.main import main

from qwen35_mlx.library.connections import connect
from qwen35_mlx.library.conversation import Usage
from qwen35_mlx.library.exporting import to_json
from qwen35_mlx.library.library import Library
from tests.app.test_imports import HEAVY, loaded_after
from tests.library.messages import add_message, begin_reply, finish_reply


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TZ", "UTC")
    # These commands must not read it as a prompt.
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"not for us")))
    return tmp_path / "home"


@pytest.fixture
def two(folder: Path) -> Path:
    with Library(folder) as library:
        for text in ("Tea for two", "Tea\x1b[31m for one"):
            conversation = library.create(model="demo")
            question = add_message(library, conversation, None, "user", text)
            reply = begin_reply(library, conversation, question.id, "demo")
            usage = Usage(1200, 0, 34, 0.1, 0.1, 0)
            finish_reply(library, reply.id, "Gern — 😀", usage=usage)
    return folder


def test_a_list_is_a_plain_table(two: Path, capsys) -> None:
    assert main(["--list"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "ID  CHANGED           MESSAGES  TOKENS  TITLE"
    assert lines[1].startswith(" 2  20")
    assert lines[1].endswith("         2   1,234  Tea␛[31m for one")
    assert lines[2].endswith("         2   1,234  Tea for two")
    assert len(lines) == 3


def test_a_long_list_is_complete(folder: Path, capsys) -> None:
    with Library(folder) as library, library.transaction():
        for _ in range(1001):
            library.create()
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.count("(untitled)") == 1001


def test_an_empty_library(capsys) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr() == ("", "no conversations yet\n")


def test_an_export_can_be_imported(two: Path, tmp_path: Path, capsysbinary) -> None:
    assert main(["--export", "tea for t", "--format", "json"]) == 0
    exported = capsysbinary.readouterr().out
    file = tmp_path / "file.json"
    file.write_bytes(exported)
    assert main(["--import", str(file), "--again"]) == 0
    assert capsysbinary.readouterr().out == b"3\n"
    with Library(two) as library:
        assert to_json(library.conversation(3)).encode() == exported
    assert main(["--export", "3"]) == 0
    text = capsysbinary.readouterr().out.decode()
    assert text.startswith("# Tea for two\n")
    assert text.endswith("## You\n\nTea for two\n\n## Assistant\n\nGern — 😀\n")


def test_what_is_there_already_is_not_imported_again(two: Path, tmp_path: Path, capsys) -> None:
    files: list[str] = []
    for number in (1, 2):
        assert main(["--export", str(number), "--format", "json"]) == 0
        files.append(str(tmp_path / f"{number}.json"))
        Path(files[-1]).write_text(capsys.readouterr().out, encoding="utf-8")
    with Library(two) as library:  # what was changed since makes no other conversation of it
        library.rename(1, "Another title")
        add_message(library, 1, 2, "user", "And milk?")
        library.delete(2)
    assert main(["--import", files[0]]) == 0
    there = "1 conversation is there already, nothing is imported; --again adds it once more\n"
    assert capsys.readouterr() == ("", there)
    assert main(["--import", files[1]]) == 0  # was deleted
    assert capsys.readouterr().out == "3\n"
    changed = json.loads(Path(files[1]).read_text(encoding="utf-8"))
    changed["messages"][1]["content"] = "Another reply"
    Path(files[1]).write_text(json.dumps(changed), encoding="utf-8")
    assert main(["--import", files[1]]) == 0
    assert capsys.readouterr().out == "4\n"
    assert main(["--import", files[0], "--again"]) == 0
    out, err = capsys.readouterr()
    assert (out, err.partition(";")[0]) == ("5\n", "1 conversation imported")
    assert main(["--again"]) == 2


def test_an_archive_that_has_grown_adds_what_is_new(tmp_path: Path, capsys) -> None:
    rows = [
        {"id": f"{n}", "conversation_id": f"c{n}", "datetime_utc": f"2024-01-0{n}T00:00:00"}
        | {"model": "m", "prompt": f"question {n}", "response": f"answer {n}"}
        for n in (1, 2, 3)
    ]
    file = tmp_path / "logs.json"
    file.write_text(json.dumps(rows[:2]), encoding="utf-8")
    assert main(["--import", str(file)]) == 0
    file.write_text(json.dumps(rows), encoding="utf-8")
    assert main(["--import", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out == "1\n2\n3\n"
    assert "1 conversation imported, 2 there already; " in err


def test_a_backup_is_made_while_the_library_is_open(
    two: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    with Library(two):
        assert main(["--backup", str(tmp_path / "copy.db")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"2 conversations are in {tmp_path}/copy.db: to use it, ")
    assert err == ""
    (tmp_path / "new").mkdir()
    (tmp_path / "copy.db").rename(tmp_path / "new" / "library.db")
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path / "new"))
    assert main(["--export", "tea for t"]) == 0
    assert capsys.readouterr().out.startswith("# Tea for two\n")


def test_a_rescue_says_what_came_back(two: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    with closing(connect(two / "library.db")) as db:
        db.execute("UPDATE messages SET checksum = 0 WHERE id = 1")
    damaged = tmp_path / "damaged.db"
    shutil.copy(two / "library.db", damaged)
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path / "new"))
    assert main(["--rescue", str(damaged)]) == 0
    out, err = capsys.readouterr()
    assert out == "2 of 2 conversations rescued, 1 with gaps: 1 (Tea for two)\n"
    assert err == ""
    assert main(["--rescue", str(damaged)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("2 of 2 conversations rescued, 2 of them there already, 1 with gaps: 1 (")
    with Library(tmp_path / "new") as library:
        assert library.count() == 2


def test_a_damaged_library_that_was_put_aside_is_rescued(two: Path, capsys) -> None:
    """As the error says."""
    file = two / "library.db"
    data = file.read_bytes()
    file.write_bytes(bytes(4096) + data[4096:])
    assert main(["--list"]) == 2
    command = capsys.readouterr().err.strip().partition("qwen35-chat ")[2]
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out == "2 of 2 conversations rescued\n"
    assert main(["--list"]) == 0
    assert "Tea for two" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--export", "coffee"], "no conversation is called 'coffee'"),
        (["--export", ""], "no conversation is called ''"),
        (["--export", "tea"], "2 conversations are called 'tea': say which by its id: 2 "),
        (["--export", "1", "--format", "pdf"], "--format"),
        (["--export"], "--export"),
        (["--list", "--export", "1"], "not allowed with"),
        (["--import", "no/such/file"], "no/such/file cannot be read: No such file"),
        (["--import", "."], ". cannot be read: not a regular file"),
        (["--import", ""], "--import is empty"),
        (["--backup", ""], "--backup is empty"),
        (["--backup", "/"], "/ exists: give another name"),
        (["--backup", "no/such/file"], "no/such/file cannot be written: No such file"),
        (["--backup", "x", "--list"], "not allowed with"),
        (["--backup", "x", "-p", "hi"], "--rescue use none"),
        (["--rescue", ""], "--rescue is empty"),
        (["--rescue", "no/such/file"], "no/such/file cannot be read: No such file"),
        (["--rescue", "."], "cannot be read: not a regular file"),
        (["--rescue", "/"], "/ cannot be read: not a regular file"),
        (["--rescue=-wal"], "cannot be read: not a regular file"),
        (["--rescue", "x", "--backup", "y"], "not allowed with"),
        (["--list", "-p", "hi"], "-p"),
        (["--format", "json"], "--format"),
    ],
)
def test_an_invalid_command_line(argv: list[str], named: str, two: Path, capsys) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"{}", "it has no conversation in a known format: give a file that"),
        (b'{"format": "qwen35-chat conversation"}', "the field 'version' is missing"),
        (b"", "is not JSON"),
    ],
)
def test_an_invalid_file_is_named(
    content: bytes, named: str, tmp_path: Path, folder, capsys
) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(content)
    assert main(["--import", str(file)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {file}")
    assert named in err
    with Library(folder) as library:
        assert library.count() == 0


def test_a_damaged_library_is_reported_once(folder: Path, capsys) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "library.db").write_bytes(b"damaged" * 1000)
    assert main(["--list"]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert main(["--list"]) == 0


def test_a_reader_that_closes_the_pipe(two: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "qwen35_chat.main", "--list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize("argv", [["--list"], ["--export", "1"], ["--export", "2"]])
def test_a_quick_start(two: Path, argv: list[str]) -> None:
    code = f"from qwen35_chat.main import main; assert main({argv}) == 0"
    assert not loaded_after(code) & (HEAVY | {"textual", "rich"})


def test_control_characters_do_not_reach_a_terminal(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["--export", "2"]) == 0
    assert "Tea␛[31m for one" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()


def test_the_list_has_pinned_ones_first_and_archived_ones_on_request(folder: Path, capsys) -> None:
    with Library(folder) as library:
        first, second, _ = [library.create(title=title) for title in ("one", "two", "three")]
        library.shelve(first, "pinned")
        library.shelve(second, "archived")
    assert main(["--list"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split("  ")[-1] for row in rows] == ["(pinned) one", "three"]
    assert main(["--list", "--archived"]) == 0
    assert "two" in capsys.readouterr().out
    assert main(["--list", "--archived", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["id"], row["shelf"]) == (second, "archived")
    assert main(["--archived"]) == 2
    assert "--archived is for --list" in capsys.readouterr().err
