"""docs/qwen35-chat.1, from the options. `python -m qwen35_chat.man_page` prints it."""

import argparse
from collections.abc import Iterable

from qwen35_chat.command_parser import command_parser
from qwen35_mlx import __version__
from qwen35_mlx.command_line import CommandParser
from qwen35_mlx.server.command import API_KEY
from qwen35_mlx.server.command import command_parser as server_parser
from qwen35_mlx.terminal import print_line

MAN_PAGE = r""".\" Generated: python -m qwen35_chat.man_page > docs/qwen35-chat.1
.TH QWEN35\-CHAT 1 "" "qwen35\-mlx {version}" "User Commands"
.SH NAME
qwen35\-chat \- chat with a Qwen3.5 model on this machine
.SH SYNOPSIS
.B qwen35\-chat
[\fIOPTION\fR]... [\fIMESSAGE\fR]...
.br
.B qwen35\-chat \-p
\fITEXT\fR [\fIOPTION\fR]...
.br
.B qwen35\-chat serve
[\fIOPTION\fR]...
.SH DESCRIPTION
Opens a chat on the terminal, whose conversations are kept. F1 lists its keys and slash commands.
.PP
With a prompt, which is the text of \fB\-p\fR, standard input, or both, it writes one answer to
standard output instead.
.PP
\fBqwen35\-chat serve\fR starts a server with the interfaces of OpenAI and Anthropic.
.SH OPTIONS
What the options leave open, the settings file says, also with \fB\-p\fR.
{options}
.SH OPTIONS OF SERVE
{server_options}
.SH EXIT STATUS
.TP
.B 0
An answer was given, or the chat was left.
.TP
.B 2
Bad input: one line on standard error says what, and what to do.
.TP
.B 130
Interrupted.
.SH ENVIRONMENT
.TP
.B QWEN35_HOME
A folder for everything that is kept: conversations, settings and states of models.
.TP
.B {api_key}
The key that clients of the server must send.
.TP
.BR HF_HOME ", " HF_TOKEN
Where models of the Hugging Face Hub are stored, and who downloads them.
.TP
.B NO_COLOR
No colours.
.TP
.B TEXTUAL_ANIMATIONS
\fBnone\fR: nothing moves.
.SH FILES
F2 in the chat names the settings file, \fIsettings.toml\fR. Beside it lies \fImcp.json\fR, the
servers with tools.
.SH EXAMPLES
.TP
.B qwen35\-chat \-\-model mlx\-community/Qwen3.5\-4B\-MLX\-4bit
Chat with a model of the Hugging Face Hub.
.TP
.B git diff | qwen35\-chat \-p \(dqWrite a commit message.\(dq
One answer about the text on standard input.
.TP
.B qwen35\-chat \-\-continue
Go on with the last conversation.
"""


def man_page() -> str:
    """The text of docs/qwen35-chat.1, in roff with the macros of man(7)."""
    chat = command_parser()
    server = server_parser("qwen35-chat serve")
    return MAN_PAGE.format(
        version=__version__,
        options=_options(chat),
        server_options=_options(server),
        api_key=_roff(API_KEY),
    )


def _options(parser: CommandParser) -> str:
    """Entries of all options, with the titles of their groups."""
    parts: list[str] = []
    for title, actions in parser.option_groups:
        entries = [*_entries(actions, parser.prog)]
        if entries:
            parts += [f".SS {_roff(title.capitalize())}"] if title else []
            parts += entries
    return "\n".join(parts)


def _entries(actions: Iterable[argparse.Action], program: str) -> Iterable[str]:
    for action in actions:
        if action.help is not None and action.help != argparse.SUPPRESS and action.option_strings:
            help_text = action.help % {**vars(action), "prog": program}
            yield f".TP\n{_head(action)}\n{_roff(help_text[:1].upper() + help_text[1:])}."


def _head(action: argparse.Action) -> str:
    """The names of an option and its value, such as `-p, --prompt TEXT`."""
    names = ", ".join(rf"\fB{_roff(name)}\fR" for name in action.option_strings)
    if action.nargs == 0:
        return names
    value = action.metavar
    if not isinstance(value, str):
        value = "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
    shown = rf"\fI{_roff(value)}\fR"
    return f"{names} [{shown}]" if action.nargs == "?" else f"{names} {shown}"


def _roff(text: str) -> str:
    """Text as it is: nothing in it is a command of roff, also at the beginning of a line."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return rf"\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    for line in man_page().splitlines():
        print_line(line)
