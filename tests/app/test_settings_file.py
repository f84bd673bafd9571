"""The settings file as the app edits it: one value at a time, atomically, and nothing else."""

import os
from pathlib import Path

import pytest
from qwen35_chat.commands import SCOPE_OF
from qwen35_chat.settings import (
    parse_value,
)
from qwen35_chat.settings_file import HEADER, SettingsFile, with_value
from qwen35_chat.settings_text import line_of, parse_settings

from qwen35_mlx.errors import Qwen35Error
from tests.app.settings_text import FILE, WRITTEN

SEVERAL_LINES = '''
folders = [
  "a",
  # theme = 1
]
system = """
theme = 2
"""
theme = 3
sampling = { top_p = 1, top_k = [
] }
'''


@pytest.mark.parametrize(
    ("name", "value", "old", "new"),
    [
        ("model", "demo", 'model = "org/repo"  # the', 'model = "demo"  # the'),
        ("folders", ["x # y"], '["~/models", "/data/#1"]  # two', '["x # y"]  # two'),
        ("sampling.temperature", 0.7, "temperature = 0.5 # warm", "temperature = 0.7 # warm"),
        ("sampling.temperature", None, "temperature = 0.5 # warm\n", "# warm\n"),
        ("sampling.top_k", None, "top_k = 10\n", ""),
        ("sampling.min_p", 0.1, "top_k = 10\n", "top_k = 10\nmin_p = 0.1\n"),
        ("theme", "light", "# two\n\n", '# two\ntheme = "light"\n\n'),
        ("keys.new", "f7", 'new = "ctrl+y"', 'new = "f7"'),
        ("system", 'Say "hi".\nTwice.', "# two\n", '# two\nsystem = "Say \\"hi\\".\\nTwice."\n'),
        ("max_tokens", None, "", ""),
    ],
)
def test_only_one_value_changes(name: str, value: object, old: str, new: str) -> None:
    assert with_value(WRITTEN, name, value) == WRITTEN.replace(old, new)


@pytest.mark.parametrize(
    ("text", "name", "value", "after"),
    [
        ("", "theme", "light", 'theme = "light"\n'),
        (HEADER, "theme", "light", HEADER + 'theme = "light"\n'),
        (HEADER, "sampling.top_p", 0.9, HEADER + "\n[sampling]\ntop_p = 0.9\n"),
        # A comment right above a table describes it.
        ("# keys\n[keys]\n", "theme", "light", 'theme = "light"\n\n# keys\n[keys]\n'),
        ("[keys] # none\n", "keys.new", "f7", '[keys] # none\nnew = "f7"\n'),
        # A line of a string that looks like a table.
        (
            'system = """\n[sampling]\ntop_p = 1\n"""\n[keys]\n',
            "sampling.top_p",
            0.9,
            'system = """\n[sampling]\ntop_p = 1\n"""\n[keys]\n\n[sampling]\ntop_p = 0.9\n',
        ),
        (
            'system = """\n[keys]\n"""\n',
            "theme",
            "ansi",
            'system = """\n[keys]\n"""\ntheme = "ansi"\n',
        ),
        ('system = """\na\n""" # b\n', "system", "c", 'system = "c" # b\n'),
        # Other ways to write a table.
        ("sampling.top_k = 3\n", "sampling.top_k", 4, "sampling.top_k = 4\n"),
        (
            "sampling.top_k = 3\n[keys]\n",
            "sampling.top_p",
            0.9,
            "sampling.top_k = 3\nsampling.top_p = 0.9\n[keys]\n",
        ),
        ("sampling = { top_k = 3 } # x\n", "sampling.top_k", 4, "sampling = { top_k = 4 } # x\n"),
        ("sampling = {}\n", "sampling.top_k", 4, "sampling = {top_k = 4}\n"),
        # Comments that describe the next table, or nothing.
        (
            "[sampling]\ntop_k = 3 # a\n\n# mine\n[keys]\n",
            "sampling.top_p",
            0.9,
            "[sampling]\ntop_k = 3 # a\ntop_p = 0.9\n\n# mine\n[keys]\n",
        ),
        (
            "[sampling]\n\n# mine\n[keys]\n",
            "sampling.top_p",
            0.9,
            "[sampling]\ntop_p = 0.9\n\n# mine\n[keys]\n",
        ),
        (
            "sampling.top_k = 3 # a\nsampling.min_p = 0\n",
            "sampling.top_p",
            0.9,
            "sampling.top_k = 3 # a\nsampling.min_p = 0\nsampling.top_p = 0.9\n",
        ),
        # A file that does not end in a newline.
        ('theme = "dark"', "system", "x", 'theme = "dark"\nsystem = "x"\n'),
        ('"theme" = "dark"\n', "theme", "light", '"theme" = "light"\n'),
    ],
)
def test_a_value_is_inserted_where_it_belongs(
    text: str, name: str, value: object, after: str
) -> None:
    assert with_value(text, name, value) == after
    table, _, key = name.rpartition(".")
    parsed = parse_settings(after, FILE)
    assert (getattr(parsed, table)[key] if table else getattr(parsed, key)) == value


