"""Every command, once: its key, its slash name, its help, and the handler that it calls.

Completion, the palette, F1, the key bindings and docs/keys.md (`key_page.py`) read this table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import iscoroutine
from typing import Any, Literal

from qwen35_chat.keys import key_names, shown_keys
from qwen35_mlx.errors import Qwen35Error

Scope = Literal["chat", "messages", "sessions", "models"]
SCOPES: Mapping[Scope, str] = {
    "chat": "Everywhere in the chat",
    "messages": "On a message (Tab goes there, Esc comes back)",
    "sessions": "In the list of conversations",
    "models": "In the list of models",
}


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        run: calls a handler. Its arguments are the view that holds the handlers (the screen,
            plain mode or a list), and the text after the slash name. It returns a coroutine if the
            command may wait for the disk.
        keys: its default keys, in Textual's names, separated by commas; "" for none.
        slash: its name in the composer, without the slash; "" for none.
        aliases: other slash names, which users of other chats know.
        argument: what may follow the slash name; "" for nothing.
        screen: it needs the screen; plain mode does not have it.
        typed: the composer handles the key itself, in order with what is typed.
    """

    name: str
    title: str
    help: str
    run: Callable[[Any, str], Any]
    keys: str = ""
    slash: str = ""
    aliases: tuple[str, ...] = ()
    argument: str = ""
    scope: Scope = "chat"
    screen: bool = False
    typed: bool = False


