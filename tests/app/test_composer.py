"""Writing: new lines, history, completion, files, pastes, the editor."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from qwen35_chat.attachments import attached, files_below, taken_apart
from qwen35_chat.chips import Chips, draft_in_full
from qwen35_chat.completion import commands_for, files_for, ranked
from qwen35_chat.history import History
from qwen35_chat.readable_files import read_text_file
from qwen35_chat.screens.page import Page
from textual import events

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import Failed
from tests.app.drive import chat


async def test_new_lines_by_key_are_sent_as_they_were_typed(home: Path) -> None:
    async with chat(home) as at:
        await at.press("a", "shift+enter", "b", "ctrl+j", "c")
        assert at.sent == []
        await at.press("enter")
        assert at.sent == ["a\nb\nc"]


async def test_up_in_an_empty_line_steps_back_and_down_returns(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("first")
        await at.turn("second\nof two lines")
        await at.press("up")
        assert at.typed == "second\nof two lines"
        await at.press("up", "up")
        assert at.typed == "first"
        await at.press("up")
        assert at.typed == "first"
        await at.press("down", "down", "down")
        assert at.typed == ""


async def test_up_in_a_text_moves_the_cursor(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("first")
        await at.press("a", "ctrl+j", "b", "up")
        assert at.typed == "a\nb"
        assert at.composer.cursor_location[0] == 0


async def test_the_history_is_searched_by_ctrl_r(home: Path) -> None:
    async with chat(home) as at:
        for text in ("about trees", "about rivers", "about trees and birds"):
            await at.turn(text)
        await at.press("ctrl+r")
        assert "Earlier messages" in at.text
        await at.press(*"riv")
        await at.press("enter")
        assert at.typed == "about rivers"
        assert len(at.sent) == 3


async def test_the_history_outlives_the_window(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("remember")
    async with chat(home) as at:
        await at.press("up")
        assert at.typed == "remember"


def test_a_line_of_the_history_that_was_cut_off_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    history = History(file)
    for text in ("one", "two\nlines", "two\nlines", "three"):
        history.add(text)
    with file.open("a") as out:
        out.write('"half')
    assert History(file).texts == ["one", "two\nlines", "three"]


async def test_a_slash_offers_commands_and_tab_completes(home: Path) -> None:
    async with chat(home) as at:
        await at.press("/", "t", "h")
        assert "/thinking" in at.text
        assert "/theme" in at.text
        await at.press("down", "up", "tab")
        assert at.typed in ("/theme ", "/thinking ")
        await at.press("escape")
        assert "whether the model thinks" not in at.text


async def test_enter_completes_first_and_then_runs(home: Path) -> None:
    async with chat(home) as at:
        await at.press("/", "h", "e", "l", "p")
        await at.press("enter")
        assert at.sent == []
        await at.until(lambda: "Keys and commands" in at.text)


async def test_keys_faster_than_the_completions_act_on_what_is_typed(home: Path) -> None:
    async with chat(home) as at:
        await at.press("/", "s")
        assert at.app.chat.completions.choices
        for key in "essions":  # and the screen hears of none of them
            at.composer.insert(key)
        at.composer.on_key(events.Key("enter", None))
        await at.until(lambda: "Conversations" in at.text)
        assert at.typed == ""


async def test_a_slash_that_is_no_command_is_a_message(home: Path) -> None:
    async with chat(home) as at:
        await at.send("/etc/passwd is a file")
        assert at.sent == ["/etc/passwd is a file"]


def test_commands_are_found_by_their_letters() -> None:
    assert [choice.insert for choice in commands_for("/prs")] == ["/preset "]
    assert commands_for("/prs")[0].label.startswith("/preset model, ")
    assert commands_for("/model")[0].insert == "/model "
    assert commands_for("/new")[0].insert == "/new"
    assert commands_for("x /new") == []


def test_files_are_found_by_their_letters_and_their_own_name_counts_most() -> None:
    files = ["src/main/readme.txt", "readme.md", "tests/deep/area/dome.md"]
    assert ranked("readme", files)[0] == "readme.md"
    assert ranked("smr", files)[0] == "src/main/readme.txt"
    assert ranked("xyz", files) == []
    choice = files_for("see @rea", files)[0]
    assert (choice.insert, choice.replaces) == ("@readme.md ", 4)
    assert files_for("mail me@rea", files) == []
    assert files_for("a b.txt", ["a b.txt"]) == []
    assert files_for("@a b", ["a b.txt"]) == []
    assert files_for("@a", ["a b.txt"])[0].insert == '@"a b.txt" '


async def test_an_at_offers_files_with_their_tokens_and_attaches_them(home: Path) -> None:
    Path("notes.txt").write_text("buy milk\n")
    Path("other.bin").write_bytes(b"\x00\x01")
    async with chat(home) as at:
        await at.press("@")
        await at.until(lambda: "notes.txt" in at.text)
        await at.press("n", "o", "t")
        await at.until(lambda: "tokens" in at.text.split("notes.txt")[1])
        await at.press("tab", *"what is it?", "enter")
        assert at.sent == ['@notes.txt what is it?\n\n<file name="notes.txt">\nbuy milk\n</file>']
        assert "@ notes.txt, 1 line" in at.text
        assert "buy milk" not in at.text


async def test_a_file_that_is_no_text_is_refused_and_the_message_stays(home: Path) -> None:
    Path("other.bin").write_bytes(b"\xff\xfe\x00")
    async with chat(home) as at:
        await at.send("look at @other.bin")
        assert at.sent == []
        assert at.typed == "look at @other.bin"
        assert "is not text" in at.text


def test_the_error_names_why_a_file_cannot_be_attached(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for path, why in ((folder, "not a regular file"), (tmp_path / "none", "No such file")):
        with pytest.raises(Qwen35Error, match=why):
            read_text_file(path)
    large = tmp_path / "large"
    large.write_bytes(b"a" * 2_000_001)
    with pytest.raises(Qwen35Error, match="more than 2,000,000 bytes"):
        read_text_file(large)


def test_mentions_without_a_file_stay_text(tmp_path: Path) -> None:
    text = "ask @ada about @property, and me@example.org"
    assert attached(text, tmp_path).text == text


def test_attached_files_round_trip(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("one\ntwo\n")
    (tmp_path / "c.md").write_text("<file>\n")
    whole = attached('see @"a b.txt" and @c.md, and @c.md.', tmp_path).text
    text, files = taken_apart(whole)
    assert text == 'see @"a b.txt" and @c.md, and @c.md.'
    assert [(file.name, file.text, file.lines) for file in files] == [
        ("a b.txt", "one\ntwo", 2),
        ("c.md", "<file>", 1),
    ]


def test_hidden_and_build_folders_are_not_searched(tmp_path: Path) -> None:
    for name in ("a.txt", "src/b.txt", ".git/config", "node_modules/x.js"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert files_below(tmp_path / "in") == ["a.txt", "src/", "src/b.txt"]


async def test_a_long_paste_is_a_chip_that_is_sent_in_full_and_expands(home: Path) -> None:
    text = "\n".join(f"line {n}" for n in range(40))
    async with chat(home) as at:
        await at.press(*"see ")
        at.composer.post_message(events.Paste(text))
        await at.pilot.pause()
        assert at.typed == "see [paste 1: 40 lines]"
        await at.press("f8")
        assert at.typed == f"see {text}"
        at.composer.set_text("")
        at.composer.post_message(events.Paste(text.replace("\n", "\r\n")))
        await at.pilot.pause()
        assert at.typed == "[paste 2: 40 lines]"
        await at.press("enter")
        assert at.sent == [text]


async def test_a_draft_holds_the_pastes_which_are_chips_again_after_a_restart(home: Path) -> None:
    text = "x" * 5000
    async with chat(home) as at:
        await at.press(*"see ")
        at.composer.post_message(events.Paste(text))
        await at.pilot.pause()
        await at.press(*" and ")
        at.composer.put_output("a\n" * 30)
        at.composer.put_back("see [paste 1: 5,000 characters] and")
        await at.pilot.pause()
        typed = at.typed
        assert typed.startswith("see [paste 1: 5,000 characters] and\n[output 2: ")
        await at.until(lambda: draft_in_full(at.library.draft(None)) == at.composer.whole)
        at.library.close()
    async with chat(home, library=(library := Library(home))) as at:
        await at.until(lambda: at.typed == typed)
        whole = f"see {text} and\n" + "a\n" * 30 + "\n"
        assert at.composer.whole == whole
        await at.press("enter")
        assert at.sent == [whole]
        await at.until(lambda: not library.draft(None))


async def test_an_edit_that_is_left_brings_back_the_chip(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "two")
        at.composer.post_message(events.Paste("x" * 5000))
        await at.pilot.pause()
        await at.press("f4")
        assert at.typed == "one"
        await at.until(lambda: "x" * 5000 in at.library.draft(1))
        await at.press("escape")
        assert at.typed == "[paste 1: 5,000 characters]"
        assert at.composer.whole == "x" * 5000


def test_a_draft_has_its_pastes_between_marks_that_no_text_has() -> None:
    chips = Chips()
    name = chips.chip("\ufdd0b\ufdd1\ufdd2" + "a\n" * 50)
    stored = chips.stored(f"\ufdd2so {name} [paste 9: 20 lines]")
    assert draft_in_full(stored) == "so b" + "a\n" * 50 + " [paste 9: 20 lines]"
    other = Chips()
    other.chip("c" * 9000)
    restored = other.restored(stored)
    assert restored == "so [paste 2: 50 lines] [paste 9: 20 lines]"
    assert other.expanded(restored) == draft_in_full(stored)
    assert other.stored(restored) == stored  # so that it counts as stored
    assert other.restored("an earlier version's\ufdd0") == "an earlier version's"


def test_a_chip_that_was_changed_is_text() -> None:
    chips = Chips()
    name = chips.chip("a\n" * 50)
    assert name is not None
    assert chips.expanded(f"{name} {name[:-1]}") == "a\n" * 50 + f" {name[:-1]}"
    assert chips.chip("short") is None


async def test_the_editor_gets_the_text_and_gives_it_back(home, monkeypatch, tmp_path) -> None:
    editor = tmp_path / "my editor"
    editor.write_text('#!/bin/sh\nprintf " and more" >> "$2"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", f"'{editor}' --wait")
    async with chat(home) as at:
        monkeypatch.setattr(at.app, "suspend", nullcontext)
        await at.press(*"text", "ctrl+g")
        assert at.typed == "text and more"


async def test_an_editor_that_fails_changes_nothing(home, monkeypatch) -> None:
    async with chat(home) as at:
        monkeypatch.setattr(at.app, "suspend", nullcontext)
        for command, why in (
            ("false", "ended with code 1"),
            ("/no/such", "does not start"),
            ("no-such-editor", "is not on this machine"),
            (" ", "cannot be understood"),
            ("'", "cannot be understood"),
        ):
            monkeypatch.setenv("VISUAL", command)
            at.composer.set_text("text")
            await at.press("ctrl+g")
            assert at.typed == "text"
            assert why in at.text


async def test_words_that_are_no_paths_do_not_end_the_screen(home: Path) -> None:
    word = "~nobody-of-this-name"
    messages = [f"thanks @{word}", "@" + "a" * 260]
    async with chat(home) as at:
        for text in messages:
            await at.turn(text)
        assert at.sent == messages
        for line in (f"/export {word}/x.md", f"/settings folders {word}"):
            await at.send(line)
            await at.until(lambda: "there is no home folder" in at.text)
            at.app.chat.show_message("")
        await at.send("/sessions \u00b2")
        assert at.app.is_running


@pytest.mark.parametrize("size", [200_000, 2_500])
async def test_a_paste_that_is_refused_stays_a_chip(home: Path, size: int) -> None:
    paste = "天" * size
    async with chat(home) as at:
        await at.press(*"sum up ")
        at.composer.post_message(events.Paste(paste))
        await at.pilot.pause()
        shown = at.typed
        await at.press("enter")
        assert at.sent == [f"sum up {paste}"]
        await at.shown([Failed("the message has more tokens than the context")])
        assert at.typed == shown == f"sum up [paste 1: {size:,} characters]"
        assert at.composer.whole == f"sum up {paste}"
        await at.press("f8")
        assert len(at.typed) < 20_000  # what the screen can edit


@pytest.mark.parametrize("sign", ["、", "／", "/"])
async def test_a_slash_of_an_input_method_begins_a_command(home: Path, sign: str) -> None:
    async with chat(home) as at:
        at.composer.insert(f"{sign}he")
        await at.until(lambda: "all keys and commands" in at.text)  # a completion
        await at.press("enter")
        assert at.typed == "/help"
        at.composer.set_text(f"{sign}help")
        await at.press("enter")
        assert isinstance(at.app.screen, Page)
        await at.press("escape")
        at.composer.set_text(f"{sign}nothing")
        await at.press("enter")
        assert "there is no command /nothing" in at.text
        assert at.sent == []


@pytest.mark.parametrize("sign", ["＠", "@"])
async def test_an_at_of_an_input_method_names_a_file(home: Path, sign: str) -> None:
    Path("notes.txt").write_text("it is here")
    async with chat(home) as at:
        at.composer.insert(f"{sign}no")
        await at.until(lambda: at.app.chat.completions.choices)
        await at.press("tab")
        assert at.typed == "@notes.txt "
        at.composer.set_text(f"总结{sign}notes.txt 好吗")
        await at.press("enter")
        await at.until(lambda: at.sent)
        assert at.sent[0].startswith(f"总结{sign}notes.txt 好吗")
        assert "it is here" in at.sent[0]


@pytest.mark.parametrize(
    "text", ["你好、世界", "。/help", "//！", "、", "好！ls", "a＠b.txt", "／usr／bin", "！"]
)
async def test_signs_elsewhere_are_text(home: Path, text: str) -> None:
    async with chat(home) as at:
        await at.send(text)
        assert at.sent == [text]


async def test_a_text_too_long_for_the_screen_is_a_chip_and_is_sent_whole(home: Path) -> None:
    async with chat(home) as at:
        text = "word\n" * 100_000 + "end"
        at.composer.set_text(text)
        assert at.typed == "[paste 1: 100001 lines]"
        at.composer.put_back("before")
        assert at.composer.whole == f"before\n{text}"
        at.composer.set_text(f"{at.typed} " + "x" * 20_000)  # a chip in a chip
        assert at.composer.whole == f"before\n{text} " + "x" * 20_000
        at.composer.set_text("y" * 20_001)
        await at.press("enter")
        assert at.sent == ["y" * 20_001]
