"""Keys as people write and see them, and keys that the settings change."""

from pathlib import Path

import pytest
from qwen35_chat.keys import key_names, shown_keys
from qwen35_chat.screens.conversations import ConversationList
from qwen35_chat.screens.page import Page

from qwen35_mlx.session.events import Answer
from tests.app.drive import chat


def settings(home: Path, text: str) -> Path:
    file = home / "settings.toml"
    file.write_text(text, encoding="utf-8")
    return file


async def test_a_remapped_key_acts_and_the_old_one_does_not(home: Path) -> None:
    file = settings(home, '[keys]\nsessions = "Ctrl+Y, F10"\nhelp = "ctrl+s"\nstop = ""\n')
    async with chat(home, settings=file, size=(100, 24)) as at:
        assert "Ctrl+Y conversations · Ctrl+S help" in at.text
        for key, screen in (
            ("ctrl+y", ConversationList),
            ("f10", ConversationList),
            ("ctrl+s", Page),
        ):
            await at.press(key)
            assert isinstance(at.app.screen, screen), key
            await at.press("escape")
        await at.press("f1")
        assert not isinstance(at.app.screen, Page)
        await at.send("one")
        await at.shown([Answer("so")])
        await at.press("escape")
        assert "cancel" not in at.engine.calls


async def test_keys_of_the_composer_of_messages_and_of_lists_are_remapped_too(home: Path) -> None:
    file = settings(
        home,
        '[keys]\nsend = "ctrl+s"\nnewline = "enter"\nmark_copy = "x"\nmessages = "f6"\n'
        'session_delete = "f7"\n',
    )
    async with chat(home, settings=file) as at:
        await at.press("a", "enter", "b", "ctrl+s")
        assert at.sent == ["a\nb"]
        await at.shown([Answer("so")])
        await at.press("f6", "x")
        assert at.app.clipboard == "so"
        await at.press("c")
        assert at.typed == "c"  # a letter like any other now
        await at.send("/sessions")
        assert at.sent == ["a\nb"]


async def test_quit_is_remapped_everywhere(home: Path) -> None:
    async with chat(home, settings=settings(home, '[keys]\nquit = "ctrl+x"\n')) as at:
        await at.press("ctrl+q")
        await at.press("ctrl+n", "ctrl+q")
        assert at.app.is_running
        await at.press("ctrl+l")
        await at.pilot.press("ctrl+x")
        await at.pilot.pause(0.05)
        assert not at.app.is_running


async def test_a_list_shows_and_obeys_its_remapped_keys(home: Path) -> None:
    file = settings(home, '[keys]\nsession_delete = "f7"\nsession_export = ""\n')
    async with chat(home, settings=file, size=(100, 30)) as at:
        await at.turn("one")
        await at.press("ctrl+s", "ctrl+d", "ctrl+o")
        assert len(at.library.list()) == 1
        assert "F7 delete" in at.text
        assert "export" not in at.text.lower()
        assert list(Path().iterdir()) == []
        await at.press("f7")
        assert not at.library.list()


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("Ctrl+S, F2", ["ctrl+s", "f2"]),
        ("Page Up", ["pageup"]),
        ("pgdn,Esc", ["pagedown", "escape"]),
        ("shift + ctrl + up", ["ctrl+shift+up"]),
        ("k,K", ["k", "K"]),
        ("shift+k", ["K"]),
        ("", []),
    ],
)
def test_keys_may_be_written_as_people_write_them(written: str, names: list[str]) -> None:
    assert key_names(written) == names


def test_keys_are_shown_as_people_write_them() -> None:
    assert shown_keys("ctrl+s,f2,pageup,k,K,ctrl+end") == "Ctrl+S, F2, Page Up, k, K, Ctrl+End"


async def test_a_key_given_to_another_command_calls_only_that(home: Path) -> None:
    file = settings(home, '[keys]\nhelp = "ctrl+s"\n')
    async with chat(home, settings=file, size=(100, 24)) as at:
        assert "/sessions conversations · Ctrl+S help" in at.text
        await at.press("ctrl+s")
        assert isinstance(at.app.screen, Page)