def test_the_line_of_a_setting() -> None:
    assert line_of(WRITTEN, "sampling.top_k") == 10
    assert line_of(WRITTEN, "keys") == 12
    assert line_of(WRITTEN, "theme") is None
    assert line_of(SEVERAL_LINES, "folders") == 2
    assert line_of(SEVERAL_LINES, "system") == 6
    assert line_of(SEVERAL_LINES, "theme") == 9
    assert line_of(SEVERAL_LINES, "sampling.top_k") == 10


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("sampling.top_k = 3 # a\nsampling.min_p = 0\n", "# a\nsampling.min_p = 0\n"),
        ("sampling.top_k = 3\n", ""),
        ("  [sampling]\n  top_k = 3 #a\n", "  [sampling]\n  #a\n"),
        ("sampling = { top_k = 3, min_p = 0 } # a\n", "sampling = {  min_p = 0 } # a\n"),
    ],
)
def test_a_removed_value_leaves_its_comment(text: str, after: str) -> None:
    assert with_value(text, "sampling.top_k", None) == after
    assert parse_settings(after, FILE).sampling in ({}, {"min_p": 0})


def test_an_invalid_value_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(WRITTEN)
    file = SettingsFile(path, commands=SCOPE_OF)
    file.load()
    for name, value, why in (
        ("theme", "blue", "theme must be a theme"),
        ("colour", "red", "colour is not a setting"),
        ("sampling.top_p", 3.0, "sampling.top_p must be"),
        ("keys.undo", "ctrl+y", r"has Ctrl\+Y, as keys.new does"),
    ):
        with pytest.raises(Qwen35Error, match=why):
            file.set(name, value)
    assert path.read_text() == WRITTEN
    assert file.settings.theme == "auto"


def test_a_change_replaces_the_file_atomically(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    path = folder / "settings.toml"
    path.write_text(WRITTEN)
    path.chmod(0o600)
    file = SettingsFile(path)
    file.load()

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(Qwen35Error, match=r"No space left on device.*nothing is changed"):
            file.set("theme", "light")
    assert path.read_text() == WRITTEN
    assert list(folder.iterdir()) == [path]
    file.set("theme", "light")
    assert 'theme = "light"' in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(folder.iterdir()) == [path]


def test_a_symbolic_link_to_the_file_is_kept(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "chat.toml"
    real.parent.mkdir()
    real.write_text(WRITTEN)
    link = tmp_path / "settings.toml"
    link.symlink_to(real)
    file = SettingsFile(link)
    file.load()
    file.set("theme", "light")
    assert link.is_symlink()
    assert 'theme = "light"' in real.read_text()


def test_the_first_change_creates_the_file_with_a_header(tmp_path: Path) -> None:
    path = tmp_path / "new" / "settings.toml"
    file = SettingsFile(path)
    file.load()
    file.set("theme", "light")
    assert path.read_text() == HEADER + 'theme = "light"\n'
    assert SettingsFile(path).load().theme == "light"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads and writes everything")
def test_a_file_without_read_permission(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(WRITTEN)
    path.chmod(0)
    with pytest.raises(Qwen35Error, match=r"cannot be read \(Permission denied\)"):
        SettingsFile(path).load()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.mkdir()
    with pytest.raises(Qwen35Error, match=r"cannot be read \(not a regular file\): correct it, or"):
        SettingsFile(path).load()
    with pytest.raises(Qwen35Error, match="cannot be read"):
        SettingsFile(path).set("theme", "light")


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(b'system = "\xff"\n')
    with pytest.raises(Qwen35Error, match=r"cannot be read \(it is not UTF-8 text\)"):
        SettingsFile(path).load()


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(b'\xef\xbb\xbftheme = "light"\r\n')
    assert SettingsFile(path).load().theme == "light"


def test_the_command_line_overrides_the_file_until_the_app_changes_that_setting(
    tmp_path: Path,
) -> None:
    path = tmp_path / "settings.toml"
    changes = {"model": "org/named", "sampling": {"temperature": 0.1, "top_k": 1}}
    file = SettingsFile(path, changes)
    file.load()
    assert file.settings.model == "org/named"
    file.set("sampling.temperature", 0.9)
    assert file.settings.sampling == {"temperature": 0.9, "top_k": 1}
    assert file.settings.model == "org/named"
    assert "named" not in path.read_text()
    file.set("model", "demo")
    assert file.settings.model == "demo"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("theme", " light ", "light"),
        ("max_tokens", "32,000", 32000),
        ("context", "1_000", 1000),
        ("sampling.top_k", "5", 5),
        ("sampling.top_p", "0.9", 0.9),
        ("sampling.top_p", "", None),
        ("model", "", None),
        ("system", "", ""),
        ("folders", "a, ~/b c ,", ["a", "~/b c"]),
    ],
)
def test_the_value_of_what_a_user_types(name: str, text: str, value: object) -> None:
    assert parse_value(name, text) == value


@pytest.mark.parametrize("text", ["five", "1.5", "9" * 5000])
def test_typed_text_that_is_not_a_number(text: str) -> None:
    with pytest.raises(Qwen35Error, match="max_tokens must be a whole number"):
        parse_value("max_tokens", text)
