"""How a chat begins: with a message, with a list, in plain mode; and words that are no commands."""

import gc
import json
import runpy
import sys
from dataclasses import replace
from inspect import unwrap
from pathlib import Path
from typing import Any

import pytest
from qwen35_chat import runtime
from qwen35_chat.main import main
from qwen35_chat.options import Start
from qwen35_chat.screens.conversations import ConversationList
from textual.css import stylesheet
from textual.css.parse import parse

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import Answer, Failed
from qwen35_mlx.session.requests import Open
from tests.app.drive import chat, reply
from tests.app.plain_drive import PlainChat
from tests.library.messages import add_message


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Start]]:
    """The chats that were started at a terminal: on the screen or plain, and with what."""
    found: list[tuple[str, Start]] = []
    monkeypatch.setattr("qwen35_chat.main._is_terminal", lambda _: True)
    for kind in ("screen", "plain"):
        note = lambda _, start, kind=kind: found.append((kind, start)) or 0  # noqa: E731
        monkeypatch.setattr(runtime.ChatRuntime, f"run_{kind}", note)
    monkeypatch.setenv("TERM", "xterm-256color")
    return found


@pytest.fixture
def stored(home: Path) -> None:
    with Library(home) as library:
        for title in ("Rivers of Asia", "Rivers", "The tea of rivers and lakes"):
            conversation = library.create(title=title)
            add_message(library, conversation, None, "user", "what?")


# The command line


@pytest.mark.parametrize(
    ("argv", "start"),
    [
        ([], Start()),
        (["hello"], Start(message="hello")),
        (["hello", "you", "there"], Start(message="hello you there")),
        (["--continue", "hello"], Start(3, "hello")),
        (["--resume"], Start(choose=True)),
        (["--resume", ""], Start(choose=True)),
        (["--resume", "tea of"], Start(3)),
        (["--resume", "RIVERS"], Start(2)),
        (["--resume", "rivers of"], Start(1)),
        (["--resume", "1", "so"], Start(1, "so")),
        (["--continue", "--system", "Hi"], Start(3, settings=ChatSettings(system="Hi"))),
        (["--resume", "1", "--seed", "4"], Start(1, settings=ChatSettings(seed=4))),
        (
            ["--resume", "--top-k", "4"],
            Start(choose=True, settings=ChatSettings(sampling={"top_k": 4})),
        ),
        (["--system", "Hi"], Start()),
    ],
)
def test_what_a_chat_begins_with(argv, start, started, stored) -> None:
    assert main([*argv]) == 0
    assert started == [("screen", start)]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["server"], "server is no command: did you mean qwen35-chat serve?"),
        (["Serv"], "did you mean qwen35-chat serve?"),
        (["help"], "did you mean qwen35-chat --help?"),
        (["list"], "did you mean qwen35-chat --list?"),
        (["--resume", "nothing of it"], "no conversation is called 'nothing of it'"),
        (["--resume", "a"], "2 conversations are called 'a': say which by its id"),
        (["-p", "hi", "you"], "'you' follows the prompt"),
        (["--list", "hello"], "choose one"),
        (["--export", "1", "--json"], "--json is for -p and --list"),
        (["hello", "--json"], "--json is for one answer"),
        (["-p", "hi", "--resume"], "--resume needs a name with -p"),
    ],
)
def test_a_line_says_what_to_write_instead(argv, why, started, stored, capsys) -> None:
    assert main(argv) == 2
    assert started == []
    err = capsys.readouterr().err
    assert why in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("term", "argv", "kind"),
    [("dumb", [], "plain"), ("xterm", [], "screen"), ("xterm", ["--plain"], "plain")],
)
def test_a_dumb_terminal_gets_plain_mode(term, argv, kind, started, monkeypatch) -> None:
    monkeypatch.setenv("TERM", term)
    assert main([*argv]) == 0
    assert started == [(kind, Start())]


