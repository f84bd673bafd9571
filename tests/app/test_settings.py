"""Settings: valid values, errors with their lines, and changes in the app and in the file."""

from dataclasses import fields
from pathlib import Path

import pytest
from qwen35_chat.commands import SCOPE_OF
from qwen35_chat.main import main
from qwen35_chat.screens import watchers
from qwen35_chat.screens.picker import Ask
from qwen35_chat.settings import (
    FIELDS,
    PRESETS,
    SAMPLING,
    TABLES,
    Settings,
    display_value,
    parse_value,
    setting_names,
    setting_problem,
    settings_file,
)
from qwen35_chat.settings_file import SettingsFile, with_value
from qwen35_chat.settings_text import parse_settings

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.sampling_parameters import RANGES, Range
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.session.events import Loaded
from qwen35_mlx.session.requests import Configure
from tests.app.drive import chat
from tests.app.settings_text import FILE, WRITTEN


def test_defaults_without_a_file(tmp_path: Path) -> None:
    file = SettingsFile(tmp_path / "none" / "settings.toml")
    assert file.load() == Settings()
    assert file.settings.model == "demo"
    assert not (tmp_path / "none").exists()  # reading creates nothing


def test_every_kind_of_setting_is_read() -> None:
    assert parse_settings(WRITTEN, FILE, SCOPE_OF) == Settings(
        model="org/repo",
        thinking_view="open",
        folders=("~/models", "/data/#1"),
        sampling={"temperature": 0.5, "top_k": 10},
        keys={"new": "ctrl+y"},
    )
    assert {*FIELDS, *TABLES} == {field.name for field in fields(Settings)}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model = 1", "line 1: model must be a name in quotes"),
        ('model = " "', "line 1: model must be a name in quotes"),
        ("\nsystem = false", "line 2: system must be text in quotes"),
        ('thinking = "perhaps"', 'line 1: thinking must be one of "auto", "on", "off"'),
        ("thinking = true", "line 1: thinking must be one of"),
        ('preset = "fast"', 'line 1: preset must be one of "model", "thinking", "precise"'),
        ("max_tokens = 0", "line 1: max_tokens must be -1 (no limit) or a whole number of 1 or"),
        ("max_tokens = 1.5", "line 1: max_tokens must be -1 (no limit) or a whole number"),
        ("max_tokens = true", "line 1: max_tokens must be -1 (no limit) or a whole number"),
        ("context = 0", "line 1: context must be a whole number from 1"),
        ("context = 99999999999999999999", "line 1: context must be a whole number"),
        ("thinking_budget = -2", "line 1: thinking_budget must be -1 (no limit) or a whole number"),
        ("repetition_guard = true", 'line 1: repetition_guard must be one of "on", "off"'),
        ("template_arguments = 1", "line 1: template_arguments must be a table"),
        (
            "[template_arguments]\na = 1\nb = [2020-01-01]",
            "line 3: template_arguments.b must be text, a number",
        ),
        ("[template_arguments]\na = nan", "line 2: template_arguments.a must be text, a number"),
        ('theme = "blue"', 'line 1: theme must be a theme, such as "auto"'),
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
        (
            '[keys]\nxyzzy = "f5"',
            "line 2: keys.xyzzy is no command: docs/keys.md lists their names",
        ),
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
        parse_settings(text, FILE, SCOPE_OF)
    assert str(error.value).startswith("settings.toml")
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "bounds"), RANGES.items())
def test_settings_accept_what_the_sampler_accepts(name: str, bounds: Range) -> None:
    for value in (-3, -2, 0, 1, 2, 10, 11, 99, 100) + (() if bounds.whole else (0.5, 1.01)):
        setting = f"sampling.{name}"
        assert (setting_problem(setting, value) == "") == bounds.contains(value)
    assert setting_problem("sampling.min_p", 1) == ""


def test_one_key_may_have_a_command_in_each_scope() -> None:
    text = '[keys]\nnew = "f7"\nmark_copy = "f7"\nsession_delete = "f7"\n'
    assert parse_settings(text, FILE, SCOPE_OF).keys["mark_copy"] == "f7"


def test_a_letter_is_a_valid_key_where_nothing_is_typed() -> None:
    assert parse_settings('[keys]\nmark_copy = "x"\n', FILE, SCOPE_OF).keys == {"mark_copy": "x"}


@pytest.mark.parametrize(
    ("preset", "temperature", "top_p", "top_k", "presence"),
    [
        ("thinking", 1.0, 0.95, 20, 1.5),
        ("precise", 0.6, 0.95, 20, 0.0),
        ("not-thinking", 0.7, 0.8, 20, 1.5),
    ],
)
def test_presets_have_the_values_of_the_model_card(
    preset: str, temperature: float, top_p: float, top_k: int, presence: float
) -> None:
    sampling = Settings(preset=preset).chat_settings().sampling
    assert dict(sampling) == {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "presence_penalty": presence,
    }


def test_single_values_override_the_preset_and_defaults_are_the_models_own() -> None:
    assert Settings().chat_settings(7) == ChatSettings(seed=7)
    settings = Settings(preset="precise", sampling={"top_p": 0.5}, thinking="off", max_tokens=9)
    assert settings.chat_settings() == ChatSettings(
        thinking=False, max_tokens=9, sampling={**PRESETS["precise"], "top_p": 0.5}
    )
    assert [display_value(settings, f"sampling.{key}") for key in SAMPLING] == [
        "0.6", "0.5", "20", "", "0", "",
    ]  # fmt: skip


