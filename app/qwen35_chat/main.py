"""The command `qwen35-chat`: a chat on the terminal, or with `-p` one answer.

Heavy modules are imported where they are used, so that `--help` loads neither MLX nor Textual.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from typing import Any

from qwen35_chat.options import CommandOptions, template_value
from qwen35_mlx import __version__
from qwen35_mlx.command_line import CommandParser, run_command
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.sampling_parameters import LIMITS, RANGES, Range
from qwen35_mlx.library.home import home
from qwen35_mlx.load_options import (
    add_load_options,
    load_arguments,
    model_name,
    number_in,
)
from qwen35_mlx.terminal import write_output
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


def _parser() -> CommandParser:
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
        help="with -p: write one JSON object with text, thinking, tool calls and usage",
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
    add("--plain", action="store_true", help="the chat as plain lines of text, for screen readers")
    add("--fake", action="store_true", help=argparse.SUPPRESS)  # a scripted model, for tests
    stored = parser.add_argument_group("stored conversations").add_mutually_exclusive_group()
    stored.add_argument(
        "--continue", dest="latest", action="store_true", help="continue the last one"
    )
    stored.add_argument("--resume", type=_text, metavar="ID|TITLE", help="continue this one")
    stored.add_argument("--list", action="store_true", help="list them and exit")
    stored.add_argument(
        "--export", metavar="ID|TITLE", help="write one to standard output and exit"
    )
    stored.add_argument(
        "--import", dest="import_file", metavar="FILE", help="add one that was exported as json"
    )
    add(
        "--format",
        choices=("md", "json"),
        help="of --export: md is the selected path, for reading; json is everything; default: md",
    )
    add(
        "--completions",
        choices=SHELLS,
        metavar="SHELL",
        help=f"print the completions of a shell and exit: {', '.join(SHELLS)}",
    )
    add("--version", action="version", version=f"%(prog)s {__version__}", help="print the version")
    return parser


def _standard_input() -> str:
    """The text on standard input; "" if that is a terminal or closed."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise Qwen35Error(
            "standard input is not UTF-8 text: convert it, for example with iconv"
        ) from None
    except OSError as error:
        raise Qwen35Error(f"standard input cannot be read: {error.strerror}") from None


def _prompt(text: str | None, plain: bool) -> str | None:
    """The prompt from `-p` and standard input; None to open the chat instead."""
    if text is None and (plain or (sys.stdin is not None and sys.stdin.isatty())):
        return None
    prompt = "\n\n".join(part for part in (text or "", _standard_input()) if part.strip())
    if not prompt:
        raise Qwen35Error("the prompt is empty: give some text with -p or on standard input")
    return prompt


def _options(args: argparse.Namespace) -> CommandOptions:
    sampling = {name: getattr(args, name) for name in ("temperature", "top_p", "top_k")}
    turn = {"max_tokens": args.max_tokens, "seed": args.seed}
    if args.schema is not None:
        from qwen35_chat.schema_file import response_format

        turn["response_format"] = response_format(args.schema)
    return CommandOptions(
        model=model_name(args),
        model_given=args.model is not None,
        revision=args.revision,
        chat={
            "system": args.system,
            "thinking": args.thinking,
            "thinking_budget": args.thinking_budget,
            "repetition_guard": args.repetition_guard,
            "template_arguments": dict(args.template_arguments or ()) or None,
            **sampling,
        },
        turn=turn,
        load=load_arguments(args),
        mtp=args.mtp,
        mcp_config=args.mcp_config,
        tools_folder=args.tools_folder,
        allow_tools=_tool_names(args.allow_tools),
        resume="" if args.latest else args.resume,
    )


def _tool_names(text: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not names:
        raise Qwen35Error("--allow-tools is empty: name tools, separated by commas")
    return names


def _check_tools_of_prompt(args: argparse.Namespace) -> None:
    """Refuse tools that could not run, as nobody is asked."""
    for name in ("mcp_config", "tools_folder"):
        if getattr(args, name) is not None and args.allow_tools is None:
            option = f"--{name.replace('_', '-')}"
            raise Qwen35Error(
                f"{option} has no use with -p unless --allow-tools names what may run"
            )


def _refuse_answer_options(args: argparse.Namespace) -> None:
    """Refuse options of one answer where there is none."""
    for name in ("json", "schema"):
        if getattr(args, name):
            raise Qwen35Error(f"--{name} is for one answer: give a prompt with -p")


def _run(argv: Sequence[str]) -> int:
    if argv[:1] == ["serve"]:
        from qwen35_mlx.server.command import run

        return run(argv[1:], "qwen35-chat serve")
    args = _parser().parse_args(argv)
    if args.completions is not None:
        from qwen35_chat.shell_completions import script

        write_output(script(_parser(), args.completions) + "\n")
        return 0
    if args.format is not None and args.export is None:
        raise Qwen35Error("--format is for --export: give that, too")
    if args.list or args.export is not None or args.import_file is not None:
        return _run_library_command(args)
    if args.resume is not None and not args.resume.strip():
        raise Qwen35Error("--resume is empty: name a conversation, or use --continue")
    options = _options(args)
    prompt = _prompt(args.prompt, args.plain)
    if prompt is not None:
        _check_tools_of_prompt(args)
        if args.json and args.show_thinking:
            raise Qwen35Error("--json has the thinking already: leave out --show-thinking")
        from qwen35_chat import one_shot

        return one_shot.run(prompt, options, show_thinking=args.show_thinking, as_json=args.json)
    _refuse_answer_options(args)
    if options.allow_tools:
        raise Qwen35Error("--allow-tools is for -p: the chat asks, and /tools lists what may run")
    # Textual draws on standard error.
    streams = (sys.stdout, sys.stderr)
    if not args.plain and not all(stream is not None and stream.isatty() for stream in streams):
        raise Qwen35Error(
            "the chat needs a terminal for its output and its errors: use -p for an answer "
            "in a file or a pipe"
        )
    return _chat(options, args)


def _run_library_command(args: argparse.Namespace) -> int:
    from qwen35_chat import library_commands

    _refuse_answer_options(args)
    if args.prompt is not None:
        raise Qwen35Error("-p asks a model, and --list, --export and --import do not: choose one")
    if args.list:
        return library_commands.print_list()
    if args.export is not None:
        return library_commands.export(args.export, args.format or "md")
    if not args.import_file:
        raise Qwen35Error("--import is empty: name a file")
    return library_commands.import_file(args.import_file)


def _chat(options: CommandOptions, args: argparse.Namespace) -> int:
    """Run the chat, on the whole terminal or in plain mode."""
    from qwen35_chat.runtime import ChatRuntime

    with ChatRuntime(options, fake=args.fake) as runtime:
        conversation = runtime.conversation(last=args.latest, name=args.resume)
        return runtime.run_plain(conversation) if args.plain else runtime.run_screen(conversation)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    if sys.stderr is None:  # closed by the caller; libraries write to it
        sys.stderr = io.StringIO()
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command("qwen35-chat", lambda: _run(words), home)


if __name__ == "__main__":
    sys.exit(main())
