"""The list of servers and their tools."""

from collections.abc import Mapping, Sequence

from textual.content import Content

from qwen35_chat.controller import Controller
from qwen35_chat.screens.picker import Picker, Row
from qwen35_chat.tools.calls import ServerState, Tool
from qwen35_chat.tools.permissions import Permission
from qwen35_chat.tools.shown import PERMISSION_WORDS, first_line, shown_name, shown_state
from qwen35_chat.tools.toolbox import Toolbox
from qwen35_mlx.text.folding import folded

NEXT: Mapping[Permission, Permission] = {"ask": "always", "always": "never", "never": "ask"}
WATCH_SECONDS = 0.25
HINT = "Enter switches a server or goes on to the next answer for a tool, Esc goes back"


class ToolList(Picker):
    """Servers, and under each its tools. A row's id is s or t and its number."""

    def __init__(self, controller: Controller, toolbox: Toolbox):
        super().__init__("Tools", self._make_rows, hint=HINT)
        self._controller = controller
        self._toolbox = toolbox
        self._shown: tuple[ServerState, ...] = ()

    def on_mount(self) -> None:
        super().on_mount()
        self.set_interval(WATCH_SECONDS, self._watch)

    def _watch(self) -> None:
        """Show what has become of servers that start."""
        if self._toolbox.states != self._shown:
            self.reload(self.marked)

    def _make_rows(self, words: str) -> Sequence[Row]:
        self._shown = self._toolbox.states
        rows: list[Row] = []
        listed = list(enumerate(self._toolbox.listed()))
        for number, state in enumerate(self._shown):
            name = (shown_name(state.name), "bold")
            tools = [
                Row(
                    f"t{at}",
                    Content.assemble(
                        f"  {shown_name(offer.tool.name)}  ",
                        (first_line(offer.tool.description), "dim"),
                    ),
                    Content.styled(self._permission(offer.tool), "dim"),
                )
                for at, offer in listed
                if offer.tool.server == state.name and _has(words, offer.name)
            ]
            if tools or _has(words, state.name):
                status = Content.styled(shown_state(state), "dim")
                rows += [Row(f"s{number}", Content.assemble(name, "  ", status)), *tools]
        return rows or [Row("", Content("No tool has these letters"))]

    def _permission(self, tool: Tool) -> str:
        return PERMISSION_WORDS[self._toolbox.permissions.of(tool)]

    def chosen(self, row: str) -> None:
        number = int(row[1:])
        if row.startswith("s"):
            state = self._shown[number]
            self._controller.switch_tools(state.name, on=state.status in ("off", "failed"))
        elif number < len(listed := self._toolbox.listed()):
            tool = listed[number].tool
            self._controller.allow_tool(tool, NEXT[self._toolbox.permissions.of(tool)])
        self.reload(row)


def _has(words: str, name: str) -> bool:
    return all(word in folded(name) for word in folded(words).split())
