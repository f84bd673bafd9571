"""The keys of vim: what each does to a text, and how they live with the other keys."""

from pathlib import Path

import pytest
from qwen35_chat.vim.keys import Vim
from qwen35_chat.vim.motions import units_of

from qwen35_mlx.session.events import PrefillProgress
from tests.app.drive import Driver, chat

ESC = "\x1b"
FAMILY = "👨‍👩‍👧"


def typed(keys: str, text: str, at: int = 0) -> tuple[str, int]:
    """The text and the cursor after some keys, which begin in normal mode."""
    vim = Vim()
    vim.leave("normal")
    for key in keys:
        step = vim.press({ESC: "escape"}.get(key, key), text, at)
        if step is None:
            assert vim.mode == "insert"
            text, at = text[:at] + key + text[at:], at + len(key)
            continue
        if (edit := step.edit) is not None:
            text = text[: edit.start] + edit.text + text[edit.end :]
        assert step.cursor is not None
        at = step.cursor
    return text, at


# Where Vim 9 puts the cursor.
@pytest.mark.parametrize(
    ("keys", "text", "at"),
    [
        ("w", "one, two", 3),
        ("2w", "one, two", 5),
        ("w", "one\n\ntwo", 4),
        ("eb", "one two", 0),
        ("ee", "one two", 6),
        ("99l", "one\ntwo", 2),
        ("$", "one\ntwo", 2),
        ("2$", "one\ntwo", 6),
        ("$^", "  one", 2),
        ("$0", "  one", 0),
        ("G", "one\n  two", 6),
        ("Ggg", "  one\ntwo", 2),
        ("2G", "one\ntwo\nsix", 4),
        ("$jj", "three\nx\nthree", 12),
        ("9j", "one\ntwo", 4),
        ("fx", "a x b x", 2),
        ("2fx", "a x b x", 6),
        ("tx;", "a x b x", 5),
        ("fx;,", "a x b x", 2),
        ("$Fa", "a x b x", 0),
        ("fq", "a x\nq", 0),
    ],
)
def test_motions(keys: str, text: str, at: int):
    assert typed(keys, text) == (text, at)


# What Vim 9 leaves, also of the cursor.
@pytest.mark.parametrize(
    ("keys", "text", "result", "at"),
    [
        ("dw", "one two", "two", 0),
        ("wdw", "one two\nsix", "one \nsix", 3),
        ("d2w", "one two\nsix", "\nsix", 0),
        ("2dd", "one\ntwo\nsix", "six", 0),
        ("jjdd", "one\ntwo\n  six", "one\ntwo", 4),
        ("jdb", "one\ntwo", "two", 0),
        ("jdb", "one two\nsix", "one \nsix", 3),
        ("wd2$", "a b\nc d\ne", "a \ne", 1),
        ("dj", "one\ntwo\nsix", "six", 0),
        ("dj", "one", "one", 0),
        ("cwX" + ESC, "one two", "X two", 0),
        ("wccX" + ESC, "  one two", "X", 0),
        ("CX" + ESC, "", "X", 0),
        ("ddp", "one\ntwo\nsix", "two\none\nsix", 4),
        ("yyP", "one", "one\none", 0),
        ("ywP", "one two", "one one two", 3),
        ("xp", "ab", "ba", 1),
        ("3x", "abcd", "d", 0),
        ("3rx", "abcd", "xxxd", 2),
        ("5rx", "abcd", "abcd", 0),
        ("daw", "one two", "two", 0),
        ("wdaw", "one two", "one", 2),
        ("lciwX" + ESC, "one two", "X two", 0),
        ("oX" + ESC, "one\ntwo", "one\nX\ntwo", 4),
        ("OX" + ESC, "one", "X\none", 0),
        ("AX" + ESC, "one\ntwo", "oneX\ntwo", 3),
        ("wIX" + ESC, "  one two", "  Xone two", 2),
        ("vey", "one two", "one two", 0),
        ("wvd", "one two", "one wo", 4),
        ("jVkd", "one\ntwo\nsix", "six", 0),
        ("Vjcx" + ESC, "one\ntwo\nsix", "x\nsix", 0),
        ("dw.", "one two six", "six", 0),
        ("cwX" + ESC + "w.", "one two", "X X", 2),
        ("oX" + ESC + ".", "one", "one\nX\nX", 6),
        ("x3.", "abcdef", "ef", 0),
        ("vlxw.", "abc defg", "c fg", 2),
        ("d" + ESC + "x", "one", "ne", 0),
    ],
)
def test_changes(keys: str, text: str, result: str, at: int):
    assert typed(keys, text) == (result, at)


