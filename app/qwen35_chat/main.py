"""The command `qwen35-chat`: a chat on the terminal, or with `-p` one answer.

Heavy modules are imported where they are used, so that `--help` loads neither MLX nor Textual.
"""

import argparse
import gc
import io
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TextIO

from qwen35_chat.alone import GoAloneError, LostError, arguments_alone, start_alone
from qwen35_chat.command_parser import command_parser, option_parser
from qwen35_chat.launched_terminal import ignore_input, use_terminal
from qwen35_chat.options import CommandOptions, Start
from qwen35_mlx.command_line import CommandParser, run_command
from qwen35_mlx.distributed.launch import several
from qwen35_mlx.distributed.place import Place
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.library.home import home
from qwen35_mlx.load_options import load_arguments, model_name
from qwen35_mlx.terminal import print_error, write_output
from qwen35_mlx.user_paths import shown


def _standard_input() -> str:
    """The text on standard input; "" if that is a terminal or closed."""
    if sys.stdin is None or _is_terminal(sys.stdin):
        return ""
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise Qwen35Error(f"standard input cannot be read: {error.strerror}") from None
    from qwen35_chat.text_encodings import decoded

    if (found := decoded(data)) is None:
        raise Qwen35Error(
            "standard input is not text in UTF-8, UTF-16, GBK or Big5: convert it, for example with"
            " iconv"
        )
    if found.encoding:
        print_error(f"standard input is read as {found.encoding}")
    return found.text


def _prompt(args: argparse.Namespace, *, plain: bool) -> str | None:
    """The prompt from `-p` or the message, and from standard input; None to open the chat."""
    if args.prompt is not None and args.message:
        raise Qwen35Error(
            f"'{shown(' '.join(args.message))}' follows the prompt: put the whole of it in "
            "quotation marks"
        )
    if args.prompt is None and (plain or _is_terminal(sys.stdin)):
        return None
    text = args.prompt or " ".join(args.message)
    prompt = "\n\n".join(part for part in (text, _standard_input()) if part.strip())
    if not prompt:
        raise Qwen35Error("the prompt is empty: give some text with -p or on standard input")
    return prompt


def _check_message(parser: CommandParser, words: Sequence[str]) -> None:
    """Refuse a single word that was meant as a command or an option.

    Raises:
        Qwen35Error: it was; the line says what to write.
    """
    if len(words) != 1:
        return
    (word,) = words
    names = {
        name.lstrip("-"): name for action in parser.arguments for name in action.option_strings
    }
    if get_close_matches(word.lower(), ["serve"], 1, cutoff=0.8):
        meant = "serve"
    elif word.lower() in names:
        meant = names[word.lower()]
    else:
        return
    raise Qwen35Error(
        f"{word} is no command: did you mean qwen35-chat {meant}? To say it to the model, write it "
        "in the chat, or give it to -p"
    )


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
        hosts=args.hosts,
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
    parser = command_parser()
    args = parser.parse_args(argv)
    _check_message(parser, args.message)
    if args.completions is not None:
        from qwen35_chat.shell_completions import script

        write_output(script(option_parser(), args.completions) + "\n")
        return 0
    if args.again and args.import_file is None:
        raise Qwen35Error("--again is for --import: give that, too")
    if args.archived and not args.list:
        raise Qwen35Error("--archived is for --list: give that, too")
    if args.format is not None and args.export is None:
        raise Qwen35Error("--format is for --export: give that, too")
    if args.list or any(
        option is not None for option in (args.export, args.import_file, args.backup, args.rescue)
    ):
        return _run_library_command(args)
    options = _options(args)
    place = Place.of_environment()
    if place is not None and place.rank:
        from qwen35_mlx.distributed.processes import follow

        follow(place)
        return 0
    if place is not None:
        use_terminal() if args.prompt is None else ignore_input()
    try:
        with several(options.hosts, args.parallel, "--parallel") as place:
            return _answer_or_chat(options, args, place)
    except GoAloneError as alone:
        start_alone(argv, arguments_alone(argv, args, alone.conversation))
        return 0
    except LostError as lost:
        from qwen35_mlx.session.lost_processes import end_process

        end_process(lost.code)