COMMANDS: tuple[Command, ...] = (
    Command(
        "send", "Send", "send the message", lambda do, _: do.writing.send(),
        keys="enter", screen=True, typed=True,
    ),
    Command(
        "newline", "New line", "begin a new line", lambda do, _: do.writing.new_line(),
        keys="shift+enter,ctrl+j", screen=True, typed=True,
    ),
    Command(
        "stop", "Stop", "stop the reply; what was said is kept", lambda do, _: do.writing.stop(),
        keys="escape", screen=True,
    ),
    Command(
        "new", "New conversation", "begin a new conversation", lambda do, _: do.conversations.new(),
        keys="ctrl+n", slash="new", aliases=("clear",),
    ),
    Command(
        "sessions", "Conversations", "find and open a conversation, by title or any words in it",
        lambda do, text: do.conversations.list(text), keys="ctrl+s", slash="sessions",
        aliases=("resume",), argument="words",
    ),
    Command(
        "rename", "Rename", "give this conversation a title",
        lambda do, text: do.conversations.rename(text),
        slash="rename", argument="title",
    ),
    Command(
        "delete", "Delete", "delete this conversation",
        lambda do, _: do.conversations.delete(), slash="delete",
    ),
    Command(
        "undo", "Bring back", "bring back the conversation that was deleted last",
        lambda do, _: do.conversations.undo(), slash="undo",
    ),
    Command(
        "export", "Export", "write this conversation to a file, as Markdown, HTML or JSON",
        lambda do, text: do.conversations.export(text), slash="export",
        argument="file.md, .html or .json",
    ),
    Command(
        "retry", "Retry", "ask for another reply to the same message",
        lambda do, text: do.versions.retry(text), keys="f5", slash="retry",
        argument="temperature 1.2 ...",
    ),
    Command(
        "edit", "Edit", "write another version of your last message; the old one stays",
        lambda do, text: do.versions.edit(text), keys="f4", slash="edit", argument="text",
    ),
    Command(
        "continue", "Go on", "let the model go on with a reply that was cut or stopped",
        lambda do, _: do.versions.continue_reply(), slash="continue",
    ),
    Command(
        "amend", "Change the reply",
        "change the last reply, and let the model go on from it; the old one stays",
        lambda do, text: do.versions.amend(text), slash="amend", argument="text",
    ),
    Command(
        "stats", "Figures", "tokens, speeds, cached tokens, drafts, and the context that is left",
        lambda do, _: do.stats.show(), slash="stats",
    ),
    Command(
        "older", "Version before", "go to the version before, where there are several (2/3)",
        lambda do, _: do.versions.select(-1), keys="left", slash="older", typed=True,
    ),
    Command(
        "newer", "Version after", "go to the version after",
        lambda do, _: do.versions.select(1), keys="right", slash="newer", typed=True,
    ),
    Command(
        "compact", "Compact",
        "sum up the oldest turns, to make room in the context; all of them stay here",
        lambda do, text: do.versions.compact(text), keys="f6", slash="compact",
        argument="undo or redo",
    ),
    Command(
        "models", "Models", "choose, download or change the model",
        lambda do, text: do.models.choose(text), keys="ctrl+l", slash="model", argument="name",
    ),
    Command(
        "unload", "Unload", "give the model's memory back until the next message",
        lambda do, _: do.models.unload(), slash="unload",
    ),
    Command(
        "tools", "Tools", "servers and tools: switch them, and take back what always runs",
        lambda do, text: do.tools.tools(text), slash="tools", argument="name on, off, ask ...",
    ),
    Command(
        "thinking", "Thinking on or off", "whether the model thinks before it answers",
        lambda do, text: do.settings.thinking(text), keys="ctrl+t", slash="thinking",
        argument="on, off or auto",
    ),
    Command(
        "view", "Show thinking", "show thinking hidden, collapsed or open",
        lambda do, text: do.settings.view(text), keys="ctrl+o", slash="view",
        argument="hidden, collapsed or open",
    ),
    Command(
        "preset", "Sampling preset", "sampling as the model's card advises",
        lambda do, text: do.settings.preset(text), slash="preset",
        argument="model, thinking, precise or not-thinking",
    ),
    Command(
        "system", "System prompt", "what the model is told before everything else",
        lambda do, text: do.settings.system(text), slash="system", argument="text",
    ),
    Command(
        "prompt", "Prompts", "choose a system prompt of your own for this conversation",
        lambda do, text: do.personas.prompt(text), slash="prompt", argument="name, new NAME, none",
        aliases=("persona",),
    ),
    Command(
        "theme", "Theme", "choose the colours, and see each theme before",
        lambda do, text: do.settings.theme(text), slash="theme", argument="name",
        screen=True,
    ),
    Command(
        "vim", "Keys of vim", "the keys of vim where you write, or not",
        lambda do, text: do.settings.vim(text), slash="vim", argument="on or off", screen=True,
    ),
    Command(
        "settings", "Settings", "see and change the settings",
        lambda do, text: do.settings.settings(text),
        keys="f2", slash="settings", argument="name value",
    ),
    Command(
        "copy", "Copy", "copy the last reply", lambda do, _: do.messages.copy(), keys="f3",
        slash="copy",
    ),
    Command(
        "code", "Copy code", "copy the last block of code", lambda do, _: do.messages.copy_code(),
        keys="f9", slash="code",
    ),
    Command(
        "editor", "Editor", "write the message in your editor ($VISUAL, $EDITOR)",
        lambda do, _: do.writing.open_editor(), keys="ctrl+g", slash="editor", screen=True,
    ),
    Command(
        "history", "Earlier messages", "search what you have sent; Up in an empty line steps back",
        lambda do, _: do.writing.search_history(), keys="ctrl+r", slash="history", screen=True,
    ),
    Command(
        "expand", "Expand paste", "put the whole text in place of [paste 1: 40 lines]",
        lambda do, _: do.writing.expand_paste(), keys="f8", screen=True,
    ),
    Command(
        "messages", "To the messages", "mark a message, to act on it",
        lambda do, _: do.messages.enter(),
        keys="tab", screen=True, typed=True,
    ),
    Command(
        "find_next", "Next found", "go to the next message with the words of the search",
        lambda do, _: do.find.step(1), keys="f7", screen=True,
    ),
    Command(  # most terminals send F19 for Shift+F7
        "find_last", "Found before", "go to the message before with the words of the search",
        lambda do, _: do.find.step(-1), keys="shift+f7,f19", screen=True,
    ),
    Command(
        "page_up", "Scroll up", "scroll up",
        lambda do, _: do.messages.page(-1), keys="pageup", screen=True,
    ),
    Command(
        "page_down", "Scroll down", "scroll down",
        lambda do, _: do.messages.page(1), keys="pagedown",
        screen=True,
    ),
    Command(
        "follow", "To the end", "go to the end and follow it", lambda do, _: do.messages.follow(),
        keys="ctrl+end", screen=True,
    ),
    Command(
        "palette", "All commands", "find any command by its name", lambda do, _: do.palette(),
        keys="ctrl+p", screen=True,
    ),
    Command("help", "Help", "all keys and commands", lambda do, _: do.help(), keys="f1",
            slash="help", aliases=("?",)),
    Command("suspend", "Back to the shell", "stop the chat; fg in the shell lets it go on",
            lambda do, _: do.suspend(), keys="ctrl+z", screen=True),
    Command("quit", "Quit", "quit; nothing is lost", lambda do, _: do.quit(), keys="ctrl+q",
            slash="quit", aliases=("exit", "q", "bye")),
    Command("mark_up", "Message before", "mark the message before",
            lambda do, _: do.messages.mark(-1),
            keys="up,k", scope="messages", screen=True),
    Command("mark_down", "Message after", "mark the message after",
            lambda do, _: do.messages.mark(1),
            keys="down,j", scope="messages", screen=True),
    Command("mark_edit", "Edit",
            "write another version of it; from that of a reply the model goes on",
            lambda do, _: do.messages.edit(), keys="e,enter", scope="messages", screen=True),
    Command("mark_retry", "Retry", "ask for another reply", lambda do, _: do.versions.retry(),
            keys="r", scope="messages", screen=True),
    Command("mark_branch", "Branch", "go on from here another way; what followed stays",
            lambda do, _: do.messages.branch(), keys="b", scope="messages", screen=True),
    Command("mark_older", "Version before", "go to its version before",
            lambda do, _: do.versions.select(-1), keys="left", scope="messages", screen=True),
    Command("mark_newer", "Version after", "go to its version after",
            lambda do, _: do.versions.select(1), keys="right", scope="messages", screen=True),
    Command("mark_copy", "Copy", "copy it", lambda do, _: do.messages.copy(),
            keys="c", scope="messages", screen=True),
    Command("mark_code", "Copy code", "copy its code; again for its next block",
            lambda do, _: do.messages.copy_code(), keys="y", scope="messages", screen=True),
    Command("mark_toggle", "Unfold", "unfold its thinking or its long text, or fold it again",
            lambda do, _: do.messages.toggle(), keys="space", scope="messages", screen=True),
    Command("mark_next", "Next found", "go to the next message with the words of the search",
            lambda do, _: do.find.step(1), keys="n", scope="messages", screen=True),
    Command("mark_last", "Found before", "go to the message before with the words of the search",
            lambda do, _: do.find.step(-1), keys="N", scope="messages", screen=True),
    Command("mark_leave", "Back", "back to the composer", lambda do, _: do.messages.leave(),
            keys="escape,tab", scope="messages", screen=True),
    Command("session_rename", "Rename", "rename it", lambda do, _: do.rename_marked(),
            keys="ctrl+r", scope="sessions", screen=True),
    Command("session_delete", "Delete", "delete it", lambda do, _: do.delete_marked(),
            keys="ctrl+d", scope="sessions", screen=True),
    Command("session_undo", "Bring back", "bring back what was deleted last",
            lambda do, _: do.undo(), keys="ctrl+underscore", scope="sessions", screen=True),
    Command("session_export", "Export", "write it to a Markdown file here",
            lambda do, _: do.export_marked(), keys="ctrl+o", scope="sessions", screen=True),
    Command("session_pin", "Pin", "keep it at the top, or no longer",
            lambda do, _: do.pin_marked(), keys="ctrl+t", scope="sessions", screen=True),
    Command("session_archive", "Archive", "take it out of the list, or back into it",
            lambda do, _: do.archive_marked(), keys="ctrl+g", scope="sessions", screen=True),
    Command("session_archived", "Archived", "show those that are archived, or the others",
            lambda do, _: do.show_archived(), keys="ctrl+l", scope="sessions", screen=True),
    Command("model_cancel", "Stop download", "stop the download; it can be resumed",
            lambda do, _: do.cancel_download(), keys="ctrl+d", scope="models", screen=True),
    Command("model_unload", "Unload", "give the loaded model's memory back",
            lambda do, _: do.unload(), keys="ctrl+g", scope="models", screen=True),
)  # fmt: skip
BY_NAME: Mapping[str, Command] = {command.name: command for command in COMMANDS}
SCOPE_OF: Mapping[str, Scope] = {command.name: command.scope for command in COMMANDS}
BY_SLASH: Mapping[str, Command] = {c.slash: c for c in COMMANDS if c.slash}
BY_ALIAS: Mapping[str, Command] = {alias: c for c in COMMANDS for alias in c.aliases}


