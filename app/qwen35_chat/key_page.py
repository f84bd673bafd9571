"""docs/keys.md, from the command table. `python -m qwen35_chat.key_page` prints it."""

from qwen35_chat.commands import SCOPES, in_scope
from qwen35_chat.keys import shown_keys
from qwen35_chat.mouse_actions import MOUSE_ACTIONS, MOUSE_TITLE
from qwen35_mlx.terminal import print_line

KEY_PAGE = """# Keys and commands

<!-- Generated: python -m qwen35_chat.key_page > docs/keys.md -->

A key acts where its table says; a slash command is written in the composer. `qwen35-chat --plain`
has the slash commands that need no screen; `/help` lists them there. Ctrl+C stops the reply, or
else clears what is typed, or else quits. Ctrl+D quits while nothing is typed. Ctrl+Z goes back to
the shell, and Ctrl+_ takes back what was typed last; most terminals send that for Ctrl+/, too.
Alt+Enter is Shift+Enter, which many terminals cannot tell from Enter (docs/terminal.md).

What begins with a slash and a word is a command, and is never sent if there is none of that name.
What follows an @ is a file, a folder or a pattern, if it looks like one (docs/attachments.md). In
backticks both are text: `` `/etc` ``. Paths such as /etc/hosts and comments such as `// so` are
text, too. What begins with an exclamation mark is a command of the shell, if the settings allow it.

`/vim on` gives the composer the keys of vim: motions h j k l w b e 0 ^ $ gg G f F t T ; and , with
counts; d, c and y with these, with iw and aw, and doubled for lines; x X s S r D C Y p P u Ctrl+R
i a I A o O v V and the dot. The status line shows the mode, which is insert mode at first. Esc goes
to normal mode, and stops the reply only there. Enter sends in both, and goes back to insert mode. j
and k go through the history where Down and Up do. Words are those of Ctrl+W, in Chinese,
Japanese and Thai, too.

Any key can be changed in the settings file, which F2 names: under `[keys]`, a line such as
`sessions = "Ctrl+Y, F10"` gives the command of this name other keys, and `help = ""` none.

{tables}

{mouse}
"""


def key_tables() -> str:
    """Tables of keys and commands in Markdown; the names are those of the `[keys]` setting."""
    parts: list[str] = []
    for scope, title in SCOPES.items():
        rows = [f"## {title}", "", "| key | command | | name |", "|---|---|---|---|"]
        for command in in_scope(scope):
            argument = f" {command.argument}" if command.argument else ""
            slash = f"`/{command.slash}{argument}`" if command.slash else ""
            slash += "".join(f" `/{alias}`" for alias in command.aliases)
            keys = shown_keys(command.keys)
            rows.append(f"| {keys} | {slash} | {command.help} | `{command.name}` |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def mouse_table() -> str:
    """A table of what the mouse does, in Markdown."""
    rows = [f"| {action} | {does} |" for action, does in MOUSE_ACTIONS]
    return "\n".join([f"## {MOUSE_TITLE}", "", "| | |", "|---|---|", *rows])


def key_page() -> str:
    """The text of docs/keys.md."""
    return KEY_PAGE.format(tables=key_tables(), mouse=mouse_table())


if __name__ == "__main__":
    for line in key_page().splitlines():
        print_line(line)
