"""Personas: files of system prompts, one of which holds in a conversation."""

from pathlib import Path
from typing import Any

import pytest
from qwen35_chat import personas
from qwen35_chat.personas import Persona, new_persona, parse_persona, read_personas
from qwen35_chat.progress import modes
from qwen35_chat.settings_file import SettingsFile

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.requests import Configure, UseModel
from tests.app.drive import Driver, chat
from tests.app.plain_drive import PlainChat

REVIEWER = """\
---
# whom it is for
name: "Code reviewer"
model: demo
preset: precise
thinking: on  # it is slow
---

You review code.

Name the worst problem first.
"""
PIRATE = "You are a pirate.\n"


@pytest.fixture
def prompts(home: Path) -> Path:
    folder = home / "prompts"
    folder.mkdir()
    (folder / "reviewer.md").write_text(REVIEWER)
    (folder / "pirate.md").write_text(PIRATE)
    return folder


def configured(at: Driver | PlainChat) -> ChatSettings:
    """The settings that the engine was given last."""
    return [call for call in at.engine.calls if isinstance(call, Configure)][-1].settings


# Files


def test_front_matter_names_the_persona_and_the_rest_is_the_prompt() -> None:
    found = parse_persona(REVIEWER, "reviewer.md")
    body = "You review code.\n\nName the worst problem first."
    given = {"preset": "precise", "thinking": "on"}
    assert found == Persona("Code reviewer", body, "reviewer.md", "demo", given)


def test_without_front_matter_all_is_prompt_and_the_file_names_it() -> None:
    assert parse_persona(PIRATE, "pirate.md") == Persona("pirate", "You are a pirate.", "pirate.md")
    rule = "First.\n---\nname: no\n---\nLast."  # a rule of Markdown within the text
    assert parse_persona(rule, "x.md").system == rule


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("---\nmodle: a\n---\nHi", "x.md, line 2: modle is no key of a prompt; these are: name,"),
        ("---\n\npreset: bold\n---\nHi", 'x.md, line 3: preset must be one of "model", "think'),
        ("---\nthinking: true\n---\nHi", 'x.md, line 2: thinking must be one of "auto", "on"'),
        ("---\nmodel:\n---\nHi", "x.md, line 2: model must be a name"),
        ("---\nname: a\nname: b\n---\nHi", "x.md, line 3: name is there twice: remove one"),
        ("---\nname: None\n---\nHi", "x.md, line 2: name cannot be 'none'"),
        ("---\nname: " + "a" * 41 + "\n---\nHi", "x.md, line 2: name must be a name of at most 40"),
        ("---\nname: a\x1b[2J\n---\nHi", "x.md, line 2: name must be a name of at most 40"),
        ("---\nname: a\nYou are kind.\n", "x.md, line 3 is not KEY: VALUE: correct it, or"),
        ("---\nname: a\n", "x.md: the front matter has no end: write --- below it"),
        ("---\nname: a\n---\n \n", "x.md has no prompt: write it below the front matter"),
    ],
)
def test_a_bad_file_is_one_line_with_file_and_key(text: str, line: str) -> None:
    with pytest.raises(Qwen35Error) as raised:
        parse_persona(text, "x.md")
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


def test_bad_files_leave_the_others(prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personas, "LARGEST_FILE", 1000)
    (prompts / "bad.md").write_text("---\nmodle: a\n---\nHi")
    (prompts / "large.md").write_text("a" * 1001)
    (prompts / "latin.md").write_bytes(b"caf\xe9")
    (prompts / "folder.md").mkdir()
    (prompts / "twice.md").write_text("---\nname: PIRATE\n---\nHi")
    (prompts / ".hidden.md").write_text("---\n")
    (prompts / "notes.txt").write_text("---\n")
    found = read_personas(prompts)
    assert [persona.name for persona in found.usable] == ["Code reviewer", "pirate"]
    assert {*found.problems} == {"bad.md", "large.md", "latin.md", "folder.md", "twice.md"}
    assert found.problems["twice.md"] == "twice.md: name is 'PIRATE', as in pirate.md: change one"
    assert found.named("REVIEWER").name == "Code reviewer"
    with pytest.raises(Qwen35Error, match=r"^latin.md cannot be read \(it is not UTF-8 text\)"):
        found.named("latin")
    with pytest.raises(Qwen35Error, match=r"^there is no prompt 'x': /prompt lists them$"):
        found.named("x")


def test_a_folder_that_is_not_there_has_none(home: Path) -> None:
    assert read_personas(home / "prompts") == personas.Personas()


# Settings of a conversation


def test_held_settings_are_over_all_others_and_never_written(home: Path) -> None:
    file = SettingsFile(home / "settings.toml", {"system": "of the command line"})
    file.set("preset", "thinking")
    file.hold({"system": "Hi", "preset": "precise"})
    assert (file.settings.system, file.settings.preset) == ("Hi", "precise")
    file.set("max_tokens", 5)
    assert (file.settings.system, file.settings.max_tokens) == ("Hi", 5)
    assert "Hi" not in (home / "settings.toml").read_text()
    file.set("preset", "model")  # another choice ends it
    assert (file.settings.preset, *file.held) == ("model", "system")
    file.hold({})
    assert file.settings.system == "of the command line"


async def test_a_persona_holds_in_its_conversation_alone(home: Path, prompts: Path) -> None:
    async with chat(home, settings=home / "settings.toml") as at:
        await at.send("/prompt reviewer")
        assert "This conversation uses Code reviewer, preset precise, thinking on" in at.text
        assert ("prompt: Code reviewer", "Code reviewer") in modes(at.controller)
        now = configured(at)
        assert now.system == "You review code.\n\nName the worst problem first."
        assert (now.thinking, now.sampling["temperature"]) == (True, 0.6)
        await at.send("/thinking off")  # a setting of its own leaves the prompt
        assert (configured(at).system, configured(at).thinking) == (now.system, False)
        await at.press("ctrl+n")
        await at.shown()
        assert configured(at) == ChatSettings(thinking=False)
        assert [full for full, _ in modes(at.controller)] == ["thinking off"]


