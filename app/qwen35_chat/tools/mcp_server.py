"""A server of the Model Context Protocol, by the `mcp` package.

The package takes half a second to import, so it is imported when the first server starts, on the
thread of the event loop.
"""

import asyncio
import base64
import json
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from qwen35_chat.tools.calls import ServerState, Status, Tool, ToolResult, cut
from qwen35_chat.tools.config import ServerConfig
from qwen35_chat.tools.event_loop import EventLoopThread
from qwen35_mlx import __version__
from qwen35_mlx.files import one_line
from qwen35_mlx.json_text import write_json
from qwen35_mlx.terminal import visible_line
from qwen35_mlx.text.tool_call import is_deep

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult

# The first start of a server may install it.
START_SECONDS = 120.0
MAX_TOOLS = 128
MAX_PAGES = 32
MAX_TOOL_CHARACTERS = 32_768  # of its name, description and schema
MAX_SCHEMA_DEPTH = 32
ERROR_LINES = 20  # of what a server writes to standard error, that are kept
MISSING = (
    "the package mcp is not installed: pip install 'qwen35-mlx[tools]' brings what servers need"
)


class McpServer:
    """One server, with a connection of its own.

    Args:
        loop: where everything of it runs.
    """

    def __init__(self, config: ServerConfig, loop: EventLoopThread):
        self.state = ServerState(config.name, "off")
        self._config = config
        self._loop = loop
        self._running: Future[None] | None = None
        self._run_number = 0  # of the newest run, the only one whose state is shown
        self._connection = asyncio.Lock()  # one run at a time: a new one waits for the last to end
        self._client: Client | None = None
        self._stderr: deque[str] = deque(maxlen=ERROR_LINES)

    def start(self) -> None:
        if self.state.status not in ("starting", "ready"):
            self._run_number += 1
            self._show("starting")
            self._running = self._loop.submit(self._run(self._run_number))

    def stop(self) -> None:
        self._run_number += 1
        if self._running is not None:
            self._running.cancel()
        self._show("off")

    def close(self, seconds: float) -> None:
        self.stop()
        with suppress(Exception):
            self._loop.submit(self._ended()).result(seconds)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Future[ToolResult]:
        return self._loop.submit(self._call(name, dict(arguments)))

    def _show(self, status: Status, tools: Sequence[Tool] = (), error: str = "") -> None:
        # One assignment: other threads see the state before or the state after.
        self.state = ServerState(self._config.name, status, tuple(tools), error)

    async def _ended(self) -> None:
        async with self._connection:
            pass

    async def _run(self, number: int) -> None:
        """Connect, list the tools, and keep the connection until this is cancelled."""
        async with self._connection:
            self._stderr.clear()
            try:
                async with self._connected(number) as client:
                    self._client = client
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                if number == self._run_number:
                    advice = "check its url and headers" if self._config.url else ""
                    reason = ": ".join(part for part in (self._reason(error), advice) if part)
                    self._show("failed", error=reason)
            finally:
                self._client = None

    @asynccontextmanager
    async def _connected(self, number: int) -> "AsyncIterator[Client]":
        from mcp import Client
        from mcp_types import Implementation, ToolListChangedNotification

        changed = asyncio.Event()

        async def note(message: object) -> None:
            if isinstance(message, ToolListChangedNotification):
                changed.set()

        async with AsyncExitStack() as stack:
            transport = await self._transport(stack)
            client = Client(
                transport,
                client_info=Implementation(name="qwen35-chat", version=__version__),
                message_handler=note,
            )
            async with asyncio.timeout(START_SECONDS):
                await stack.enter_async_context(client)
                tools = await self._tools(client)
            if number == self._run_number:
                self._show("ready", tools)
            follow = asyncio.ensure_future(self._follow(client, changed))
            stack.callback(follow.cancel)
            yield client

    async def _transport(self, stack: AsyncExitStack) -> Any:
        config = self._config
        if config.url:
            from mcp.client.streamable_http import streamable_http_client
            from mcp.shared._httpx_utils import create_mcp_http_client

            http = create_mcp_http_client(headers=dict(config.headers))
            await stack.enter_async_context(http)
            return streamable_http_client(config.url, http_client=http)
        from mcp import StdioServerParameters
        from mcp.client.stdio import stdio_client

        parameters = StdioServerParameters(
            command=config.command,
            args=list(config.args),
            env=dict(config.env) or None,
            cwd=config.cwd or None,
            encoding_error_handler="replace",
        )
        return stdio_client(parameters, errlog=self._error_pipe(stack))

    def _error_pipe(self, stack: AsyncExitStack) -> Any:
        """A stream for the server's standard error, of which the last lines are kept."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        loop = asyncio.get_running_loop()

        def read() -> None:
            data = b""
            with suppress(OSError):
                data = os.read(reading, 1 << 16)
            if not data:
                loop.remove_reader(reading)
            for line in data.decode("utf-8", "replace").splitlines():
                if line.strip():
                    self._stderr.append(line[:500])

        loop.add_reader(reading, read)
        stack.callback(os.close, reading)
        stack.callback(loop.remove_reader, reading)
        return stack.enter_context(os.fdopen(writing, "wb", buffering=0))

    async def _tools(self, client: "Client") -> list[Tool]:
        """All tools of the server, page by page."""
        tools: list[Tool] = []
        cursor = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor, cache_mode="refresh")
            tools += [self._tool(tool) for tool in page.tools if _fits(tool)]
            cursor = page.next_cursor
            if not cursor or len(tools) >= MAX_TOOLS:
                break
        return tools[:MAX_TOOLS]

    def _tool(self, tool: Any) -> Tool:
        config, description = self._config, tool.description or ""
        return Tool(config.name, tool.name, description, tool.input_schema, config.origin)

    async def _follow(self, client: "Client", changed: asyncio.Event) -> None:
        """List the tools again whenever the server says that they have changed."""
        while True:
            await changed.wait()
            changed.clear()
            with suppress(Exception):
                tools = await self._tools(client)
                if self._client is client:
                    self._show("ready", tools)

    async def _call(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        client = self._client
        if client is None:
            return ToolResult("the server is not connected", error=True)
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED

        try:
            return _result(await client.call_tool(name, arguments))
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                self._end(error)
            return ToolResult(cut(one_line(error)), error=True)
        except Exception as error:
            return ToolResult(self._reason(error), error=True)

    def _end(self, error: Exception) -> None:
        """Give up the connection, which the server has ended."""
        reason = self._reason(error)
        self.stop()
        self._show("failed", error=reason)

    def _reason(self, error: BaseException) -> str:
        """Why something failed, in one line."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, ImportError) and error.name in ("mcp", "mcp_types"):
            return MISSING
        if isinstance(error, TimeoutError):
            return f"no answer in {START_SECONDS:g} s"
        if isinstance(error, FileNotFoundError | PermissionError) and self._config.command:
            return f"the command {self._config.command} cannot be run ({error.strerror})"
        reason = one_line(error) or type(error).__name__
        last = self._stderr[-1] if self._stderr else ""
        return visible_line(f"{reason}; its last line: {last}" if last else reason)


def _fits(tool: Any) -> bool:
    """Whether a tool is small enough for a prompt; others are left out."""
    try:
        size = len(tool.name) + len(tool.description or "") + len(json.dumps(tool.input_schema))
    except (ValueError, RecursionError):
        return False
    return size <= MAX_TOOL_CHARACTERS and not is_deep(tool.input_schema, MAX_SCHEMA_DEPTH)


def _result(result: "CallToolResult") -> ToolResult:
    """The text of a result; other content is named."""
    parts = [_block_text(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [write_json(result.structured_content)]
    text = "\n".join(parts) or ("" if result.is_error else "[no output]")
    return ToolResult(cut(text or "the tool failed without a word"), error=result.is_error)


def _block_text(block: Any) -> str:
    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            with suppress(ValueError):
                size = len(base64.b64decode(block.data))
                return f"[{block.type}, {block.mime_type}, {size:,} bytes: not shown to the model]"
            return f"[{block.type}: not shown to the model]"
        case "resource_link":
            return f"[{block.name}: {block.uri}]"
        case _:
            text = getattr(block.resource, "text", None)
            return f"[{block.resource.uri}: not text]" if text is None else text
