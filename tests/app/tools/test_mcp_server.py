"""Servers in processes of their own, and one by HTTP, through the `mcp` package."""

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from qwen35_chat.tools.calls import MAX_RESULT_BYTES, ToolResult
from qwen35_chat.tools.config import ServerConfig
from qwen35_chat.tools.event_loop import EventLoopThread
from qwen35_chat.tools.mcp_server import MISSING, McpServer

from tests.app.tools.drive import SERVER, until
from tests.app.tools.server import DESCRIPTIONS, ESCAPES

COMMAND = ServerConfig("test", sys.executable, ("-S", str(SERVER)))


@pytest.fixture(scope="module")
def loop() -> Iterable[EventLoopThread]:
    loop = EventLoopThread()
    yield loop
    loop.close(10)


@pytest.fixture(scope="module")
def test_server(loop: EventLoopThread) -> Iterable[McpServer]:
    server = started(COMMAND, loop)
    assert server.state.status == "ready", server.state.error
    yield server
    server.close(5)


def started(config: ServerConfig, loop: EventLoopThread) -> McpServer:
    server = McpServer(config, loop)
    server.start()
    until(lambda: server.state.status != "starting", 30)
    return server


def call(server: McpServer, name: str, **arguments: object) -> ToolResult:
    return server.call(name, arguments).result(20)


def test_all_tools_are_listed(test_server: McpServer) -> None:
    echo = test_server.state.tools[0]
    assert [tool.name for tool in test_server.state.tools] == list(DESCRIPTIONS)
    assert (echo.server, echo.description) == ("test", "Returns the text.")
    assert echo.schema["required"] == ["text"]


def test_results_and_errors_come_as_text(test_server: McpServer) -> None:
    assert call(test_server, "echo", text="ä\n<|im_end|>") == ToolResult("ä\n<|im_end|>")
    assert call(test_server, "failing") == ToolResult("the disk is \x1b[31mred", error=True)
    assert call(test_server, "escape").text == ESCAPES  # for the model; the screen shows pictures
    assert (
        call(test_server, "picture").text == "[image, image/png, 3 bytes: not shown to the model]"
    )


def test_a_huge_result_is_cut_with_a_line_that_says_so(test_server: McpServer) -> None:
    text = call(test_server, "huge").text
    assert len(text) < MAX_RESULT_BYTES + 100
    assert text.endswith("\n[Cut: these are the first 65,536 of 3,000,000 bytes]")


def test_a_slow_call_is_given_up_at_once_and_others_go_on(test_server: McpServer) -> None:
    slow = test_server.call("slow", {})
    assert call(test_server, "echo", text="beside") == ToolResult("beside")
    assert call(test_server, "cancelled").text == "0"
    assert slow.cancel()
    assert call(test_server, "echo", text="after") == ToolResult("after")
    until(lambda: call(test_server, "cancelled").text == "1")


def test_a_server_learns_nothing_of_the_folders_here(test_server: McpServer) -> None:
    answer = json.loads(call(test_server, "roots").text)
    assert "message" in answer, "the client has answered, and not with an error"


def test_a_description_that_changes_is_seen(loop: EventLoopThread) -> None:
    server = started(COMMAND, loop)
    before = server.state.tools[0]
    assert call(server, "change") == ToolResult("changed")
    until(lambda: server.state.tools[0].description == "Deletes everything.")
    assert server.state.tools[0].fingerprint != before.fingerprint
    server.close(5)
    assert server.state.status == "off"


def test_a_server_that_ends_says_so_and_starts_again(loop: EventLoopThread) -> None:
    server = started(COMMAND, loop)
    assert call(server, "leave").error
    assert server.state.status == "failed"
    assert server.state.error == "Connection closed; its last line: the server has had enough"
    assert not server.state.tools
    server.start()
    until(lambda: server.state.status == "ready")
    assert call(server, "echo", text="again") == ToolResult("again")
    server.close(5)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            ServerConfig("x", "/nowhere/server"),
            "the command /nowhere/server cannot be run (No such",
        ),
        (
            ServerConfig("x", sys.executable, ("-S", "-c", "raise SystemExit('no\\x1b[2J key')")),
            "Connection closed; its last line: no␛[2J key",
        ),
        (ServerConfig("x", url="http://127.0.0.1:9/mcp"), "All connection attempts failed"),
    ],
)
def test_a_server_that_does_not_start_says_why(
    config: ServerConfig, reason: str, loop: EventLoopThread
) -> None:
    server = started(config, loop)
    assert server.state.status == "failed"
    assert server.state.error.startswith(reason)


def test_a_process_ends_with_its_connection(loop: EventLoopThread, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    code = f"import os; open({str(marker)!r}, 'w').write(str(os.getpid())); "
    code += f"exec(open({str(SERVER)!r}).read())"
    server = started(ServerConfig("x", sys.executable, ("-S", "-c", code)), loop)
    assert server.state.status == "ready"
    process = Path("/proc") / marker.read_text()
    assert process.exists() or sys.platform != "linux"
    server.close(5)
    until(lambda: not process.exists())


def test_without_the_package_a_line_says_how_to_get_it(
    loop: EventLoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert started(COMMAND, loop).state.error == MISSING


@pytest.fixture(scope="module")
def address() -> Iterable[str]:
    file = SERVER.with_name("http_server.py")
    with subprocess.Popen(
        [sys.executable, str(file)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
        process.kill()


def test_a_server_by_http_gets_the_headers(address: str, loop: EventLoopThread) -> None:
    server = started(ServerConfig("web", url=address, headers={"X-Key": "right"}), loop)
    assert server.state.status == "ready", server.state.error
    assert call(server, "echo", text="by HTTP") == ToolResult("by HTTP")
    slow = server.call("slow", {})
    time.sleep(0.05)
    assert slow.cancel()
    assert call(server, "echo", text="after") == ToolResult("after")
    server.close(5)
    refused = started(ServerConfig("web", url=address), loop)
    assert refused.state.error == "Server returned an error response: check its url and headers"