def _answer_or_chat(options: CommandOptions, args: argparse.Namespace, place: Place | None) -> int:
    """Write one answer, or run the chat.

    Args:
        place: of this process, the first of several that run the model; None for one.

    Raises:
        GoAloneError: the others are lost, and the chat goes on without them.
        LostError: the others are lost, and the chat has ended.
    """
    plain = args.plain or _is_dumb()
    prompt = _prompt(args, plain=plain)
    if prompt is not None:
        if args.resume is not None and not args.resume.strip():
            raise Qwen35Error("--resume needs a name with -p: give an id or a title")
        _check_tools_of_prompt(args)
        if args.json and args.show_thinking:
            raise Qwen35Error("--json has the thinking already: leave out --show-thinking")
        from qwen35_chat import one_shot

        return one_shot.run(
            prompt, options, show_thinking=args.show_thinking, as_json=args.json, place=place
        )
    _refuse_answer_options(args)
    if options.allow_tools:
        raise Qwen35Error("--allow-tools is for -p: the chat asks, and /tools lists what may run")
    # Textual draws on standard error.
    if not plain and not (_is_terminal(sys.stdout) and _is_terminal(sys.stderr)):
        raise Qwen35Error(
            "the chat needs a terminal for its output and its errors: use -p for an answer "
            "in a file or a pipe"
        )
    return _chat(options, args, place, plain=plain)


def _is_dumb() -> bool:
    """Whether the user sits at a terminal that can only show lines."""
    at_terminal = _is_terminal(sys.stdin) and _is_terminal(sys.stdout)
    return at_terminal and os.environ.get("TERM") == "dumb"


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _run_library_command(args: argparse.Namespace) -> int:
    from qwen35_chat import library_commands

    if args.json and not args.list:
        raise Qwen35Error("--json is for -p and --list; --export has --format json")
    if args.schema:
        raise Qwen35Error("--schema is for one answer: give a prompt with -p")
    if args.prompt is not None or args.message:
        raise Qwen35Error(
            "-p and a message are for a model, which --list, --export, --import, --backup and "
            "--rescue use none of: choose one"
        )
    if args.list:
        return library_commands.print_list(as_json=args.json, archived=args.archived)
    if args.export is not None:
        return library_commands.export(args.export, args.format or "md")
    if args.backup is not None:
        if not args.backup:
            raise Qwen35Error("--backup is empty: name a new file")
        return library_commands.write_backup(args.backup)
    if args.rescue is not None:
        if not args.rescue:
            raise Qwen35Error("--rescue is empty: name a damaged library.db")
        return library_commands.rescue_file(args.rescue)
    if not args.import_file:
        raise Qwen35Error("--import is empty: name a file")
    return library_commands.import_file(args.import_file, again=args.again)


def _chat(
    options: CommandOptions, args: argparse.Namespace, place: Place | None, *, plain: bool
) -> int:
    """Run the chat, on the whole terminal or in plain mode."""
    # What is made before the first frame stays: to look for garbage in it would delay the frame.
    gc.disable()
    try:
        from qwen35_chat.runtime import ChatRuntime

        with ChatRuntime(options, fake=args.fake, place=place) as runtime:
            choose = args.resume is not None and not args.resume.strip()
            given = options.chat_settings
            stored = args.latest or args.resume is not None
            name = None if choose else args.resume
            start = Start(
                runtime.conversation(last=args.latest, name=name),
                " ".join(args.message),
                choose,
                given if stored and given != ChatSettings() else None,
            )
            code = runtime.run_plain(start) if plain else runtime.run_screen(start)
            controller = runtime.controller
            conversation, alone, lost = controller.conversation, controller.alone, controller.lost
    finally:
        gc.enable()
    if alone:
        raise GoAloneError(conversation)
    if lost:
        raise LostError(code)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    if sys.stderr is None:  # closed by the caller; libraries write to it
        sys.stderr = io.StringIO()
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command("qwen35-chat", lambda: _run(words), home)


if __name__ == "__main__":
    sys.exit(main())