def in_scope(scope: Scope) -> list[Command]:
    return [command for command in COMMANDS if command.scope == scope]


def keys_of(command: Command, remapped: Mapping[str, str]) -> str:
    """The keys of a command, as they are written in the settings."""
    own = remapped.get(command.name, command.keys)
    if command.name in remapped:
        return own
    # A key that the settings assign to another command of the scope is lost here.
    taken = {
        key
        for other in in_scope(command.scope)
        if other.name in remapped
        for key in key_names(remapped[other.name])
    }
    return ",".join(key for key in key_names(own) if key not in taken)


def keymap(scope: Scope, remapped: Mapping[str, str]) -> dict[str, Command]:
    """Each key, as Textual names it, and the command that it calls."""
    found: dict[str, Command] = {}
    for command in in_scope(scope):
        for key in key_names(keys_of(command, remapped)):
            found.setdefault(key, command)
    return found


def keys_for_people(name: str, remapped: Mapping[str, str], most: int = 1) -> str:
    """The first keys of a command, or else its slash name, or else its title.

    Args:
        most: keys to name at most.
    """
    command = BY_NAME[name]
    keys = shown_keys(keys_of(command, remapped)).split(", ")
    return " or ".join(keys[:most]) or (f"/{command.slash}" if command.slash else command.title)


def slash_for_people(name: str) -> str:
    """How a command is called where no key is: by its slash name, and Ctrl+C to stop."""
    command = BY_NAME[name]
    return f"/{command.slash}" if command.slash else "Ctrl+C" if name == "stop" else command.title


def run_command(name: str, view: Any, text: str = "") -> None:
    """Run a command on a view; an error is one line there.

    The view's `perform` gets the part that waits for the disk, if there is one.
    """
    try:
        work = BY_NAME[name].run(view, text)
    except Qwen35Error as error:
        view.show_message(str(error), error=True)
        return
    if iscoroutine(work):
        view.perform(work)
