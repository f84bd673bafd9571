"""`--plain`: the commands, by their slash names, and what they write."""

import re
from pathlib import Path

import pytest
from qwen35_chat import clipboard
from qwen35_chat.commands import BY_SLASH

from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import (
    Cancelled,
    Event,
    Opened,
)
from qwen35_mlx.session.requests import Compact, Edit, Open, Retry, Select, Unload
from tests.app.drive import reply
from tests.app.models_drive import CONFIG, in_cache, make
from tests.app.plain_drive import FIGURES, PlainChat, ctrl_c


def test_every_slash_name_is_listed_or_needs_the_screen(session) -> None:
    session.run("/help")
    listed = re.findall(r"^/(\w+)", session.out.getvalue(), re.MULTILINE)
    assert listed == [name for name, command in BY_SLASH.items() if not command.screen]
    for name, command in BY_SLASH.items():
        if command.screen:
            assert f"Error: /{name} needs the screen" in PlainChat(session.library.folder).run(
                f"/{name}"
            )


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        (
            "/sesions",
            "there is no command /sesions; did you mean /sessions? As text it goes in "
            "backticks: `/sesions`",
        ),
        (
            "/foo",
            "there is no command /foo: /help lists them. As text it goes in backticks: `/foo`",
        ),
        ("/exit now", "/quit takes nothing after its name"),
        ("/thinking maybe", "thinking is auto; give one of: auto, on, off"),
        ("/preset fast", "preset is model; give one of: model, thinking, precise, not-thinking"),
        ("/view", "thinking_view is collapsed; give one of: hidden, collapsed, open"),
        ("/settings max_tokens many", "max_tokens must be a whole number, and 'many' is none"),
        ("/retry", "this conversation has no message yet"),
        ("/edit", "this conversation has no message yet"),
        ("/older", "this conversation has no message yet"),
        ("/rename x", "this conversation has no message yet"),
        ("/delete", "this conversation has no message yet"),
        ("/undo", "nothing was deleted since the start"),
        ("/export", "this conversation has no message yet"),
        ("/compact", "there is nothing to compact yet"),
        ("/copy", "there is nothing to copy yet"),
        ("/code", "there is no code in the last answer"),
    ],
)
def test_an_error_is_one_line(session: PlainChat, typed: str, why: str) -> None:
    assert session.run(typed) == f"Error: {why}\n"
    assert session.engine.sent == []


def test_conversations_are_listed_opened_renamed_deleted_and_brought_back(session) -> None:
    written = session.run(
        "about rivers", reply("they flow"), "/new", "about trees", reply("they grow"),
        "/rename Trees", "/sessions", "/sessions flow", "/sessions 1", "/delete", "/undo",
        "/sessions none of this",
    )  # fmt: skip
    assert "A new conversation.\n" in written
    assert "Renamed to Trees\n1. Trees: " in written
    assert "/sessions and a number opens one.\n1. about rivers: they flow\n" in written
    assert "about rivers:\nYou: about rivers\nAnswer: they flow\n" in written
    assert "Deleted about rivers; /undo brings it back\nA new conversation.\n" in written
    assert written.endswith("Answer: they flow\nThere is none.\n")
    assert Open(1) in session.engine.calls


def test_versions_by_retry_and_edit(session: PlainChat) -> None:
    written = session.run(
        "q", reply("one"), "/retry", reply("two"), "/older", "/edit", "/edit r", reply("three"),
    )  # fmt: skip
    calls = session.engine.calls
    assert Retry(2) in calls
    assert Select(2) in calls
    assert Edit(1, "r") in calls
    assert "Answer (version 1 of 2): one\n" in written
    assert "Your last message: q\n/edit and a text sends that instead.\n" in written
    assert written.endswith(f"Answer: three\n{FIGURES}")


def test_a_summary_is_waited_for(session: PlainChat, monkeypatch) -> None:
    take = session.engine._take
    monkeypatch.setattr(session.engine, "_take", lambda r: None if r == Compact() else take(r))
    waits: list[list[Event]] = [[] for _ in range(40)]
    session.run("q", reply("so"), "/compact", *waits, [Opened(1, "q")])
    assert "q:\nYou: q\nAnswer: so\n" in session.out.getvalue()
    assert not session.controller.busy


def test_a_summary_can_be_stopped(session: PlainChat, monkeypatch) -> None:
    take = session.engine._take
    monkeypatch.setattr(session.engine, "_take", lambda r: None if r == Compact() else take(r))
    session.steps = [
        lambda: session.engine.play(reply("so")),
        ctrl_c(session, []),
        lambda: session.engine.play([Cancelled()]),
    ]
    assert session.run("q", "/compact").endswith("Stopped.\n")
    assert session.engine.calls.count("cancel") >= 1


def test_changes_are_stored_in_the_settings_file(session: PlainChat, home: Path) -> None:
    written = session.run(
        "/thinking on", "/preset not-thinking", "/system Be brief.", "/system",
        "/settings sampling.top_k 7", "/settings",
    )  # fmt: skip
    kept = (home / "settings.toml").read_text()
    for line in (
        'thinking = "off"',
        'preset = "not-thinking"',
        'system = "Be brief."',
        "top_k = 7",
    ):
        assert line in kept
    assert "System prompt: Be brief.\n" in written
    assert "sampling.temperature: 0.7\nsampling.top_p: 0.8\nsampling.top_k: 7\n" in written
    assert "folders: none\n" in written


def test_models_are_listed_with_what_fits(session: PlainChat, monkeypatch, tmp_path) -> None:
    make(in_cache(tmp_path, "org/odd"), {**CONFIG, "layer_types": 5})
    monkeypatch.setattr("qwen35_chat.models.machine_memory", lambda: 16 * 2**30)
    written = session.run("/model")
    assert "demo: 15.1 MB, needs 534 MB, fits, here\n" in written
    assert "mlx-community/Qwen3.5-4B-MLX-4bit: 3.0 GB, needs 4.0 GB, fits, to download\n" in written
    assert (
        "mlx-community/Qwen3.6-27B-4bit: 16.1 GB, needs 17.9 GB, KL 0.057, too large, to download\n"
        in written
    )
    assert "org/odd cannot be used: config.json: 'layer_types' must name 32 layers" in written
    assert "org/odd: " not in written


def test_unload_copy_code_and_export(session: PlainChat, monkeypatch) -> None:
    copied: list[str] = []
    monkeypatch.setattr(clipboard, "copy", lambda text, *_: copied.append(text) or "Copied")
    written = session.run(
        "q", reply("Look:\n\n```\na = 1\n```\n"), "/copy", "/code", "/export x.md", "/export x.md",
        "/unload",
    )  # fmt: skip
    assert copied == ["Look:\n\n```\na = 1\n```", "a = 1\n"]
    assert "Written to x.md in " in written
    assert "\nError: x.md exists: give another name" in written
    assert Path("x.md").read_text().startswith("# q\n")
    assert Unload() in session.engine.calls
    assert written.endswith("memory was given back; the next message loads it again.\n")


def test_a_conversation_of_another_window_is_read_only(session: PlainChat, home: Path) -> None:
    session.run("q", reply("so"))
    other = PlainChat(home, library=Library(home))
    other.run("me too", at=1)
    assert "Open in another window: here it can be read only.\n" in other.out.getvalue()
    assert "Error: this conversation is open in another window" in other.out.getvalue()
    assert other.engine.sent == []
    other.library.close()
