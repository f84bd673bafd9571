"""The keys of the command table as Textual's bindings."""

from collections.abc import Mapping
from dataclasses import dataclass

from textual.binding import Binding, BindingsMap

from qwen35_chat.commands import keymap


@dataclass(frozen=True, slots=True)
class ChatBindings:
    """The keys of the chat.

    Attributes:
        chat, messages, app: bindings of the screen, the transcript and the app.
        typed: each key that the composer handles itself, and its command's name.
    """

    chat: BindingsMap
    messages: BindingsMap
    app: BindingsMap
    typed: Mapping[str, str]


def chat_bindings(remapped: Mapping[str, str]) -> ChatBindings:
    """The keys of the chat, as the settings remap them."""
    # While text is selected, a binding of Textual copies it first.
    chat = BindingsMap([Binding("ctrl+c", "interrupt", "Quit", show=False)])
    messages, app = BindingsMap(), BindingsMap()
    typed: dict[str, str] = {}
    for key, command in keymap("chat", remapped).items():
        if command.typed:
            typed[key] = command.name
        elif command.name == "quit":
            # Of the app, so that it works on a list that covers the chat, too.
            app.bind(key, "leave", "Quit", show=False, priority=True)
        else:
            # Before the composer, but for Esc, which closes its completions first.
            action = f"command('{command.name}')"
            chat.bind(key, action, command.title, show=False, priority=key != "escape")
    for key, command in keymap("messages", remapped).items():
        messages.bind(key, f"screen.command('{command.name}')", command.title, show=False)
    return ChatBindings(chat, messages, app, typed)
