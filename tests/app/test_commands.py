"""The command table: what reaches each command, what it does, and what documents it."""

from operator import attrgetter
from pathlib import Path

import pytest
from qwen35_chat import commands, key_page
from qwen35_chat.commands import BY_ALIAS, COMMANDS, SCOPES, in_scope, keymap
from qwen35_chat.keys import key_names, key_problem, shown_keys
from qwen35_chat.screens import chat as chat_screen
from qwen35_chat.screens.conversations import ConversationList
from qwen35_chat.screens.lists import Palette, SettingsList
from qwen35_chat.screens.models import ModelList
from qwen35_chat.screens.page import Page
from qwen35_chat.screens.picker import Ask
from qwen35_chat.slash import parse_slash
from qwen35_chat.widgets.hand_typed import HandTypedTextArea
from textual.widgets import OptionList, Static, TextArea

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.events import Answer, Cancelled
from qwen35_mlx.session.requests import Unload, UseModel
from tests.app.drive import Driver, chat
from tests.app.plain_drive import PlainChat

KEY_PAGE = Path(__file__).parents[2] / "docs" / "keys.md"
CHAT = in_scope("chat")
# What the composer acts on itself is tested in test_composer and test_sessions.
ITS_OWN = {"send", "newline", "older", "newer"}
# Keys of a text area that mean something else here, on purpose.
TAKEN = {
    "ctrl+z",
    "f6",
    "f7",
    "enter",
    "tab",
    "left",
    "right",
    "pageup",
    "pagedown",
    "escape",
    "ctrl+j",
    "shift+enter",
}


# The table itself


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_calls_one_command_only(scope) -> None:
    keys = [key for command in in_scope(scope) for key in key_names(command.keys)]
    assert len(keys) == len(set(keys))


def test_names_and_slash_names_are_unique() -> None:
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)
    slashes = [c.slash for c in COMMANDS if c.slash]
    slashes += [alias for c in COMMANDS for alias in c.aliases]
    assert len(slashes) == len(set(slashes))
    assert all(command.scope == "chat" for command in COMMANDS if command.slash)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_can_be_reached_by_keys_that_every_terminal_sends(command) -> None:
    assert command.keys or command.slash
    typing = command.scope != "messages"
    for key in key_names(command.keys):
        assert command.typed or key_problem(key, typing=typing) == ""


def test_keys_for_writing_are_left_to_the_composer() -> None:
    own = {key for binding in TextArea.BINDINGS for key in binding.key.split(",")}  # pyright: ignore[reportAttributeAccessIssue]
    assert {"ctrl+a", "ctrl+e", "ctrl+k", "ctrl+u", "ctrl+w", "ctrl+z", "ctrl+x"} <= own
    assert any(binding.key == "ctrl+underscore" for binding in HandTypedTextArea.BINDINGS)  # undo
    assert not (set(keymap("chat", {})) - TAKEN) & own


@pytest.mark.parametrize("scope", ["sessions", "models"])
def test_keys_for_writing_are_left_to_the_search_line(scope) -> None:
    assert not {"ctrl+a", "ctrl+e", "ctrl+k", "ctrl+u", "ctrl+w"} & set(keymap(scope, {}))


def test_docs_keys_is_up_to_date() -> None:
    """`python -m qwen35_chat.key_page > docs/keys.md` renews it."""
    assert KEY_PAGE.read_text(encoding="utf-8") == key_page.key_page()


class Handler:
    """Stands for a view or a handler, and notes which method a command calls."""

    def __init__(self, path: str, calls: list[str]):
        self._path = path
        self._calls = calls

    def __getattr__(self, name: str) -> "Handler":
        return Handler(f"{self._path}.{name}".removeprefix("."), self._calls)

    def __call__(self, *_: object) -> None:
        self._calls.append(self._path)


def called_by(command: commands.Command) -> str:
    calls: list[str] = []
    command.run(Handler("", calls), "text")
    return calls[0]


async def test_every_command_has_its_handler(home: Path, session: PlainChat) -> None:
    async with chat(home / "screen") as at:
        for command in [*CHAT, *in_scope("messages")]:
            path = called_by(command)
            assert callable(attrgetter(path)(at.app.chat)), command.name
            if not command.screen:
                assert callable(attrgetter(path)(session.plain)), command.name
    for scope, kind in (("sessions", ConversationList), ("models", ModelList)):
        for command in in_scope(scope):
            assert callable(getattr(kind, called_by(command))), command.name