def test_motions_go_by_graphemes_and_by_the_words_of_ctrl_w():
    assert units_of(f"e\u0301{FAMILY}\n好") == ["e\u0301", FAMILY, "\n", "好"]
    assert typed("lx", f"a{FAMILY}b") == ("ab", 1)
    assert typed("x", f"{FAMILY}好")[0] == "好"
    assert typed("lli\u00e4" + ESC, f"e\u0301{FAMILY}b")[0] == f"e\u0301{FAMILY}\u00e4b"
    assert typed("wwdw", "你好世界。再见") == ("你好。再见", 2)
    assert typed("ex", "程序。再见") == ("程。再见", 1)
    assert typed("wdw", "モデルを使います") == ("モデル使います", 3)
    assert typed("wdiw", "ผมชื่อสมชาย") == ("ผมสมชาย", 2)
    assert typed("$b", "ผมชื่อสมชาย")[1] == len("ผมชื่อ")
    assert typed("f好x", "你好世界") == ("你世界", 1)


@pytest.fixture
def vim_home(home: Path) -> Path:
    (home / "settings.toml").write_text('vim = "on"\n')
    return home


def vim_chat(home: Path, **options):
    return chat(home, settings=home / "settings.toml", **options)


def status(at: Driver) -> str:
    return at.text.splitlines()[-1]


async def test_slash_vim_switches_the_keys_and_the_status_shows_the_mode(home: Path):
    async with chat(home, settings=home / "settings.toml") as at:
        await at.press("a", "escape", "x")
        assert at.typed == "ax"
        assert "INSERT" not in at.text
        await at.send("/vim")
        assert "INSERT" in status(at)
        await at.press("a", "b", "escape")
        assert "NORMAL" in status(at)
        await at.press("2")
        assert "NORMAL 2" in status(at)
        await at.press("X", "V")
        assert "V-LINE" in status(at)
        await at.press("escape", "i")
        await at.send("/vim off")
        assert "INSERT" not in at.text
    assert 'vim = "off"' in (home / "settings.toml").read_text()


async def test_esc_leaves_insert_mode_first_and_stops_the_reply_from_normal_mode(vim_home: Path):
    async with vim_chat(vim_home) as at:
        await at.send("hello")
        await at.shown([PrefillProgress(0, 100, 0)])
        await at.press("h", "escape")
        assert "NORMAL" in at.text
        await at.press("d", "escape", "v", "escape")  # drops the command, leaves visual mode
        assert at.controller.turn is not None
        assert not at.controller.turn.stopping
        await at.press("escape")
        assert at.controller.turn is None or at.controller.turn.stopping


async def test_enter_sends_from_normal_mode_and_goes_back_to_insert_mode(vim_home: Path):
    async with vim_chat(vim_home) as at:
        await at.press(*"one", "escape", "0", "x", "enter")
        assert at.sent == ["ne"]
        await at.press("x")
        assert at.typed == "x"


async def test_undo_and_redo_in_normal_mode_while_ctrl_r_searches_in_insert_mode(vim_home: Path):
    async with vim_chat(vim_home) as at:
        at.composer.set_text("one two")
        await at.press("escape", "0", "d", "w", "x")
        assert at.typed == "wo"
        await at.press("2", "u")
        assert at.typed == "one two"
        await at.press("ctrl+r")
        assert at.typed == "two"
        await at.press("i", "ctrl+r")
        assert "Earlier messages" in at.text


async def test_visual_mode_selects_both_ends_and_a_click_leaves_it(vim_home: Path):
    async with vim_chat(vim_home) as at:
        at.composer.set_text("one two")
        await at.press("escape", "0", "v", "e")
        assert at.composer.selected_text == "one"
        at.composer.move_cursor((0, 5))
        await at.press("x")
        assert at.typed == "one to"


async def test_j_and_k_go_through_the_history_like_the_arrows(vim_home: Path):
    async with vim_chat(vim_home) as at:
        await at.turn("first")
        await at.turn("second")
        await at.press("escape", "k")
        assert at.typed == "second"
        await at.press("k")
        assert at.typed == "first"
        await at.press("j", "j")
        assert at.typed == ""


async def test_a_letter_typed_on_the_transcript_goes_into_the_text(vim_home: Path):
    async with vim_chat(vim_home) as at:
        await at.turn("hello")
        await at.press("escape")
        at.transcript.focus()
        await at.press("x")
        assert at.typed == "x"
        assert "INSERT" in status(at)
