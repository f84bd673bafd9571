"""What a chat is configured with: the servers of two places, a folder, and lines about mistakes."""

from pathlib import Path

import pytest
from qwen35_chat.disk_calls import finished
from qwen35_chat.fake import done
from qwen35_chat.tools.calls import ToolResult
from qwen35_chat.tools.toolbox import Toolbox, open_toolbox

from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import Notice, ToolCall
from qwen35_mlx.session.requests import AddResults
from tests.app.plain_drive import PlainChat
from tests.app.test_controller import LoneController
from tests.app.tools.drive import ScriptedServer, toolbox, until, write_config


def names(tools: Toolbox | None) -> list[str]:
    assert tools is not None
    found = [state.name for state in tools.states]
    tools.close()
    return found


def test_without_a_file_and_a_folder_there_are_no_tools(home: Path) -> None:
    assert open_toolbox(home, None, "") == (None, [])
    assert open_toolbox(None, None, "") == (None, [])


def test_the_file_beside_the_settings_is_read_and_made_private(home: Path) -> None:
    file = write_config(home / "mcp.json")
    file.chmod(0o644)
    tools, problems = open_toolbox(home, None, str(home))
    assert names(tools) == ["folder", "test"]
    assert not problems
    assert file.stat().st_mode & 0o077 == 0


def test_a_file_that_is_named_is_read_instead(home: Path, tmp_path: Path) -> None:
    write_config(home / "mcp.json")
    other = write_config(tmp_path / "other.json", more={"url": "https://x.org/mcp"})
    tools, _ = open_toolbox(home, str(other), "")
    assert names(tools) == ["test", "more"]


@pytest.mark.parametrize("folder", ["~nobody-here/x", "/nowhere/at/all", "a\0b", "mcp.json"])
def test_a_folder_that_is_none_is_one_line(folder: str, home: Path) -> None:
    (home / "mcp.json").write_text("{")
    tools, problems = open_toolbox(home, None, folder)
    assert tools is None
    assert len(problems) == 2
    assert all("\n" not in line for line in problems)


@pytest.mark.parametrize("file", ["~nobody-here/x", "a\0b", "\udcff", "x" * 5000, ".", "missing"])
def test_a_file_that_is_none_is_one_line(file: str, home: Path) -> None:
    tools, (problem,) = open_toolbox(home, file, "")
    assert tools is None
    assert "\n" not in problem


def test_results_are_stored_when_the_window_closes(home: Path) -> None:
    with Library(home) as library:
        window = LoneController(library)
        files = ScriptedServer("files", "read")
        window.toolbox = toolbox(files)
        window.send("read twice")
        call = ToolCall("files__read", {})
        window.after(call, call, done("tool_calls"))
        window.answer_tool("once")
        files.futures[0].set_result(ToolResult("text"))
        window.after()
        window.end_calls()
        reason = "this call was not run, since the user stopped the turn"
        assert window.engine.requests[-1] == AddResults(("text", f"Error: {reason}"))
        window.end_calls()
        assert not window.busy


def test_a_server_that_is_disabled_starts_once_it_is_switched_on(home: Path) -> None:
    write_config(home / "mcp.json", late={"command": "/nowhere", "disabled": True})
    for on in (False, True):
        tools, _ = open_toolbox(home, None, "")
        assert tools is not None
        tools.start()
        until(lambda tools=tools: not tools.starting)
        assert [state.status for state in tools.states] == ["ready", "failed" if on else "off"]
        tools.switch("late", on=True)
        tools.permissions.save()
        tools.close()


def test_each_failure_is_told_once(home: Path) -> None:
    file = write_config(home / "mcp.json", gone={"command": "/nowhere"})
    tools, _ = open_toolbox(home, str(file), "")
    assert tools is not None
    tools.start()
    until(lambda: not tools.starting)
    assert tools.failures() == [
        "The tools of gone: the command /nowhere cannot be run (No such file or directory)"
    ]
    assert tools.failures() == []
    tools.close()


def test_problems_become_lines_of_the_chat(home: Path) -> None:
    with Library(home) as library:
        window = LoneController(library)
        window._tool_notices = ["mcp.json: it is not JSON"]
        assert window.after() == [Notice("mcp.json: it is not JSON")]
        assert window.after() == []


def test_plain_mode_needs_tools_to_list_them(session: PlainChat) -> None:
    assert session.run("/tools").startswith("Error: there are no tools: name servers in mcp.json")


def test_permissions_that_cannot_be_stored_are_a_line(home: Path) -> None:
    with Library(home) as library:
        window = LoneController(library)
        (home / "file").write_text("")
        files = ScriptedServer("files", "read")
        window.toolbox = toolbox(files)
        window.toolbox.permissions._file = home / "file" / "tools.json"
        (offer,) = window.toolbox.offered()
        window.allow_tool(offer.tool, "always")
        (line,) = window.calls.take_errors()
        assert "tools.json cannot be" in line
        assert window.toolbox.permissions.of(offer.tool) == "always"
        finished(window._polled())
