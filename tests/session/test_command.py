"""`python -m qwen35_mlx.session`: info, prune and verify."""

import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from qwen35_mlx.library.library import Library
from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.prompt_cache import prefix_tree
from qwen35_mlx.session.__main__ import main


@pytest.fixture
def folder(tmp_path):
    """A library with one conversation, and two positions of one model."""
    with Library(tmp_path) as library:
        library.create(title="Ada")
    model = tmp_path / "states" / ("0" * 32)
    model.mkdir(parents=True)
    parent = prefix_tree.root_key("0" * 32)
    for start in (0, 10):
        key = prefix_tree.child_key(parent, [start])
        segment = prefix_tree.Segment(model, start, start + 10, parent, key)
        for kind in (prefix_tree.KV, prefix_tree.STATE):
            snapshot_file.write(segment.path(kind), {}, {"a": ("F32", np.ones(500, "<f4"))})
        parent = key
    return tmp_path


def test_the_folder_may_be_named_before_or_after_the_command(tmp_path, capsys):
    for words in (["--folder", str(tmp_path), "info"], ["info", "--folder", str(tmp_path)]):
        assert main(words) == 0
        assert capsys.readouterr().out.startswith(f"{tmp_path}: no conversations yet")


def test_info_names_sizes_and_positions(folder, capsys):
    assert main(["--folder", str(folder), "info"]) == 0
    output = capsys.readouterr().out
    assert "1 conversation, " in output
    assert "2 positions, the furthest at 20 tokens" in output


def test_verify_names_the_damaged_file_and_deletes_on_request(folder, capsys):
    assert main(["--folder", str(folder), "verify"]) == 0
    assert "4 files" in capsys.readouterr().out
    damaged = sorted((folder / "states").glob("*/*"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert main(["--folder", str(folder), "verify"]) == 1
    assert f"{damaged} is damaged" in capsys.readouterr().out
    assert damaged.exists()
    assert main(["--folder", str(folder), "verify", "--delete"]) == 1
    assert not damaged.exists()
    assert main(["--folder", str(folder), "verify"]) == 0


def test_verify_reads_the_library_too(folder, capsys):
    assert main(["--folder", str(folder), "verify"]) == 0
    file = folder / "library.db"
    assert f"{file}: 1 conversation, all whole" in capsys.readouterr().out
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA writable_schema = ON")
        # An index without the entries of its table.
        (root,) = db.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'messages_by_parent'"
        ).fetchone()
        db.execute(
            "UPDATE sqlite_schema SET rootpage = ? WHERE name = 'conversations_by_change'", (root,)
        )
        db.commit()
    assert main(["--folder", str(folder), "verify"]) == 1
    output = capsys.readouterr().out
    assert "missing from index conversations_by_change" in output
    assert f"qwen35-chat --rescue FOLDER/{file.name}" in output
    file.write_bytes(b"rubbish" * 999)
    assert main(["--folder", str(folder), "verify"]) == 2
    assert "was put aside as library-damaged-" in capsys.readouterr().err


def test_a_file_that_cannot_be_deleted_is_reported(folder, capsys):
    damaged = sorted((folder / "states").glob("*/*"))[0]
    damaged.unlink()
    damaged.mkdir()
    assert main(["--folder", str(folder), "verify", "--delete"]) == 1
    assert (
        f"{damaged} cannot be read (Is a directory): cannot be deleted" in capsys.readouterr().out
    )


@pytest.mark.parametrize("command", ["info", "verify", "prune"])
def test_an_empty_folder_stays_empty(tmp_path, capsys, command):
    assert main(["--folder", str(tmp_path), command]) == 0
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_prune_leaves_the_conversations(folder, capsys):
    assert main(["--folder", str(folder), "prune", "--budget", "1"]) == 0
    assert "0 states dropped" in capsys.readouterr().out
    assert main(["--folder", str(folder), "prune"]) == 0
    assert "2 states dropped" in capsys.readouterr().out
    assert not list((folder / "states").glob("*/*"))
    with Library(folder) as library:
        assert library.count() == 1


def test_a_bad_budget_is_one_line(folder, capsys):
    for given, shown in (("-1", "-1.0"), ("nan", "nan"), ("inf", "inf")):
        assert main(["--folder", str(folder), "prune", "--budget", given]) == 2
        output = capsys.readouterr().err
        assert output == f"error: --budget is {shown}: give gigabytes, 0 or more\n"


def test_the_command_imports_no_mlx(tmp_path):
    code = (
        "import sys; from qwen35_mlx.session.__main__ import main;"
        f"main(['--folder', {str(tmp_path)!r}, 'info']);"
        "sys.exit('mlx' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
