"""The settings file: what it may say, what the app changes in it, and what a mistake leads to."""

import os
from dataclasses import fields
from pathlib import Path

import pytest
from qwen35_chat.commands import SCOPE_OF
from qwen35_chat.main import main
from qwen35_chat.screens import chat as chat_module
from qwen35_chat.screens.picker import Ask
from qwen35_chat.settings import (
    FIELDS,
    PRESETS,
    SAMPLING,
    Settings,
    parse,
    settings_file,
    shown_value,
    typed_value,
)
from qwen35_chat.settings_file import HEADER, SettingsFile
from qwen35_chat.toml_text import line_of, with_value

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.requests import Configure
from tests.app.drive import chat

FILE = Path("settings.toml")
WRITTEN = """\
# mine

model = "org/repo"  # the small one
thinking_view = "open"
folders = ["~/models", "/data/#1"]  # two

# a bit of taste
[sampling]
temperature = 0.5 # warm
top_k = 10

[keys]
new = "ctrl+y"
"""


def test_defaults_without_a_file(tmp_path: Path) -> None:
    file = SettingsFile(tmp_path / "none" / "settings.toml")
    assert file.load() == Settings()
    assert file.settings.model == "demo"
    assert not (tmp_path / "none").exists()  # reading makes nothing


def test_everything_that_can_be_set() -> None:
    assert parse(WRITTEN, FILE, SCOPE_OF) == Settings(
        model="org/repo",
        thinking_view="open",
        folders=("~/models", "/data/#1"),
        sampling={"temperature": 0.5, "top_k": 10},
        keys={"new": "ctrl+y"},
    )
    assert {*FIELDS, "sampling", "keys"} == {field.name for field in fields(Settings)}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model = 1", "line 1: model must be a name in quotes"),
        ('model = " "', "line 1: model must be a name in quotes"),
        ("\nsystem = false", "line 2: system must be text in quotes"),
        ('thinking = "perhaps"', 'line 1: thinking must be one of "auto", "on", "off"'),
        ("thinking = true", "line 1: thinking must be one of"),
        ('preset = "fast"', 'line 1: preset must be one of "model", "thinking", "precise"'),
        ("max_tokens = -1", "line 1: max_tokens must be a whole number from 0 to 1,000,000,000"),
        ("max_tokens = 1.5", "line 1: max_tokens must be a whole number"),
        ("max_tokens = true", "line 1: max_tokens must be a whole number"),
        ("context = 0", "line 1: context must be a whole number from 1"),
        ("context = 99999999999999999999", "line 1: context must be a whole number"),
        ('theme = "blue"', 'line 1: theme must be one of "dark", "light", "ansi"'),
        ('thinking_view = "shut"', "line 1: thinking_view must be one of"),
        ('folders = "~/models"', "line 1: folders must be a list of folders"),
        ('folders = [\n "a",\n 1,\n]', "line 1: folders must be a list of folders"),
        ('theme = "dark"\ncolour = "red"', "line 2: colour is not a setting; these are: model, "),
        ('[keyz]\nnew = "f5"', "line 1: keyz is not a setting"),
        ("sampling = 1", "line 1: sampling must be a table, [sampling]"),
        ('keys = "f5"', "line 1: keys must be a table, [keys]"),
        ("[sampling]\ntemperature = -0.1", "line 2: sampling.temperature must be a number from 0"),
        ("[sampling]\ntemperature = nan", "line 2: sampling.temperature must be a number from 0"),
        ("[sampling]\ntemperature = inf", "line 2: sampling.temperature must be a number from 0"),
        (f"[sampling]\ntemperature = {10**400}", "line 2: sampling.temperature must be a number"),
        ('[sampling]\ntop_p = "0.9"', "line 2: sampling.top_p must be a number above 0"),
        ("[sampling]\ntop_p = 0", "line 2: sampling.top_p must be a number above 0 and at most 1"),
        ("[sampling]\ntop_k = 2.0", "line 2: sampling.top_k must be a whole number"),
        ("[sampling]\nmin_p = 1.01", "line 2: sampling.min_p must be a number from 0 to 1"),
        ("[sampling]\npresence_penalty = 3", "line 2: sampling.presence_penalty must be a number"),
        ("[sampling]\nrepetition_penalty = 0", "line 2: sampling.repetition_penalty must be"),
        ("[sampling]\nheat = 1", "line 2: sampling.heat is not a setting; these are: temperature"),
        ("sampling.top_p = 2", "line 1: sampling.top_p must be a number above 0"),
        ("\nsampling = { top_p = 2 }", "line 2: sampling.top_p must be a number above 0"),
        ('[keys]\nsesions = "f5"', "line 2: keys.sesions is no command; did you mean sessions?"),
        ('[keys]\nxyzzy = "f5"', "line 2: keys.xyzzy is no command: the README lists their names"),
        ("[keys]\nnew = 5", "line 2: keys.new must be keys in quotes"),
        ('[keys]\nnew = "alt+n"', "line 2: keys.new must not need Alt"),
        ('[keys]\nnew = "ctrl+y, hyper+n"', "line 2: keys.new has 'hyper+n', which is no key"),
        ('[keys]\nnew = "n"', "line 2: keys.new has 'n', which could not be typed any more"),
        ('[keys]\nnew = "ctrl+i"', "Ctrl+I, which terminals cannot tell from Tab"),
        ('[keys]\nnew = "f7"\nundo = "F7"', "line 3: keys.undo has F7, as keys.new does"),
        ("model = \n", "Invalid value (at line 1"),
        ('model = "a"\nmodel = "b"\ntheme = "dark"', "Cannot overwrite a value (at line 2"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, named: str) -> None:
    with pytest.raises(Qwen35Error) as error:
        parse(text, FILE, SCOPE_OF)
    assert str(error.value).startswith("settings.toml")
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_the_same_key_may_act_in_different_places() -> None:
    text = '[keys]\nnew = "f7"\nmark_copy = "f7"\nsession_delete = "f7"\n'
    assert parse(text, FILE, SCOPE_OF).keys["mark_copy"] == "f7"


