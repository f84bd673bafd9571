"""The tools that the model may call."""

from typing import cast

from qwen35_chat.controller import Controller
from qwen35_chat.handlers.view import ChatView
from qwen35_chat.tools.permissions import Permission
from qwen35_chat.tools.shown import PERMISSION_WORDS, shown_name
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.user_paths import shown


class ToolHandler:
    """Commands about tools."""

    def __init__(self, controller: Controller, view: ChatView):
        self._controller = controller
        self._view = view

    def tools(self, text: str = "") -> None:
        """List servers and tools, or change one: a server's name and on or off, a tool's name and
        its permission.
        """
        toolbox = self._controller.require_toolbox()
        if not text:
            self._view.list_tools(toolbox)
            return
        name, _, value = text.rpartition(" ")
        if value in ("on", "off") and name:
            self._controller.switch_tools(name, on=value == "on")
            self._view.show_message(f"The tools of {shown_name(name)}: {value}")
            return
        if value not in PERMISSION_WORDS or not name:
            raise Qwen35Error("give a server and on or off, or a tool and ask, always or never")
        tool = next((offer.tool for offer in toolbox.listed() if offer.name == name), None)
        if tool is None:
            raise Qwen35Error(f"there is no tool {shown(name)}: /tools lists them")
        permission = cast(Permission, value)
        self._controller.allow_tool(tool, permission)
        self._view.show_message(f"{shown_name(name)} {PERMISSION_WORDS[permission]}")
