"""The keys of the command table as Textual's bindings."""

from collections.abc import Mapping
from dataclasses import dataclass

from textual.binding import Binding, BindingsMap

from qwen35_chat.commands import keymap

# Commands whose keys work on a list that covers the chat, too, and the actions of the app.
OF_APP: Mapping[str, str] = {"quit": "leave", "suspend": "suspend"}


@dataclass(frozen=True, slots=True)
class ChatBindings:
    """The keys of the chat.

    Attributes:
        chat, app: bindings of the screen and the app.
        typed: each key that the composer handles itself, and its command's name.
    """

    chat: BindingsMap
    app: BindingsMap
    typed: Mapping[str, str]


def chat_bindings(remapped: Mapping[str, str], *, vim: bool) -> ChatBindings:
    """The keys of the chat, as the settings remap them.

    Args:
        vim: whether the composer has the keys of vim.
    """
    # What the composer handles in some states, and the chat in others.
    shared = ("escape", "ctrl+r") if vim else ("escape",)
    # While text is selected in the composer, a binding of Textual copies it first.
    chat = BindingsMap([Binding("ctrl+c", "interrupt", "Quit", show=False)])
    app = BindingsMap()
    typed: dict[str, str] = {}
    for key, command in keymap("chat", remapped).items():
        if command.typed:
            typed[key] = command.name
        elif (action := OF_APP.get(command.name)) is not None:
            app.bind(key, action, command.title, show=False, priority=True)
        else:
            # Before the composer, but for Esc, which closes its completions first, for instance.
            action = f"command('{command.name}')"
            chat.bind(key, action, command.title, show=False, priority=key not in shared)
    return ChatBindings(chat, app, typed)
