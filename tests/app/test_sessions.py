"""Conversations: finding, opening, versions, titles, deleting, exporting."""

import threading
from pathlib import Path

import pytest
from textual.events import Key

from qwen35_mlx.session.requests import Compact, Edit, Open, Retry, Select
from tests.app.drive import chat, reply
from tests.library.messages import add_message, begin_reply, update_reply


async def test_ctrl_n_begins_a_new_conversation_and_ctrl_s_finds_the_old_one(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("about rivers", "they flow")
        assert "38 tok/s" in at.text
        await at.press("ctrl+n")
        await at.shown()
        assert "they flow" not in at.text
        assert "tok/s" not in at.text
        await at.turn("about trees", "they grow")
        await at.press("ctrl+s")
        assert "about rivers" in at.text
        assert "• about trees" in at.text
        await at.press(*"flow")
        assert "• about trees" not in at.text
        await at.press("enter")
        await at.shown()
        assert "they flow" in at.text
        assert at.controller.conversation == 1
        await at.press("escape")
        await at.turn("and lakes?")
        assert [m.content for m in at.library.conversation(1).path()] == [
            "about rivers",
            "they flow",
            "and lakes?",
            "fine",
        ]


async def test_search_words_are_taken_literally_and_esc_goes_back(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("a AND b", 'say "x"')
        await at.press("ctrl+s", *'"x" NEAR(*', "escape")
        assert at.typed == ""
        assert "Conversations" not in at.text
        await at.send('/sessions "AND b"')
        await at.until(lambda: "a AND b" in at.text and "Conversations" in at.text)
        await at.press(*" nothing of it")
        assert "Nothing has these words" in at.text


async def test_a_hit_on_another_path_opens_that_path(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("q", "an apple")
        await at.press("f5")
        await at.shown(reply("a banana"))
        await at.press("ctrl+s", *"apple", "enter")
        await at.shown()
        assert "an apple" in at.text
        assert "< 1/2 >" in at.text


async def test_f5_retries_and_left_and_right_switch_versions(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("q", "one")
        await at.press("f5")
        assert at.engine.calls[-1] == Retry(2)
        await at.shown(reply("two"))
        assert "two" in at.text
        assert "one" not in at.text
        assert "< 2/2 >" in at.text
        await at.press("left")
        await at.shown()
        assert at.engine.calls[-1] == Select(2)
        assert "one" in at.text
        assert "< 1/2 >" in at.text
        await at.press("left")
        assert "this is version 1 of 2" in at.text
        await at.press("right")
        await at.shown()
        assert "two" in at.text
        await at.send("/older")
        await at.shown()
        assert "one" in at.text
        await at.send("/newer")
        await at.shown()
        assert "two" in at.text


async def test_left_and_right_move_the_cursor_in_a_text(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("q", "one")
        await at.press(*"ab", "left", "x", "right", "y")
        assert at.typed == "axby"


async def test_the_versions_can_be_clicked(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("q", "one")
        await at.press("f5")
        await at.shown(reply("two"))
        line = next(n for n, text in enumerate(at.text.splitlines()) if "< 2/2 >" in text)
        await at.pilot.click("TranscriptView", offset=(2, line))
        await at.shown()
        assert "one" in at.text


async def test_f4_edits_the_last_message_and_keeps_the_old_version(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("first", "one")
        await at.turn("second", "two")
        await at.press(*"unsent", "f4")
        assert at.typed == "second"
        assert "Another version of “second” · that one stays" in at.text
        await at.press("!", "enter")
        assert at.engine.calls[-1] == Edit(3, "second!")
        assert at.typed == "unsent"
        await at.shown(reply("three"))
        assert "two" not in at.text
        assert "< 2/2 >" in at.text
        assert [m.content for m in at.library.conversation(1).path()] == [
            "first",
            "one",
            "second!",
            "three",
        ]
        assert len(at.library.conversation(1).messages) == 6


async def test_esc_leaves_an_edit_and_brings_back_what_was_typed(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("first")
        await at.press(*"unsent", "f4", "x", "escape")
        assert at.typed == "unsent"
        await at.press("enter")
        assert at.sent == ["first", "unsent"]


async def test_slash_edit_sends_at_once(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("first")
        await at.send("/edit second")
        await at.until(lambda: isinstance(at.engine.calls[-1], Edit))
        assert at.engine.calls[-1] == Edit(1, "second")


async def test_keys_on_a_marked_message(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("first", "one", thinking="hm")
        await at.turn("second", "two\n\n```\ncode 1\n```\n\n```\ncode 2\n```")
        await at.press("tab")
        assert at.transcript.marked is at.messages[-1]
        assert "▌" in at.text
        await at.press("y")
        assert at.app.clipboard == "code 1\n"
        await at.press("y")
        assert at.app.clipboard == "code 2\n"
        await at.press("c")
        assert at.app.clipboard.startswith("two")
        await at.press("up", "k")
        assert at.transcript.marked is at.messages[1]
        await at.press("space")
        assert "hm" in at.text
        await at.press("j", "down", "down")
        assert at.transcript.marked is at.messages[-1]
        await at.press("escape")
        assert at.transcript.marked is None
        await at.press(*"ok")
        assert at.typed == "ok"


async def test_a_letter_that_is_no_key_goes_to_the_composer(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("first")
        await at.press("tab", "w", "h", "o")
        assert at.typed == "who"


async def test_edit_retry_and_branch_on_any_message(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("first", "one")
        await at.turn("second", "two")
        await at.press("tab", "up", "up", "r")
        assert at.engine.calls[-1] == Retry(2)
        await at.shown(reply("other one"))
        assert "second" not in at.text
        await at.press("left")
        await at.shown()
        assert "two" in at.text
        await at.press("tab", "up", "up", "up", "e")
        assert at.typed == "first"
        await at.press("escape", "tab", "up", "up", "b")
        assert at.typed == ""
        assert "A branch after “one” · what followed stays" in at.text
        await at.press(*"third", "enter")
        assert at.engine.calls[-1] == Edit(3, "third")
        await at.shown(reply("three"))
        assert "< 2/2 >" in at.text
        await at.press("tab", "b")
        assert "This is the last reply" in at.text


async def test_versions_of_a_marked_message(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("first", "one")
        await at.press("f4", "!", "enter")
        await at.shown(reply("two"))
        await at.press("tab", "up", "left")
        await at.shown()
        assert " first\n" in at.text
        assert at.transcript.marked is at.messages[0]
        await at.press("right")
        await at.shown()
        assert " first!" in at.text


async def test_commands_without_a_message_show_an_error(home: Path) -> None:
    async with chat(home) as at:
        for command in ("f5", "f4", "f3", "f9"):
            await at.press(command)
            assert "yet" in at.text or "there is no code here" in at.text
        await at.send("/delete")
        assert "this conversation has no message yet" in at.text


async def test_a_turn_must_end_before_another_conversation(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.press("ctrl+n")
        assert "a reply is being written: Esc stops it" in at.text


async def test_rename_by_command(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.send("/rename A better title")
        assert at.library.conversation(1).title == "A better title"
        await at.send("/rename")
        await at.until(lambda: "Title; empty for an automatic one" in at.text)
        await at.press("end", "!", "enter")
        assert at.library.conversation(1).title == "A better title!"


async def test_delete_and_undo_by_command(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "here it is")
        await at.send("/delete")
        await at.shown()
        assert "Deleted one; /undo brings it back" in at.text
        assert "here it is" not in at.text
        assert not at.library.list()
        await at.send("/undo")
        await at.shown()
        assert "here it is" in at.text
        await at.send("/undo")
        assert "nothing was deleted" in at.text


async def test_rename_delete_undo_and_export_in_the_list(home: Path) -> None:
    async with chat(home, size=(100, 30)) as at:
        await at.turn("one")
        await at.press("ctrl+n")
        await at.shown()
        await at.turn("two")
        await at.press("ctrl+s", "down", "ctrl+r")
        await at.press("end", *" more", "enter")
        assert "one more" in at.text
        assert at.library.conversation(1).title == "one more"
        await at.press("ctrl+o")
        assert "Written to one-more.md" in at.text
        assert "one" in Path("one-more.md").read_text()
        await at.press("ctrl+o")
        assert "one-more.md exists: give another name" in at.text
        await at.press("ctrl+d")
        assert "Deleted one more; Ctrl+_ brings it back" in at.text
        assert [s.title for s in at.library.list()] == ["two"]
        await at.press("ctrl+underscore")
        assert {s.title for s in at.library.list()} == {"two", "one more"}


async def test_pin_and_archive_in_the_list(home: Path) -> None:
    async with chat(home, size=(100, 30)) as at:
        for text in ("about rivers", "about trees", "about lakes"):
            await at.turn(text, "yes")
            await at.press("ctrl+n")
            await at.shown()

        def order() -> list[str]:
            rows = at.text.partition("Enter opens")[0]
            found = {rows.find(f"about {word}"): word for word in ("rivers", "trees", "lakes")}
            return [found[place] for place in sorted(found) if place >= 0]

        await at.press("ctrl+s")
        assert order() == ["lakes", "trees", "rivers"]
        assert "Ctrl+T pin" in at.text
        await at.press("down", "down", "ctrl+t")
        await at.until(lambda: "Pinned: about rivers" in at.text)
        await at.until(lambda: order()[0] == "rivers")
        await at.press("ctrl+t")
        await at.until(lambda: "No longer pinned: about rivers" in at.text)
        await at.press("ctrl+g")
        await at.until(lambda: "Archived: about rivers; Ctrl+L shows" in at.text)
        await at.press("escape", "ctrl+s")
        await at.until(lambda: order() == ["lakes", "trees"])
        await at.press("ctrl+l")
        await at.until(lambda: order() == ["rivers"])
        assert "Archived conversations" in at.text
        await at.press("ctrl+l", *"rivers")
        await at.until(lambda: "archived ·" in at.text)
        await at.press("ctrl+g")
        await at.until(lambda: "Back in the list: about rivers" in at.text)
        await at.press("escape", "ctrl+s")
        await at.until(lambda: order() == ["lakes", "trees", "rivers"])
        await at.press("ctrl+l")
        await at.until(lambda: "Nothing is archived" in at.text)


async def test_export_to_json(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.send("/export kept.json")
        assert "Written to kept.json" in at.text
        assert '"one"' in Path("kept.json").read_text()
        await at.send("/export /no/such/folder/x.md")
        assert "cannot be written" in at.text


async def test_compact_is_a_request_and_its_failure_is_shown(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.send("/compact")
        assert at.engine.calls[-1] == Compact()
        await at.shown()
        assert "nothing to compact" in at.text


async def test_a_conversation_is_opened_at_the_start_and_a_cut_off_reply_is_marked(home) -> None:
    async with chat(home) as at:
        await at.turn("one", "an answer")
        user = add_message(at.library, 1, 2, "user", "two")
        cut = begin_reply(at.library, 1, user.id, "demo")
        update_reply(at.library, cut.id, "half of it")
        at.library.close()
    async with chat(home, conversation=1) as at:
        assert Open(1) in at.engine.calls
        assert "an answer" in at.text
        assert "half of it" in at.text
        assert "Cut off: the app ended while this was written. F5 asks again." in at.text


async def test_control_characters_in_titles_are_shown(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one")
        at.library.rename(1, "a\x1b[2Jb")
        await at.press("ctrl+s")
        assert "a␛[2Jb" in at.text
        assert "\x1b" not in at.text


async def test_keys_wait_for_the_rows_that_they_are_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chat(home, size=(100, 30)) as at:
        await at.turn("one")
        await at.press("ctrl+n")
        await at.shown()
        await at.turn("two")
        library, released = at.controller.library, threading.Event()
        listed = library.list

        def slow(limit: int, *, archived: bool) -> object:
            assert released.wait(20)
            return listed(limit)

        monkeypatch.setattr(library, "list", slow)
        for key in ("ctrl+s", "down", "ctrl+r"):
            await at.pilot.press(key)
        await at.pilot.pause(0.05)
        assert "Title; empty for an automatic one" not in at.text
        released.set()
        await at.until(lambda: "Title; empty for an automatic one" in at.text)
        await at.press("end", *" more", "enter")
        assert "one more" in at.text


@pytest.mark.parametrize("slow", [True, False])
async def test_keys_right_behind_e_go_into_the_text_that_it_opens(
    home: Path, monkeypatch: pytest.MonkeyPatch, *, slow: bool
) -> None:
    async with chat(home) as at:
        await at.turn("one", "two")
        await at.press(*"draft", "tab", "up")
        library, released = at.controller.library, threading.Event()
        read = library.conversation

        def conversation(number: int) -> object:
            assert released.wait(20)
            return read(number)

        if slow:
            monkeypatch.setattr(library, "conversation", conversation)
        for key in "ec, no":
            at.app.post_message(Key({" ": "space", ",": "comma"}.get(key, key), key))
        await at.pilot.pause()
        released.set()
        await at.until(lambda: at.typed == "onec, no")
        await at.press("escape")
        assert at.typed == "draft"


async def test_keys_behind_e_that_opens_nothing_act_as_usual(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "two")
        await at.send("again")
        await at.press("tab", "up")
        for key in "ex":
            at.app.post_message(Key(key, key))
        await at.until(lambda: "a reply is being written" in at.text)
        await at.until(lambda: at.typed == "x")  # as any letter that is no key of a message
        assert not at.app.chat.transcript.opening