def test_a_letter_may_be_a_key_where_nothing_is_typed() -> None:
    assert parse('[keys]\nmark_copy = "x"\n', FILE, SCOPE_OF).keys == {"mark_copy": "x"}


@pytest.mark.parametrize(
    ("preset", "temperature", "top_p", "top_k", "presence"),
    [
        ("thinking", 1.0, 0.95, 20, 1.5),
        ("precise", 0.6, 0.95, 20, 0.0),
        ("not-thinking", 0.7, 0.8, 20, 1.5),
    ],
)
def test_presets_have_the_numbers_of_the_model_card(
    preset: str, temperature: float, top_p: float, top_k: int, presence: float
) -> None:
    sampling = Settings(preset=preset).configure().sampling
    assert dict(sampling) == {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "presence_penalty": presence,
    }


def test_single_values_go_over_the_preset_and_defaults_are_the_models() -> None:
    assert Settings().configure(7) == Configure(seed=7)
    settings = Settings(preset="precise", sampling={"top_p": 0.5}, thinking="off", max_tokens=9)
    assert settings.configure() == Configure(
        thinking=False, max_tokens=9, sampling={**PRESETS["precise"], "top_p": 0.5}
    )
    assert [shown_value(settings, f"sampling.{key}") for key in SAMPLING] == [
        "0.6", "0.5", "20", "", "0", "",
    ]  # fmt: skip


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path))
    assert settings_file() == tmp_path / "settings.toml"
    monkeypatch.delenv("QWEN35_HOME")
    assert settings_file().name == "settings.toml"
    assert "qwen35-chat" in settings_file().parts


