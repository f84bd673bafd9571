"""`qwen35-chat --completions`: a script by which a shell completes the command's options."""

import shtab

from qwen35_mlx.command_line import CommandParser
from qwen35_mlx.server import command

# What a shell offers for the value of an option, by its name in the help.
_VALUES = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY, "PATH": shtab.FILE}
_MODEL = "model"  # mostly a repository; a folder or a file can be completed


def script(parser: CommandParser, shell: str) -> str:
    """The script of a shell, for the options of `qwen35-chat` and of `qwen35-chat serve`.

    Args:
        parser: of `qwen35-chat`; gets the subcommand.
        shell: "bash", "zsh" or "fish".
    """
    serve = parser.add_subparsers().add_parser(
        "serve", help="start a server with the interfaces of OpenAI and Anthropic"
    )
    command.add_options(serve)
    for one in (parser, serve):
        _offer_paths(one)
    return shtab.complete(parser, shell=shell)


def _offer_paths(parser: CommandParser) -> None:
    for action in parser.arguments:
        name = action.metavar if isinstance(action.metavar, str) else ""
        values = shtab.FILE if action.dest == _MODEL else _VALUES.get(name)
        if values is not None:
            action.complete = values  # type: ignore[attr-defined]  # read by shtab
