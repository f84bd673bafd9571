"""The tools of a run without questions: those alone that the command line names."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qwen35_chat.settings import settings_file
from qwen35_chat.tools.calling import UNKNOWN
from qwen35_chat.tools.calls import ERROR
from qwen35_chat.tools.toolbox import OfferedTool, Toolbox, open_toolbox, plain_name
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text.reply import ToolCall
from qwen35_mlx.user_paths import shown

if TYPE_CHECKING:
    from qwen35_mlx.session.model import Model

WAIT_SECONDS = 0.05


class AllowedTools:
    """Runs calls of some tools.

    Attributes:
        schemas: of the tools, as `qwen35_mlx.Chat` takes them.
    """

    def __init__(self, toolbox: Toolbox, offers: Sequence[OfferedTool]):
        self._toolbox = toolbox
        self._tools = {offer.name: offer.tool for offer in offers}
        self.schemas = [offer.for_model() for offer in offers]

    def results(self, calls: Sequence[ToolCall], model: "Model") -> list[dict[str, Any]]:
        """The results of calls, one after another, as messages that fit the model's context."""
        from qwen35_mlx.session.results import tool_messages

        return tool_messages(model, [self._result(call) for call in calls])

    def _result(self, call: ToolCall) -> str:
        tool = self._tools.get(call.name)
        if tool is None:
            return f"{ERROR}{UNKNOWN}"
        result = self._toolbox.call(tool, call.arguments).result()
        return f"{ERROR}{result.text}" if result.error else result.text


@contextmanager
def allowed_tools(
    names: Sequence[str], mcp_config: str | None, tools_folder: str
) -> Iterator[AllowedTools]:
    """Connect to the servers, and end them after the block.

    Args:
        names: of the tools, as `/tools` lists them in plain mode.
        mcp_config: as in `CommandOptions`.
        tools_folder: that the built-in tools read; "" for no such tools.

    Raises:
        Qwen35Error: a tool is not there, or its name could be that of another one.
    """
    toolbox, problems = open_toolbox(settings_file().parent, mcp_config, tools_folder)
    if toolbox is None:
        raise Qwen35Error(problems[0] if problems else "there are no tools: name servers first")
    try:
        toolbox.start()
        while toolbox.starting:
            time.sleep(WAIT_SECONDS)
        problems += toolbox.failures()
        listed = {offer.name: offer for offer in toolbox.listed()}
        for name in names:
            if name not in listed:
                known = ", ".join(listed) or "none"
                reason = f"; {problems[0]}" if problems else ""
                raise Qwen35Error(f"there is no tool {shown(name)}, only: {known}{reason}")
            if not _is_sure(listed[name], toolbox):
                raise Qwen35Error(
                    f"the name {shown(name)} could be that of another tool: give the servers in "
                    "mcp.json other names, or leave the tool out"
                )
        yield AllowedTools(toolbox, [listed[name] for name in dict.fromkeys(names)])
    finally:
        toolbox.close()


def _is_sure(offer: OfferedTool, toolbox: Toolbox) -> bool:
    """Whether no other tool could have this name, whichever servers answer, in whichever order."""
    same = [
        other
        for other in toolbox.listed()
        if plain_name(other.tool.server, other.tool.name) == offer.name
    ]
    servers = [
        state for state in toolbox.states if offer.name.startswith(plain_name(state.name, ""))
    ]
    return same == [offer] and len(servers) == 1