def test_template_arguments_are_a_table_of_any_values() -> None:
    text = '[template_arguments]\neffort = "low"\ndocuments = [{ title = "a" }]\nn = 1.5\n'
    assert parse_settings("thinking_budget = 0\n" + text, FILE, SCOPE_OF) == Settings(
        thinking_budget=0,
        template_arguments={"effort": "low", "documents": [{"title": "a"}], "n": 1.5},
    )


def test_template_arguments_the_budget_and_the_guard_reach_the_engine() -> None:
    arguments = {"reasoning_effort": "low", "preserve_thinking": True}
    settings = Settings(
        template_arguments=arguments, thinking_budget=0, repetition_guard="off"
    ).chat_settings()
    assert settings == ChatSettings(
        template_arguments=arguments, thinking_budget=0, repetition_guard=False
    )


def test_template_arguments_are_typed_as_json_or_text() -> None:
    for text, value in (("high", "high"), ("3", 3), ("true", True), ('"3"', "3"), ("[1]", [1])):
        assert parse_value("template_arguments.a", text) == value
    assert parse_value("template_arguments.a", " ") is None
    settings = Settings(template_arguments={"a": "x", "c": True, "d": [1]})
    names = setting_names(settings, ("enable_thinking", "a"))[-3:]
    assert names == ["template_arguments.a", "template_arguments.c", "template_arguments.d"]
    assert [display_value(settings, name) for name in names] == ["x", "true", "[1]"]


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path))
    assert settings_file() == tmp_path / "settings.toml"
    monkeypatch.delenv("QWEN35_HOME")
    assert settings_file().name == "settings.toml"
    assert "qwen35-chat" in settings_file().parts


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
        await at.press("down", "down", "enter")
        assert at.controller.settings.theme == "light"
        assert at.app.theme == "qwen-light"
        assert "theme is light, from now on" in at.text
        assert file.read_text() == with_value(WRITTEN, "theme", "light")
        await at.press("ctrl+u", *"mtp", "enter")
        assert at.controller.settings.mtp == "off"
        assert "mtp is off, from the next start on" in at.text
        await at.press("ctrl+u", *"temper", "enter")
        assert isinstance(at.app.screen, Ask)
        await at.press("ctrl+u", *"hot", "enter")
        assert "must be a number, and 'hot' is none" in at.text
        await at.press("enter", "ctrl+u", *"0.25", "enter")
        assert at.controller.settings.sampling["temperature"] == 0.25
        await at.press("enter", "ctrl+u", "enter")  # back to the preset's
        assert "temperature" not in at.controller.settings.sampling
        await at.press("escape")
        assert at.engine.calls[-1] == Configure(at.controller.settings.chat_settings())


async def test_a_setting_by_command(home: Path) -> None:
    file = home / "settings.toml"
    file.write_text(WRITTEN)
    async with chat(home, settings=file) as at:
        await at.send("/settings max_tokens 1,234")
        await at.until(lambda: at.controller.settings.max_tokens == 1234)
        assert "max_tokens is 1234, from now on" in at.text
        await at.send("/settings colour red")
        await at.until(lambda: "colour is not a setting" in at.text)
        assert "line" not in at.text.split("colour is not")[0].splitlines()[-1]
        assert file.read_text() == with_value(WRITTEN, "max_tokens", 1234)


async def test_a_template_argument_by_command(home: Path) -> None:
    file = home / "settings.toml"
    async with chat(home, settings=file, size=(90, 46)) as at:
        await at.send("/settings template_arguments.effort low")
        await at.until(lambda: at.controller.settings.template_arguments == {"effort": "low"})
        assert at.engine.calls[-1] == Configure(at.controller.settings.chat_settings())
        assert '[template_arguments]\neffort = "low"' in file.read_text()
        await at.shown([Loaded("demo", 4096, ("enable_thinking", "preserve_thinking"))])
        await at.pilot.press("f2")
        await at.until(lambda: "template_arguments.effort" in at.text)
        assert "template_arguments.preserve_thinking" in at.text
        assert "template_arguments.enable_thinking" not in at.text


async def test_a_change_of_the_file_applies_without_a_restart(home, monkeypatch) -> None:
    monkeypatch.setattr(watchers, "SETTINGS_SECONDS", 0.01)
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
        await at.until(lambda: at.controller.settings == Settings())


async def test_a_broken_file_keeps_the_old_settings_and_is_reported_once(home, monkeypatch) -> None:
    monkeypatch.setattr(watchers, "SETTINGS_SECONDS", 0.01)
    file = home / "settings.toml"
    file.write_text(WRITTEN)
    said: list[str] = []
    async with chat(home, settings=file) as at:
        show = at.app.chat.show_message
        monkeypatch.setattr(
            at.app.chat, "show_message", lambda text, **how: (said.append(text), show(text, **how))
        )
        file.write_text(WRITTEN + 'help = "alt+h"\n')
        await at.until(lambda: said)
        await at.pilot.pause(0.1)
        assert len(said) == 1
        assert "line 14: keys.help must not need Alt" in said[0]
        assert at.controller.settings.model == "org/repo"
        # Nor does the app write over it.
        await at.send("/theme light")
        await at.until(lambda: len(said) == 2)
        assert "line 14" in said[1]
        assert file.read_text() == WRITTEN + 'help = "alt+h"\n'
        file.write_text(WRITTEN)
        await at.until(lambda: "The settings were read again" in said)


def test_a_broken_file_at_the_start_is_a_one_line_error(home, capsys) -> None:
    (home / "settings.toml").write_text("theme = 3\n")
    assert main(["--plain"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {home}/settings.toml, line 1: theme must be a theme")
    assert err.count("\n") == 1
