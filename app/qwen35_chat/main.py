"""The command `qwen35-chat`: a chat on the terminal, or with `-p` one answer.

Nothing heavy is imported before it is needed: `--help` costs neither MLX nor Textual.
"""

import argparse
import io
import math
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from qwen35_chat.control_characters import visible
from qwen35_chat.options import Options
from qwen35_mlx import __version__
from qwen35_mlx.errors import Qwen35Error

DEMO = "demo"
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EPILOG = """\
Text on standard input is a prompt as well; with -p it follows the prompt's text.
Exit codes: 0 an answer was given, 2 bad input, 130 interrupted."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of usage and a line."""
        raise Qwen35Error(f"{message}; see {self.prog} --help")


def _number(
    kind: Callable[[str], float], ok: Callable[[float], bool], want: str
) -> Callable[[str], float]:
    """An argparse type: `kind` of the text, refused unless `ok`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not ok(value):
            raise argparse.ArgumentTypeError(f"'{text}' is not {want}")
        return value

    return parse


def _text(text: str) -> str:
    """An argparse type: text that can be encoded, which bytes of another encoding cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("the text is not UTF-8") from None
    return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="qwen35-chat",
        description="Chat with a Qwen3.5 model on this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-p", "--prompt", type=_text, metavar="TEXT", help="print one answer to TEXT and exit")
    add(
        "-m",
        "--model",
        metavar="NAME",
        help='a folder, or "org/repo" on the Hugging Face Hub; default: the one in the settings, '
        "or the small demo model",
    )
    add("--revision", metavar="REV", help="branch, tag or commit on the Hub")
    add("--system", type=_text, metavar="TEXT", help="the system prompt")
    add(
        "--thinking",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the model thinks before it answers; default: as its template says",
    )
    add(
        "--show-thinking",
        action="store_true",
        help="with -p: write the thinking to standard error, too",
    )
    add(
        "--max-tokens",
        type=_number(int, lambda n: n >= 1, "a number of 1 or more"),
        metavar="N",
        help="the longest reply; default: whatever the context leaves",
    )
    add(
        "--temperature",
        type=_number(float, lambda x: 0 <= x < math.inf, "a number of 0 or more"),
        metavar="X",
        help="0 always takes the likeliest token; default, as for the next two: the model's",
    )
    add(
        "--top-p",
        type=_number(float, lambda x: 0 < x <= 1, "a number above 0 and at most 1"),
        metavar="X",
        help="sample among the likeliest tokens that have this probability together",
    )
    add(
        "--top-k",
        type=_number(int, lambda n: n >= 0, "a number of 0 or more"),
        metavar="N",
        help="sample among the N likeliest tokens; 0: among all",
    )
    add(
        "--seed",
        type=_number(int, lambda n: 0 <= n < 1 << 64, "a number from 0 to 2**64 - 1"),
        metavar="N",
        help="for the same reply again, on the same machine",
    )
    add(
        "--context",
        type=_number(int, lambda n: n >= 1, "a number of 1 or more"),
        metavar="N",
        help="tokens of prompt and reply together; above the model's own, to four times as much: "
        "with YaRN",
    )
    add(
        "--kv-bits",
        type=int,
        choices=(8,),
        help="keep keys and values in so many bits, for less memory and a little less exactness",
    )
    add("--plain", action="store_true", help="the chat as lines of text, for screen readers")
    add("--fake", action="store_true", help=argparse.SUPPRESS)  # plays a script, keeps nothing
    stored = parser.add_argument_group("stored conversations").add_mutually_exclusive_group()
    stored.add_argument(
        "--continue", dest="latest", action="store_true", help="go on with the last one"
    )
    stored.add_argument("--resume", type=_text, metavar="ID|TITLE", help="go on with this one")
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
        help="of --export: md has the selected path to be read, json has all; default: md",
    )
    add("--version", action="version", version=f"%(prog)s {__version__}", help="print the version")
    return parser


def _standard_input() -> str:
    """What was piped in; nothing if it is a terminal or closed."""
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
    asked = text is not None or not (sys.stdin is not None and sys.stdin.isatty())
    if not asked or (plain and text is None):
        return None
    prompt = "\n\n".join(part for part in (text or "", _standard_input()) if part.strip())
    if not prompt:
        raise Qwen35Error("the prompt is empty: give some text with -p or on standard input")
    return prompt


def _options(args: argparse.Namespace) -> Options:
    if args.model is not None and not args.model.strip():
        raise Qwen35Error("--model is empty: name a folder or an org/repo, or leave it out")
    sampling = {name: getattr(args, name) for name in ("temperature", "top_p", "top_k")}
    return Options(
        model=args.model or DEMO,
        named=args.model is not None,
        revision=args.revision,
        chat={"system": args.system, "thinking": args.thinking, **sampling},
        turn={"max_tokens": args.max_tokens, "seed": args.seed},
        load={"context": args.context, "kv_bits": args.kv_bits},
        resume="" if args.latest else args.resume,
    )


def _run(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    if args.format is not None and args.export is None:
        raise Qwen35Error("--format is for --export: give that, too")
    if args.list or args.export is not None or args.import_file is not None:
        return _stored(args)
    if args.resume is not None and not args.resume.strip():
        raise Qwen35Error("--resume is empty: name a conversation, or use --continue")
    options = _options(args)
    prompt = _prompt(args.prompt, args.plain)
    if prompt is not None:
        from qwen35_chat.once import print_answer

        return print_answer(prompt, options, show_thinking=args.show_thinking)
    if args.plain:
        return _chat(options, args)
    # Textual draws on standard error.
    if not all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr)):
        raise Qwen35Error(
            "the chat needs a terminal for its output and its errors: use -p for an answer "
            "in a file or a pipe"
        )
    return _chat(options, args)


def _stored(args: argparse.Namespace) -> int:
    from qwen35_chat import stored

    if args.prompt is not None:
        raise Qwen35Error("-p asks a model, and --list, --export and --import do not: choose one")
    if args.list:
        return stored.print_list()
    if args.export is not None:
        return stored.export(args.export, args.format or "md")
    if not args.import_file:
        raise Qwen35Error("--import is empty: name a file")
    return stored.import_file(args.import_file)


def _chat(options: Options, args: argparse.Namespace) -> int:
    """The screen or the linear mode, with the model on a thread of its own."""
    from qwen35_chat.window import Window

    with Window(options, fake=args.fake) as window:
        conversation = window.conversation(last=args.latest, name=args.resume)
        return window.run_plain(conversation) if args.plain else window.run(conversation)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    if sys.stderr is None:  # closed by the caller: print would turn to standard output
        sys.stderr = io.StringIO()
    try:
        return _run(argv)
    except Qwen35Error as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