# Changing it


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
        # A comment right above a table belongs to it.
        ("# keys\n[keys]\n", "theme", "light", 'theme = "light"\n\n# keys\n[keys]\n'),
        ("[keys] # none\n", "keys.new", "f7", '[keys] # none\nnew = "f7"\n'),
        # What looks like a table in a text is none.
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
        ("sampling = { top_k = 3 } # x\n", "sampling.top_k", 4, 'sampling = { "top_k" = 4 } # x\n'),
        ("sampling = {}\n", "sampling.top_k", 4, 'sampling = { "top_k" = 4 }\n'),
        ('"theme" = "dark"\n', "theme", "light", '"theme" = "light"\n'),
    ],
)
def test_a_value_is_put_where_it_belongs(text: str, name: str, value: object, after: str) -> None:
    assert with_value(text, name, value) == after
    table, _, key = name.rpartition(".")
    parsed = parse(after, FILE)
    assert (getattr(parsed, table)[key] if table else getattr(parsed, key)) == value


def test_the_line_of_a_value_is_found_behind_longer_ones() -> None:
    assert line_of(WRITTEN, "sampling.top_k") == 10
    assert line_of(WRITTEN, "keys") == 12
    assert line_of(WRITTEN, "theme") is None


def test_a_refused_value_changes_nothing_and_names_no_line(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(WRITTEN)
    file = SettingsFile(path, commands=SCOPE_OF)
    file.load()
    for name, value, why in (
        ("theme", "blue", "theme must be one of"),
        ("colour", "red", "colour is not a setting"),
        ("sampling.top_p", 3.0, "sampling.top_p must be"),
        ("keys.undo", "ctrl+y", r"has Ctrl\+Y, as keys.new does"),
    ):
        with pytest.raises(Qwen35Error, match=why):
            file.set(name, value)
    assert path.read_text() == WRITTEN
    assert file.settings.theme == "dark"


def test_a_change_replaces_the_file_in_one_step(tmp_path: Path, monkeypatch) -> None:
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


def test_a_link_to_the_file_stays_one(tmp_path: Path) -> None:
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


def test_the_first_change_makes_the_file_with_a_word_about_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "settings.toml"
    file = SettingsFile(path)
    file.load()
    file.set("theme", "light")
    assert path.read_text() == HEADER + 'theme = "light"\n'
    assert SettingsFile(path).load().theme == "light"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads and writes everything")
def test_a_file_that_may_not_be_read_or_written(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(WRITTEN)
    path.chmod(0)
    with pytest.raises(Qwen35Error, match=r"cannot be read \(Permission denied\)"):
        SettingsFile(path).load()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.mkdir()
    with pytest.raises(Qwen35Error, match=r"cannot be read \(Is a directory\): correct it, or"):
        SettingsFile(path).load()
    with pytest.raises(Qwen35Error, match="cannot be read"):
        SettingsFile(path).set("theme", "light")


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(b'system = "\xff"\n')
    with pytest.raises(Qwen35Error, match=r"cannot be read \(it is not UTF-8 text\)"):
        SettingsFile(path).load()


def test_a_mark_of_the_byte_order_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(b'\xef\xbb\xbftheme = "light"\r\n')
    assert SettingsFile(path).load().theme == "light"


def test_the_command_line_holds_until_the_app_changes_that_value(tmp_path: Path) -> None:
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
def test_what_a_user_types_for_a_setting(name: str, text: str, value: object) -> None:
    assert typed_value(name, text) == value


@pytest.mark.parametrize("text", ["five", "1.5", "9" * 5000])
def test_what_is_typed_and_is_no_number(text: str) -> None:
    with pytest.raises(Qwen35Error, match="max_tokens must be a whole number"):
        typed_value("max_tokens", text)


# In the app


async def test_f2_shows_and_changes_settings_at_once(home: Path) -> None:
    file = home / "settings.toml"
    file.write_text(WRITTEN)
    async with chat(home, settings=file, size=(90, 30)) as at:
        await at.press("f2")
        assert "org/repo" in at.text
        assert "loaded at the start" in at.text  # a word about the marked one
        assert f"Settings, kept in {file}"[:60] in at.text
        await at.press(*"theme", "enter")
        assert at.desk.settings.theme == "light"
        assert at.app.theme == "qwen-light"
        assert "theme is kept" in at.text
        assert file.read_text() == with_value(WRITTEN, "theme", "light")
        await at.press("ctrl+u", *"temper", "enter")
        assert isinstance(at.app.screen, Ask)
        await at.press("ctrl+u", *"hot", "enter")
        assert "must be a number, and 'hot' is none" in at.text
        await at.press("enter", "ctrl+u", *"0.25", "enter")
        assert at.desk.settings.sampling["temperature"] == 0.25
        await at.press("enter", "ctrl+u", "enter")  # back to the preset's
        assert "temperature" not in at.desk.settings.sampling
        await at.press("escape")
        assert at.engine.calls[-1] == at.desk.settings.configure()


async def test_a_setting_by_command(home: Path) -> None:
    file = home / "settings.toml"
    file.write_text(WRITTEN)
    async with chat(home, settings=file) as at:
        await at.send("/settings max_tokens 1,234")
        await at.until(lambda: at.desk.settings.max_tokens == 1234)
        assert "max_tokens: kept" in at.text
        await at.send("/settings colour red")
        await at.until(lambda: "colour is not a setting" in at.text)
        assert "line" not in at.text.split("colour is not")[0].splitlines()[-1]
        assert file.read_text() == with_value(WRITTEN, "max_tokens", 1234)


async def test_a_change_from_outside_holds_without_a_restart(home, monkeypatch) -> None:
    monkeypatch.setattr(chat_module, "SETTINGS_SECONDS", 0.01)
    file = home / "settings.toml"
    file.write_text(WRITTEN)
    async with chat(home, settings=file) as at:
        await at.turn("one", "42", thinking="hm")
        assert "hm" in at.text
        changed = with_value(WRITTEN, "theme", "light").replace('"open"', '"hidden"')
        file.write_text(changed + 'help = "f6"\n')
        await at.until(lambda: "The settings were read again" in at.text)
        assert at.app.theme == "qwen-light"
        assert "hm" not in at.text
        assert "F6 help" in at.text
        await at.press("f6")
        assert "Keys and commands" in at.text
        file.unlink()
        await at.until(lambda: at.desk.settings == Settings())


async def test_a_broken_file_keeps_the_old_settings_and_says_so_once(home, monkeypatch) -> None:
    monkeypatch.setattr(chat_module, "SETTINGS_SECONDS", 0.01)
    file = home / "settings.toml"
    file.write_text(WRITTEN)
    said: list[str] = []
    async with chat(home, settings=file) as at:
        say = at.app.chat.say
        monkeypatch.setattr(
            at.app.chat, "say", lambda text, **how: (said.append(text), say(text, **how))
        )
        file.write_text(WRITTEN + 'help = "alt+h"\n')
        await at.until(lambda: said)
        await at.pilot.pause(0.1)
        assert len(said) == 1
        assert "line 14: keys.help must not need Alt" in said[0]
        assert at.desk.settings.model == "org/repo"
        # Nor does the app write over it.
        await at.send("/theme light")
        await at.until(lambda: len(said) == 2)
        assert "line 14" in said[1]
        assert file.read_text() == WRITTEN + 'help = "alt+h"\n'
        file.write_text(WRITTEN)
        await at.until(lambda: "The settings were read again" in said)


def test_a_broken_file_at_the_start_is_said_on_one_line(home, capsys) -> None:
    (home / "settings.toml").write_text("theme = 3\n")
    assert main(["--plain"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {home}/settings.toml, line 1: theme must be one of")
    assert err.count("\n") == 1