async def test_a_conversation_is_opened_with_its_own_prompt(home: Path, prompts: Path) -> None:
    library = Library(home)
    pirate = library.create(title="at sea", settings=ChatSettings(system="You are a pirate."))
    other = library.create(title="on land", settings=ChatSettings(system="You are a farmer."))
    async with chat(home, settings=home / "settings.toml", library=library) as at:
        for conversation, named in ((pirate, "pirate"), (other, "its own"), (None, "")):
            at.controller.open(conversation)
            await at.shown()
            assert at.controller.own_prompt == named
        at.controller.open(pirate)
        await at.shown()
        assert "pirate" in at.text
        await at.send("/thinking on")
        assert configured(at) == ChatSettings(system="You are a pirate.", thinking=True)


async def test_none_returns_to_the_settings(home: Path, prompts: Path) -> None:
    (home / "settings.toml").write_text('system = "Be brief."\n')
    async with chat(home, settings=home / "settings.toml") as at:
        await at.send("/prompt pirate")
        await at.send("/prompt none")
        assert configured(at).system == "Be brief."
        assert at.controller.own_prompt == ""


async def test_the_list_chooses_one_and_names_what_is_wrong(home: Path, prompts: Path) -> None:
    (prompts / "bad.md").write_text("---\nmodle: a\n---\nHi")
    async with chat(home, settings=home / "settings.toml") as at:
        await at.send("/prompt")
        assert "pirate  You are a pirate." in at.text
        assert "bad.md, line 2: modle is no key of a prompt" in at.text
        await at.press("p", "i", "enter")
        assert at.controller.persona == "pirate"
        await at.send("/prompt")
        assert "• pirate" in at.text
        assert "None" in at.text


async def test_an_empty_folder_says_where_it_is_and_shows_an_example(home: Path) -> None:
    async with chat(home, settings=home / "settings.toml", size=(100, 30)) as at:
        await at.send("/prompt")
        assert str(home / "prompts") in "".join(at.text.split())
        assert "name: Reviewer" in at.text


@pytest.mark.parametrize("installed", [True, False])
async def test_a_persona_brings_its_model_if_that_is_here(
    home: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, *, installed: bool
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "qwen35_chat.models.installed",
        lambda model, _: asked.append(model) or installed,
    )
    (prompts / "poet.md").write_text("---\nmodel: a/poet\n---\nRhyme.")
    async with chat(home, settings=home / "settings.toml", size=(120, 24)) as at:
        await at.send("/prompt poet")
        loads = [call.model for call in at.engine.calls if isinstance(call, UseModel)]
        assert (loads, asked) == (["a/poet"] if installed else [], ["a/poet"])
        missing = "its model a/poet is not on this machine: /model a/poet downloads it"
        assert (missing in " ".join(at.text.split())) is not installed
        assert configured(at).system == "Rhyme."
        await at.shown()
        assert at.controller.settings.model == "demo"  # the next start has its own model


async def test_another_windows_conversation_keeps_its_prompt(home: Path, prompts: Path) -> None:
    library = Library(home)
    taken = library.create(title="taken")
    async with chat(home, settings=home / "settings.toml", library=library) as at:
        at.controller.open(taken)
        await at.shown()
        at.controller.read_only = True
        await at.send("/prompt pirate")
        assert "open in another window" in at.text
        assert configured(at).system is None


def test_plain_mode_lists_and_uses_them(session: PlainChat, home: Path, prompts: Path) -> None:
    (prompts / "bad.md").write_text("---\n")
    written = session.run("/prompt", "/prompt pirate", "/prompt x", "/quit").splitlines()
    assert written == [
        "Code reviewer: You review code. Name the worst problem first.",
        "pirate: You are a pirate.",
        "Left out: bad.md: the front matter has no end: write --- below it",
        "/prompt and a name uses one here, /prompt none the settings' own again.",
        "This conversation uses pirate",
        "Error: there is no prompt 'x': /prompt lists them",
    ]
    assert configured(session).system == "You are a pirate."


def test_plain_mode_says_where_they_would_be(session: PlainChat, home: Path) -> None:
    written = session.run("/prompt", "/quit")
    assert f"Put system prompts into {home / 'prompts'}" in written
    assert "name: Reviewer" in written


def test_a_new_prompt_is_the_example_under_its_name(tmp_path: Path) -> None:
    file = new_persona(tmp_path / "prompts", "Poet")
    assert file.name == "Poet.md"
    persona = read_personas(tmp_path / "prompts").named("poet")
    assert (persona.name, persona.settings) == ("Poet", {"thinking": "on"})
    with pytest.raises(Qwen35Error, match="/prompt Poet uses it"):
        new_persona(tmp_path / "prompts", "Poet")
    for name in ("../x", ".x", "a" * 100, "none"):
        with pytest.raises(Qwen35Error, match=r"cannot be called|name"):
            new_persona(tmp_path / "prompts", name)
    assert [f.name for f in (tmp_path / "prompts").iterdir()] == ["Poet.md"]


async def test_new_before_a_name_begins_a_prompt(home: Path) -> None:
    async with chat(home, settings=home / "settings.toml") as at:
        await at.send("/prompt new Poet")
        await at.until(lambda: "then /prompt Poet uses it" in at.text)
        await at.send("/prompt Poet")
        await at.until(lambda: at.controller.persona == "Poet")