def test_a_pipe_under_a_dumb_terminal_is_still_a_prompt(started, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("qwen35_chat.main._is_terminal", lambda stream: stream is not sys.stdin)
    monkeypatch.setattr("qwen35_chat.main._standard_input", lambda: " ")
    assert main([]) == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_a_message_and_a_pipe_are_one_prompt(started, monkeypatch) -> None:
    prompts: list[str] = []
    monkeypatch.setattr("qwen35_chat.main._is_terminal", lambda stream: stream is not sys.stdin)
    monkeypatch.setattr("qwen35_chat.main._standard_input", lambda: "a text")
    monkeypatch.setattr("qwen35_chat.one_shot.run", lambda prompt, *_, **__: prompts.append(prompt))
    main(["sum", "it", "up"])
    assert prompts == ["sum it up\n\na text"]


def test_the_list_as_json(stored, capsys) -> None:
    assert main(["--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == [3, 2, 1]
    assert rows[0].keys() == {
        *("id", "title", "shelf", "model", "created", "updated", "messages", "tokens", "preview")
    }
    assert rows[2]["title"] == "Rivers of Asia"


def test_an_empty_list_as_json(home: Path, capsys) -> None:
    assert main(["--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("mark", "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
def test_marks_that_turn_the_direction_are_shown(home: Path, capsys, mark: str) -> None:
    with Library(home) as library:
        library.create(title=f"cod{mark}.txt")
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert mark not in out
    assert f"cod\\u{ord(mark):04x}.txt" in out


def test_the_package_runs_as_a_module(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["qwen35-chat", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("qwen35_chat", run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("qwen35-chat ")


# The chat


async def test_a_message_of_the_command_line_is_sent(home: Path) -> None:
    async with chat(home, start=Start(message="hello"), loads=False, demo=True) as at:
        assert at.sent == ["hello"]
        await at.shown(reply("Good day"))
        assert "hello" in at.text
        assert "Good day" in at.text
        assert at.typed == ""


async def test_a_message_follows_the_conversation_that_is_continued(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "an answer")
    at.library.release(1)
    async with chat(home, start=Start(1, "two"), library=at.library) as at:
        await at.until(lambda: at.sent == ["two"])
        await at.shown(reply("so"))
        assert at.text.index("an answer") < at.text.index("two") < at.text.index("so")
        await at.press("ctrl+n")
        await at.shown()
        assert at.sent == ["two"]


async def test_a_message_that_cannot_be_sent_is_in_the_composer(home: Path) -> None:
    async with chat(home, start=Start(message="/nothing of it")) as at:
        assert at.sent == []
        assert at.typed == "/nothing of it"
        assert "there is no command" in at.text


async def test_a_draft_stays_beside_the_message(home: Path) -> None:
    with Library(home) as library:
        library.save_draft(None, "unsent")
        library.close()
    async with chat(home, start=Start(message="hello")) as at:
        await at.until(lambda: at.typed == "unsent")
        assert at.sent == ["hello"]


async def test_the_list_is_there_at_the_start(home: Path, stored) -> None:
    async with chat(home, start=Start(choose=True)) as at:
        await at.until(lambda: isinstance(at.app.screen, ConversationList))
        await at.press("enter")
        await at.shown()
        assert at.controller.conversation == 3


@pytest.mark.parametrize("start", [Start(3), Start(choose=True)])
async def test_options_hold_for_the_conversation_that_is_continued(home, stored, start) -> None:
    given = ChatSettings(system="Be kind.", max_tokens=9)
    async with chat(home, start=replace(start, settings=given)) as at:
        if start.choose:
            await at.until(lambda: isinstance(at.app.screen, ConversationList))
            await at.press("enter")
        await at.until(lambda: at.controller.conversation == 3)
        await at.press("ctrl+n")  # a new one, and another stored one after it
        await at.shown()
        at.controller.open(2)
        await at.shown()
        opened = [call for call in at.engine.calls if isinstance(call, Open)]
        assert opened == [Open(3, given), Open(None), Open(2)]


def test_plain_mode_begins_with_a_message_or_a_list(home: Path, stored) -> None:
    session = PlainChat(home)
    session.steps = [lambda: session.engine.play([Answer("so"), Failed("no")])]
    assert session.run(start=Start(message="hello")).startswith("You: hello\nAnswer: so\n")
    session = PlainChat(home, library=session.library)
    assert "1. hello: " in session.run(start=Start(choose=True))
    session.library.close()


def test_plain_mode_refuses_a_first_message_that_is_no_command(home: Path) -> None:
    session = PlainChat(home)
    assert "Error: there is no command /nothing" in session.run(start=Start(message="/nothing x"))
    session.library.close()


def test_a_part_of_a_title_is_one_of_several(home: Path, stored: Any) -> None:
    with Library(home) as library:
        assert library.resolve("lakes") == 3
        with pytest.raises(Qwen35Error, match="2 conversations"):
            library.resolve("of ")
        assert library.resolve("  tea   of ") == 3


# The cost of the first frame


async def test_until_the_first_frame_style_sheets_are_read_once_and_widgets_styled_once(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[str] = []
    styled: list[list[object]] = []
    update_nodes = stylesheet.Stylesheet.update_nodes

    def count_parse(scope: str, css: str, *args: Any, **options: Any) -> Any:
        parsed.append(css)
        return parse(scope, css, *args, **options)

    def count_update(sheet: Any, nodes: Any, *args: Any, **options: Any) -> None:
        styled.append(list(nodes))
        update_nodes(sheet, nodes, *args, **options)

    # Without what the tests share.
    monkeypatch.setattr(
        stylesheet.Stylesheet, "_parse_rules", unwrap(stylesheet.Stylesheet._parse_rules)
    )
    monkeypatch.setattr(stylesheet, "parse", count_parse)
    monkeypatch.setattr(stylesheet.Stylesheet, "update_nodes", count_update)
    async with chat(home, size=(120, 40)) as at:
        whole = [nodes for nodes in styled if at.app.chat in nodes]
        assert len(whole) == 1  # Textual's own, when a screen becomes the current one
        assert parsed.count(Path(str(at.app.css_path[0])).read_text()) == 1


@pytest.mark.parametrize("theme", ["light", "ansi"])
async def test_a_theme_holds_from_the_first_frame_on(theme: str, home: Path) -> None:
    file = home / "settings.toml"
    file.write_text(f'theme = "{theme}"\n')
    async with chat(home, settings=file) as at:
        shown = at.app.get_css_variables(), at.app.classes, at.app.native_ansi_color
        background = at.app.chat.styles.background
        at.app.use_theme("textual-dark")
        await at.settled()
        at.app.use_theme()
        await at.settled()
        again = at.app.get_css_variables(), at.app.classes, at.app.native_ansi_color
        assert (shown, background) == (again, at.app.chat.styles.background)


def test_garbage_is_collected_after_the_first_frame(
    started: list[tuple[str, Start]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_frame(*_: object) -> int:
        assert not gc.isenabled()
        runtime.collect_garbage()
        assert gc.isenabled()
        gc.disable()
        return 0

    monkeypatch.setattr(runtime.ChatRuntime, "run_screen", first_frame)
    assert main([]) == 0
    assert gc.isenabled()