# What reaches a command


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the commands that are called; none of them runs."""
    names: list[str] = []

    def run_command(name: str, target: object, text: str = "") -> None:
        names.append(f"{name} {text}".strip())

    monkeypatch.setattr(chat_screen, "run_command", run_command)
    return names


async def test_every_key_of_the_chat_calls_its_command(home: Path, called: list[str]) -> None:
    async with chat(home) as at:
        await at.turn("one", "so")
        at.app.action_leave = lambda: called.append("quit")  # type: ignore[method-assign]
        at.app.action_suspend = lambda: called.append("suspend")  # type: ignore[method-assign]
        for command in CHAT:
            for key in key_names(command.keys):
                if command.name not in ITS_OWN:
                    called.clear()
                    await at.press(key)
                    assert called == [command.name], key


async def test_every_key_on_a_message_calls_its_command(home: Path, called: list[str]) -> None:
    async with chat(home) as at:
        await at.turn("one")
        for command in in_scope("messages"):
            for key in key_names(command.keys):
                at.transcript.focus()
                called.clear()
                await at.press(key)
                assert called == [command.name], key


async def test_every_slash_name_calls_its_command(home: Path, called: list[str]) -> None:
    async with chat(home) as at:
        for command in CHAT:
            if command.slash:
                called.clear()
                await at.send(f"/{command.slash} {'some words' if command.argument else ''}")
                await at.until(lambda: called)
                assert called == [
                    f"{command.name} {'some words' if command.argument else ''}".strip()
                ]
                assert at.typed == ""
        assert at.sent == []


async def test_the_palette_reaches_every_command(home: Path, called: list[str]) -> None:
    async with chat(home) as at:
        await at.press("ctrl+p")
        assert called == ["palette"]
        for name in ("send", "rename", "quit"):
            called.clear()
            at.app.chat.palette()
            await at.until(lambda: isinstance(at.app.screen, Palette))
            rows = at.app.screen.query_one(OptionList)
            await at.until(lambda rows=rows: rows.option_count)
            assert [option.id for option in rows.options] == [command.name for command in CHAT]
            rows.highlighted = rows.get_option_index(name)
            await at.press("enter")
            await at.until(lambda: called)
            assert called == [name]


async def test_the_palette_searches_by_letters_and_shows_when_nothing_matches(home: Path) -> None:
    async with chat(home) as at:
        await at.press("ctrl+p", *"expo")
        assert "Export" in at.text
        assert "Sampling" not in at.text
        await at.press(*"zzz")
        assert "No command has these letters" in at.text
        await at.press("enter", "escape")
        assert not isinstance(at.app.screen, Palette)


async def test_f1_lists_every_command_with_its_keys(home: Path) -> None:
    async with chat(home) as at:
        await at.press("f1")
        page = at.app.screen
        assert isinstance(page, Page)
        lines = str(page.query_one("#text", Static).render()).splitlines()
        for command in COMMANDS:
            slash = f"/{command.slash}" if command.slash else ""
            named = f"  {shown_keys(command.keys):<20}{slash:<11}"
            assert any(
                line.startswith(named) and line[len(named) :].strip() in command.help
                for line in lines
            ), command.name
        await at.press("escape")
        assert not isinstance(at.app.screen, Page)


def test_a_line_with_a_slash_is_a_command_or_a_message() -> None:
    found = parse_slash("/rename  A title\nof two ")
    assert found is not None
    assert (found[0].name, found[1]) == ("rename", "A title\nof two")
    assert parse_slash("/RETRY") is not None
    assert parse_slash("／ｒｅｔｒｙ") is not None


@pytest.mark.parametrize(
    "text",
    [
        "/etc/hosts",
        "/etc/hosts is a file",
        "/a/b/",
        "//",
        "// so",
        "//todo fix",
        "/* so */",
        "/ 2",
        "1/2",
        "/2",
        "/^a/",
        "see /help",
        "`/etc` is a folder",
        "/\n/help",
    ],
)
def test_a_path_a_comment_and_what_is_in_backticks_are_messages(text: str) -> None:
    assert parse_slash(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/sesions rivers", r"no command /sesions; did you mean /sessions\? .* `/sesions`"),
        ("/sett x", r"did you mean /settings\?"),
        ("/exitt", r"did you mean /exit\?"),
        ("/etc is a folder", r"no command /etc: /help lists them\. .* backticks: `/etc`"),
        ("/etc", "no command /etc"),
        ("/new-chat please", "no command /new-chat"),
        ("/clear_all", "no command /clear_all"),
        ("/quit!", r"did you mean /quit\?"),
        ("/weather\nof today", "no command /weather"),
        ("/помощь мне", "no command /помощь"),
        ("/x\x1b]0;t\x07 y", "no command /x␛]0;t␇"),
        ("/" + "a" * 9_000 + " b", "no command /a{40}:"),
        ("/new and this text", "/new takes nothing after its name"),
        ("/exit now", "/quit takes nothing after its name"),
    ],
)
def test_what_looks_like_a_command_is_refused(text: str, why: str) -> None:
    with pytest.raises(Qwen35Error, match=why):
        parse_slash(text)


@pytest.mark.parametrize("text", ["/thinkin off", "/weather in Paris", "/thinkin", "/new start"])
async def test_a_mistyped_command_stays_in_the_composer(home: Path, text: str) -> None:
    async with chat(home) as at:
        await at.send(text)
        assert "there is no command" in at.text or "takes nothing" in at.text
        assert at.sent == []
        assert at.typed == text
        await at.press("ctrl+c")
        assert at.typed == ""
        await at.send(f"`{text}`")
        assert at.sent == [f"`{text}`"]


@pytest.mark.parametrize("alias", BY_ALIAS)
async def test_a_name_of_other_chats_calls_its_command(home: Path, called, alias: str) -> None:
    async with chat(home) as at:
        await at.press("slash", *alias.replace("?", " "), *(["backspace"] if alias == "?" else []))
        assert alias == "?" or f"/{alias}" in at.text  # among the completions
        await at.send(f"/{alias}")
        assert called == [BY_ALIAS[alias].name]


# What they do


async def test_thinking_by_key_and_by_word(home: Path) -> None:
    async with chat(home, settings=home / "settings.toml") as at:
        await at.press("ctrl+t")
        assert at.controller.settings.thinking == "off"
        assert "Thinking off, from the next message on" in at.text
        await at.press("ctrl+t")
        assert at.controller.settings.thinking == "on"
        await at.send("/thinking auto")
        await at.until(lambda: at.controller.settings.thinking == "auto")
        assert 'thinking = "auto"' in (home / "settings.toml").read_text()
        assert at.engine.calls[-1].settings.thinking is None  # type: ignore[union-attr]
        await at.send("/thinking maybe")
        assert "'maybe' is not one of auto, on, off" in at.text


async def test_a_system_prompt_by_word_and_by_line(home: Path) -> None:
    async with chat(home) as at:
        await at.send("/system Be brief.")
        await at.until(lambda: at.controller.settings.system == "Be brief.")
        assert at.engine.calls[-1].settings.system == "Be brief."  # type: ignore[union-attr]
        await at.send("/system")
        await at.until(lambda: isinstance(at.app.screen, Ask))
        await at.press("ctrl+u", "enter")
        assert at.controller.settings.system == ""
        assert "No system prompt" in at.text


async def test_a_preset_sets_thinking_and_shows_its_sampling(home: Path) -> None:
    async with chat(home) as at:
        await at.send("/settings sampling.top_k 5")
        await at.until(lambda: at.controller.settings.sampling)
        await at.send("/preset not-thinking")
        await at.until(lambda: at.controller.settings.thinking == "off")
        said = " ".join(at.text.split())
        assert "temperature 0.7, top_p 0.8, top_k 5, presence_penalty 1.5" in said
        assert "not-thinking" in at.text.splitlines()[-1]
        await at.send("/preset quick")
        assert "'quick' is not one of model, thinking, precise, not-thinking" in at.text


async def test_copy_and_code_by_key_and_by_name(home: Path) -> None:
    async with chat(home) as at:
        await at.press("f3")
        assert "there is nothing to copy yet" in at.text
        await at.turn("one", "Look:\n\n```\na = 1\n```\n")
        await at.press("f9")
        assert at.app.clipboard == "a = 1\n"
        await at.turn("two", "no code")
        await at.press("f3")
        assert at.app.clipboard == "no code"
        await at.send("/code")
        await at.until(lambda: at.app.clipboard == "a = 1\n")
        await at.send("/copy")
        await at.until(lambda: at.app.clipboard == "no code")


@pytest.mark.parametrize("how", ["ctrl+q", "/quit", "ctrl+c", "ctrl+q in a list"])
async def test_quit(home: Path, how: str) -> None:
    async with chat(home) as at:
        if how.startswith("/"):
            await at.send(how)
        else:
            if "list" in how:
                await at.press("ctrl+s")
            await at.pilot.press(how.split()[0])
        for _ in range(100):
            if not at.app.is_running:
                break
            await at.pilot.pause(0.01)
    assert at.app.return_code == 0


@pytest.mark.parametrize("text", ["one", "one\ntwo", " ", "a\n" * 40])
async def test_ctrl_c_clears_what_is_typed_and_up_brings_it_back(home: Path, text: str) -> None:
    async with chat(home) as at:
        at.composer.insert(text)
        await at.press("ctrl+c")
        assert at.typed == ""
        assert "Up brings it back, Ctrl+C quits" in at.text
        if text.strip():
            await at.press("up")
            assert at.composer.whole == text
            await at.press("ctrl+c")
        assert at.app.is_running
        await at.pilot.press("ctrl+c")
        await at.pilot.pause()
        assert not at.app.is_running
    assert at.sent == []


async def test_ctrl_c_stops_the_reply_then_leaves_an_edit_then_clears(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.press(*"so", "f4")
        assert at.typed == "one"
        await at.press("ctrl+c")
        assert at.typed == "so"
        at.composer.set_text("two")
        await at.press("enter")
        at.composer.insert("next")
        await at.press("ctrl+c")
        assert at.typed == "next"
        assert at.controller.stopping
        await at.shown([Cancelled()])
        assert at.typed == "next"  # as a command might be, or the start of something else
        assert "Your message was not sent: Ctrl+R finds it" in at.text
        assert at.controller.history.texts[-1] == "two"
        await at.press("ctrl+c")
        assert at.typed == ""
        assert at.app.is_running


async def test_ctrl_d_deletes_a_letter_and_quits_on_nothing(home: Path) -> None:
    async with chat(home) as at:
        await at.press(*"ab", "home", "ctrl+d")
        assert at.typed == "b"
        await at.press("end", "ctrl+d")
        assert at.typed == "b"
        assert at.app.is_running
        await at.press("backspace")
        await at.pilot.press("ctrl+d")
        await at.pilot.pause()
        assert not at.app.is_running
    assert at.app.return_code == 0


async def test_ctrl_c_stops_a_reply_first_and_leaves_a_list(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.shown([Answer("so")])
        await at.press("ctrl+c")
        assert "cancel" in at.engine.calls
        assert at.app.is_running
        await at.press("ctrl+s")
        assert isinstance(at.app.screen, ConversationList)
        await at.press("ctrl+c")
        assert not isinstance(at.app.screen, ConversationList)
        assert at.app.is_running


async def test_the_keys_of_the_list_of_models(home: Path, monkeypatch) -> None:
    class Endless:
        name, done, total, folder, error, fraction = "org/repo", 1, 4, "", "", 0.25
        seconds_left = None
        running = True
        cancelled = False

        def cancel(self) -> None:
            self.cancelled, self.running = True, False

    async with chat(home) as at:
        await at.press("ctrl+l", "ctrl+d")
        assert "nothing is being downloaded" in at.text
        at.controller.download = Endless()  # type: ignore[assignment]
        await at.press("ctrl+d")
        await at.until(lambda: "The download of repo was stopped" in at.text)
        await at.press("ctrl+g")
        assert at.engine.calls[-1] == Unload()


async def screens_open(at: Driver, key: str, kind: type) -> None:
    await at.press(key)
    assert isinstance(at.app.screen, kind)
    await at.press("escape")
    assert not isinstance(at.app.screen, kind)


async def test_lists_open_by_key_and_close_by_esc(home: Path) -> None:
    async with chat(home) as at:
        for key, kind in (
            ("ctrl+l", ModelList), ("f2", SettingsList), ("ctrl+p", Palette),
            ("ctrl+s", ConversationList), ("f1", Page),
        ):  # fmt: skip
            await screens_open(at, key, kind)
        await at.send("/model org/repo")
        await at.until(lambda: UseModel("org/repo") in at.engine.calls)
