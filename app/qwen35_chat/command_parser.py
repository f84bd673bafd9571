"""The options of the command `qwen35-chat`. Imports neither MLX nor Textual."""

import argparse
from typing import Any

from qwen35_chat.options import template_value
from qwen35_mlx import __version__
from qwen35_mlx.command_line import CommandParser
from qwen35_mlx.generation.sampling_parameters import LIMITS, RANGES, Range
from qwen35_mlx.load_options import add_load_options, number_in
from qwen35_mlx.user_paths import shown

SHELLS = ("bash", "zsh", "fish")
_SEEDS = Range(0, 1 << 64, below=True, whole=True)
EPILOG = """\
qwen35-chat serve starts a server with the interfaces of OpenAI and Anthropic: see its --help.
Text on standard input is a prompt as well; with -p it follows the prompt's text.
What the options leave open, the settings file says, also with -p; F2 in the chat names it.
Exit codes: 0 an answer was given, 2 bad input, 130 interrupted."""


def _text(text: str) -> str:
    """An argparse type: text, refused if it holds bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("the text is not UTF-8") from None
    return text


def _template_argument(text: str) -> tuple[str, Any]:
    """An argparse type: the name and the value of a template argument."""
    name, separator, value = _text(text).partition("=")
    if not separator or not name.strip():
        raise argparse.ArgumentTypeError(f"'{shown(text)}' is not NAME=VALUE")
    return name.strip(), template_value(value)


def command_parser() -> CommandParser:
    """The parser of `qwen35-chat`, without `serve`."""
    parser = option_parser()
    parser.add_argument(
        "message", nargs="*", type=_text, metavar="MESSAGE", help="begin the chat with this"
    )
    return parser


def option_parser() -> CommandParser:
    """The parser of `qwen35-chat` without `serve` and without a message."""
    parser = CommandParser(
        prog="qwen35-chat",
        description="Chat with a Qwen3.5 model on this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-p", "--prompt", type=_text, metavar="TEXT", help="print one answer to TEXT and exit")
    add_load_options(parser, "the one in the settings, or the small demo model")
    add(
        "--hosts",
        type=_text,
        metavar="FILE",
        help="run the model on several machines together: a host file of MLX, this machine first",
    )
    add(
        "--parallel",
        choices=("tensor", "pipeline"),
        help="with several machines: a part of every layer in each, or whole layers for slow "
        "links; default: tensor",
    )
    add("--system", type=_text, metavar="TEXT", help="the system prompt")
    add(
        "--thinking",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the model thinks before it answers; default: as its template says",
    )
    add(
        "--thinking-budget",
        type=number_in(LIMITS["thinking_budget"]),
        metavar="N",
        help="after N tokens of thinking the model is made to answer; default, or -1: it thinks as "
        "long as it likes",
    )
    add(
        "--template-arg",
        dest="template_arguments",
        type=_template_argument,
        action="append",
        metavar="NAME=VALUE",
        help="a variable of the model's chat template, such as reasoning_effort=low; VALUE is JSON "
        "or text; may be given several times",
    )
    add(
        "--repetition-guard",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether a reply that repeats itself without end is ended; default: it is",
    )
    add(
        "--show-thinking",
        action="store_true",
        help="with -p: write the thinking to standard error, too",
    )
    add(
        "--json",
        action="store_true",
        help="with -p: write one JSON object with text, thinking, tool calls and usage; with "
        "--list: an array of the conversations",
    )
    add(
        "--schema",
        type=_text,
        metavar="FILE",
        help="with -p: an answer in JSON that fits the JSON schema in FILE",
    )
    add(
        "--max-tokens",
        type=number_in(LIMITS["max_tokens"]),
        metavar="N",
        help="the longest reply; default, or -1: whatever the context leaves",
    )
    add(
        "--temperature",
        type=number_in(RANGES["temperature"]),
        metavar="X",
        help="0 always takes the likeliest token; default, as for the next two: the model's",
    )
    add(
        "--top-p",
        type=number_in(RANGES["top_p"]),
        metavar="X",
        help="sample among the likeliest tokens that have this probability together",
    )
    add(
        "--top-k",
        type=number_in(RANGES["top_k"]),
        metavar="N",
        help="sample among the N likeliest tokens; 0: among all",
    )
    add(
        "--seed",
        type=number_in(_SEEDS, "a number from 0 to 2**64 - 1"),
        metavar="N",
        help="makes replies reproducible on the same machine",
    )
    add(
        "--mcp-config",
        metavar="FILE",
        help="servers with tools for the model, in the form of Cursor and LM Studio; default: "
        "mcp.json beside the settings",
    )
    add(
        "--tools-folder",
        type=_text,
        metavar="DIR",
        help="let the model ask to list and read the text files below this folder",
    )
    add(
        "--allow-tools",
        type=_text,
        metavar="NAME,...",
        help="with -p: run these tools without a question; no others are offered",
    )
    add(
        "--plain",
        action="store_true",
        help="the chat as plain lines of text, for screen readers; so "
        "it is on a terminal with TERM=dumb",
    )
    add("--fake", action="store_true", help=argparse.SUPPRESS)  # a scripted model, for tests
    stored = parser.add_argument_group("stored conversations").add_mutually_exclusive_group()
    stored.add_argument(
        "--continue", dest="latest", action="store_true", help="continue the last one"
    )
    stored.add_argument(
        "--resume",
        type=_text,
        nargs="?",
        const="",
        metavar="ID|TITLE",
        help="continue the one with this id, title or part of a title; alone: choose from a list",
    )
    stored.add_argument("--list", action="store_true", help="list them and exit")
    stored.add_argument(
        "--export", metavar="ID|TITLE", help="write one to standard output and exit"
    )
    stored.add_argument(
        "--import",
        dest="import_file",
        metavar="FILE",
        help="add one that was exported as json, or those that ChatGPT, Open WebUI, LM Studio or "
        "llm logs --json has exported",
    )
    stored.add_argument(
        "--backup",
        type=_text,
        metavar="FILE",
        help="copy all of them to a new file, also while a chat is open, and exit",
    )
    stored.add_argument(
        "--rescue",
        type=_text,
        metavar="FILE",
        help="add what can be read of a damaged library.db that was put aside, and exit",
    )
    add("--again", action="store_true", help="of --import: also add what is there already")
    add("--archived", action="store_true", help="of --list: those that are archived, instead")
    add(
        "--format",
        choices=("md", "html", "json"),
        help="of --export: md and html are the selected path, for reading; json is everything; "
        "default: md",
    )
    add(
        "--completions",
        choices=SHELLS,
        metavar="SHELL",
        help=f"print the completions of a shell and exit: {', '.join(SHELLS)}",
    )
    add("--version", action="version", version=f"%(prog)s {__version__}", help="print the version")
    return parser
