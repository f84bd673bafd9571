"""The command `qwen35-chat serve`. Heavy modules are imported where they are used."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from qwen35_mlx.command_line import CommandParser, run_command
from qwen35_mlx.distributed.launch import several
from qwen35_mlx.distributed.place import Place
from qwen35_mlx.generation.sampling_parameters import Range
from qwen35_mlx.library.home import home
from qwen35_mlx.load_options import (
    POSITIVE,
    add_load_options,
    drafting,
    load_arguments,
    model_name,
    number_in,
)
from qwen35_mlx.server.options import (
    DEFAULT_HOST,
    DEFAULT_PARALLEL,
    DEFAULT_PORT,
    ServerOptions,
)
from qwen35_mlx.terminal import print_line
from qwen35_mlx.user_paths import exists, user_path

if TYPE_CHECKING:
    from qwen35_mlx.library.library import Library
    from qwen35_mlx.session.request_engine import RequestEngine

API_KEY = "QWEN35_API_KEY"
_DURATION = re.compile(r"(\d{1,9})(s|m|h|)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 after a signal, 2 after an error line."""
    program = "python -m qwen35_mlx.server"
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(program, lambda: run(words, program), home)


def run(argv: Sequence[str], program: str) -> int:
    """Serve until a signal, with the options of the command line. Returns the exit code.

    Args:
        program: the command's name, for its help.

    Raises:
        Qwen35Error: an option does not fit, the model is not found, or the port is in use.
    """
    args = command_parser(program).parse_args(argv)
    options = _options(args)
    place = Place.of_environment()
    if place is not None and place.rank:
        from qwen35_mlx.distributed.processes import follow

        follow(place)
        return 0
    from qwen35_mlx.checkpoint.hub import resolve_checkpoint
    from qwen35_mlx.library.library import Library
    from qwen35_mlx.server.running import listen

    # Before the download: a port that is in use should fail at once.
    with closing(listen(options.host, options.port)) as listening:
        resolve_checkpoint(model_name(args), revision=args.revision)
        with (
            several(args.hosts, args.split, "--split") as place,
            closing(Library()) as library,
            closing(_engine(args, library, place)) as engine,
        ):
            code = _serve(engine, options, listening)
            lost = engine.status().lost
    if lost:
        from qwen35_mlx.session.lost_processes import end_process

        end_process(code)
    return code


def _serve(engine: "RequestEngine", options: ServerOptions, listening) -> int:
    import time

    from qwen35_mlx.server.running import serve
    from qwen35_mlx.server.service import Service

    engine.start()
    for line in greeting(options, listening.getsockname()[1]):
        print_line(line)
    serve(Service(engine, options, int(time.time())), listening)
    print_line("Stopped: replies are ended, and states are being saved.")
    return 0


def greeting(options: ServerOptions, port: int) -> list[str]:
    """The lines that say how to reach the server.

    Args:
        port: on which it listens.
    """
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{port}"
    # The key itself should be in no log.
    from_variable = options.api_key == os.environ.get(API_KEY)
    word = f"${API_KEY}" if from_variable else "YOUR-API-KEY"
    key = f' -H "Authorization: Bearer {word}"' if options.api_key else ""
    hello = '{"messages": [{"role": "user", "content": "Hello"}]}'
    return [
        f"Serving {options.name} at {address}/v1 (OpenAI) and {address} (Anthropic). "
        "Ctrl+C stops it.",
        f"Try: curl {address}/v1/chat/completions{key} -d '{hello}'",
    ]


def _engine(args: argparse.Namespace, library: "Library", place: Place | None) -> "RequestEngine":
    from qwen35_mlx.session.request_engine import RequestEngine

    return RequestEngine(
        model_name(args),
        library=library,
        parallel=args.parallel,
        idle=args.idle,
        revision=args.revision,
        mtp=drafting(args.mtp or "auto"),
        place=place,
        **load_arguments(args),
    )


def _options(args: argparse.Namespace) -> ServerOptions:
    return ServerOptions(
        name=public_name(model_name(args)),
        aliases=tuple(args.alias),
        host=args.host,
        port=int(args.port),
        api_key=args.api_key if args.api_key is not None else os.environ.get(API_KEY) or None,
        origins=tuple(args.cors),
        hosts=tuple(name.lower() for name in args.allow_host),
    )


def public_name(name: str) -> str:
    """The name of a model for clients: that of a file or a folder without its path."""
    path = user_path(name)
    return path.name if exists(path) and path.name else name


def _seconds(text: str) -> float:
    """An argparse type: a time such as 90s, 10m or 1h."""
    found = _DURATION.fullmatch(text)
    if found is None or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 10m or 1h")
    return int(found[1]) * _SECONDS[found[2]]


def _origin(text: str) -> str:
    """An argparse type: the origin of a web page, or * for all."""
    if text != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an origin such as https://example.org, without a path"
        )
    return text


def command_parser(program: str) -> CommandParser:
    """The parser of `qwen35-chat serve`."""
    parser = CommandParser(
        prog=program,
        description="Serve a model to other programs, with the interfaces of OpenAI and Anthropic.",
        allow_abbrev=False,
    )
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_load_options(parser, "the small demo model")
    add = parser.add_argument
    add(
        "--host",
        default=DEFAULT_HOST,
        metavar="ADDRESS",
        help="where to listen; any other than this machine's own (%(default)s) needs --api-key",
    )
    add(
        "--port",
        type=number_in(Range(0, 65535, whole=True)),
        default=DEFAULT_PORT,
        metavar="N",
        help="default: %(default)s; 0 takes a free one",
    )
    add(
        "--api-key",
        metavar="KEY",
        help=f"that clients must send; default: the variable {API_KEY}, which others cannot see",
    )
    add(
        "--cors",
        type=_origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="lets pages of this origin use the server; may be repeated",
    )
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which programs reach this machine, such as host.docker.internal; may be "
        "repeated",
    )
    add(
        "--alias",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of the model for clients, such as 'claude-*'; may be repeated",
    )
    add(
        "--idle",
        type=_seconds,
        metavar="TIME",
        help="unload the model after this time without requests, such as 10m; default: never",
    )
    add(
        "--parallel",
        type=number_in(POSITIVE),
        default=DEFAULT_PARALLEL,
        metavar="N",
        help="replies that are written at the same time; default: %(default)s",
    )
    add(
        "--hosts",
        metavar="FILE",
        help="run the model on several machines together: a host file of MLX, this machine first",
    )
    add(
        "--split",
        choices=("tensor", "pipeline"),
        help="with several machines: a part of every layer in each, or whole layers for slow "
        "links; default: tensor",
    )
