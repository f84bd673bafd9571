"""One prompt and its answer: `qwen35-chat -p`."""

import json
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO, cast

import qwen35_mlx
from qwen35_chat.commands import SCOPE_OF
from qwen35_chat.json_answer import JsonAnswer
from qwen35_chat.options import CommandOptions
from qwen35_chat.settings import settings_file
from qwen35_chat.settings_file import SettingsFile
from qwen35_chat.tools.allowed import AllowedTools, allowed_tools
from qwen35_chat.tools.calling import MAX_ROUNDS
from qwen35_chat.tools.shown import shown_arguments, shown_name
from qwen35_mlx import exit_codes
from qwen35_mlx.distributed.place import Place
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import Library
from qwen35_mlx.load_options import drafting
from qwen35_mlx.session.chat_settings import merged_settings
from qwen35_mlx.session.events import Answer, Done, Notice, Thinking, ToolCall, TurnEvent
from qwen35_mlx.session.loaded_model import check_mlx
from qwen35_mlx.terminal import print_error, visible, visible_line

if TYPE_CHECKING:
    from qwen35_mlx.distributed.processes import Processes

DIM, NOT_DIM, CLEAR_LINE = "\x1b[2m", "\x1b[22m", "\r\x1b[2K"


def start_turn(
    prompt: str,
    options: CommandOptions,
    progress: Callable[[int, int, str], None],
    notice: Callable[[str], None] | None = None,
    processes: "Processes | None" = None,
) -> Generator[TurnEvent]:
    """Load the model and start a turn with the prompt.

    Args:
        progress, notice, processes: as for `qwen35_mlx.load`.

    Raises:
        Qwen35Error: MLX, the model, the conversation or the prompt cannot be used.
    """
    check_mlx()
    load = partial(
        qwen35_mlx.load,
        options.model,
        revision=options.revision,
        progress=progress,
        notice=notice,
        mtp=drafting(options.mtp or "auto"),
        processes=processes,
        **options.load,
    )
    if options.resume is None and not options.allow_tools:
        chat = _chat(load(), options)
        return cast("Generator[TurnEvent]", chat.send(prompt, **options.turn))
    return _start_turns(prompt, options, load)


@contextmanager
def _joined(
    place: Place | None, notice: Callable[[str], None] | None
) -> Iterator["Processes | None"]:
    """The processes that run the model. If one is lost, this one ends, as MLX may wait for ever."""
    if place is None:
        yield None
        return
    check_mlx()
    from qwen35_mlx.checkpoint.load import print_notice
    from qwen35_mlx.distributed.processes import Processes

    def end(line: str) -> None:
        print_error(f"error: {line}")
        os._exit(exit_codes.BAD_INPUT)

    notice = notice or print_notice
    processes = Processes.join(place, notice, end)
    with closing(processes):
        notice(processes.speed)
        yield processes


def _start_turns(
    prompt: str, options: CommandOptions, load: Callable[[], "qwen35_mlx.Model"]
) -> Generator[TurnEvent]:
    """A turn of the stored conversation that the options name, or one with tools, or both."""
    with ExitStack() as stack:
        more: dict[str, Any] = {}
        # A wrong name of a conversation or a tool fails at once, before the model is loaded.
        if options.resume is not None:
            library = stack.enter_context(Library())
            more["library"] = library
            more["conversation"] = _find_conversation(options.resume, library)
        tools = None
        if options.allow_tools:
            tools = stack.enter_context(
                allowed_tools(options.allow_tools, options.mcp_config, options.tools_folder or "")
            )
            more["tools"] = tools.schemas
        chat = stack.enter_context(closing(_chat(load(), options, **more)))
        yield from _turns(chat, prompt, options.turn, tools)


def _chat(model: "qwen35_mlx.Model", options: CommandOptions, **more: Any) -> "qwen35_mlx.Chat":
    """A chat with the options of the command line, and the settings for what they leave open."""
    chat = qwen35_mlx.Chat(model, **options.chat, **more)
    if options.settings is not None:
        chat.configure(merged_settings(options.settings, chat.settings))
    return chat


def _turns(
    chat: "qwen35_mlx.Chat", prompt: str, turn: Mapping[str, Any], tools: AllowedTools | None
) -> Generator[TurnEvent]:
    """The turns from a prompt to a reply that calls no tool.

    With tools, calls come right before the end of their turn: those that get results as notices.
    """
    content: str | list[dict[str, Any]] = prompt
    for _ in range(MAX_ROUNDS):
        calls: list[ToolCall] = []
        complete = False  # a reply that is cut short may have cut a call, too
        for event in chat.send(content, **turn):
            if tools is not None and isinstance(event, ToolCall):
                calls.append(event)
                continue
            if isinstance(event, Done):
                complete = event.finish_reason == "tool_calls"
                yield from map(_call_notice, calls) if complete else calls
            yield event
        if tools is None or not complete:
            return
        content = tools.results(calls, chat.model)
    raise Qwen35Error(f"the model has called tools {MAX_ROUNDS} times in a row: it was stopped")


def _call_notice(call: ToolCall) -> Notice:
    arguments = shown_arguments(call.arguments, None)
    return Notice(f"the model calls {shown_name(call.name)}({arguments})")


def with_settings(options: CommandOptions) -> CommandOptions:
    """The options, with those of the settings file that the command line leaves open.

    A stored conversation has its own: of the settings, it gets the model and its drafts alone.

    Raises:
        Qwen35Error: the file has a mistake.
    """
    settings = SettingsFile(settings_file(), commands=SCOPE_OF).load()
    folder = options.tools_folder
    return replace(
        options,
        model=options.model if options.model_given else settings.model,
        mtp=options.mtp or settings.mtp,
        tools_folder=settings.tools_folder if folder is None else folder,
        settings=settings.chat_settings() if options.resume is None else None,
    )


def _find_conversation(name: str, library: Library) -> int:
    """The id of a conversation; of the last one if `name` is empty."""
    if name:
        return library.resolve(name)
    newest = library.newest()
    if newest is None:
        raise Qwen35Error("there is no conversation to continue: start one with qwen35-chat")
    return newest.id


def run(
    prompt: str,
    options: CommandOptions,
    *,
    show_thinking: bool = False,
    as_json: bool = False,
    place: Place | None = None,
) -> int:
    """Write the answer alone to standard output, as it is generated. Returns the exit code.

    Standard error gets the rest: the thinking on request, a note if the answer is cut short, and
    on a terminal a line about the work in progress.

    Args:
        as_json: write one JSON object at the end instead, which has the rest, too.
        place: of this process, the first of several that run the model; None for one.

    Raises:
        Qwen35Error: as for `with_settings` and `start_turn`.
    """
    options = with_settings(options)
    if sys.stdout is None:
        raise Qwen35Error("standard output is closed: there is nowhere to write the answer")
    # A character that the stream's encoding lacks must not abort the answer.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    writer = _Writer(sys.stdout, sys.stderr)
    answer = JsonAnswer(options.model) if as_json else None
    notice = None if answer is None else answer.add_notice
    try:
        writer.cue(f"loading {options.model} ...")
        with (
            _joined(place, notice) as processes,
            closing(
                start_turn(prompt, options, writer.download_progress, notice, processes)
            ) as events,
        ):
            writer.cue("reading ...")
            for event in events:
                if answer is None:
                    _write_event(event, writer, show_thinking)
                else:
                    _collect(event, answer, writer)
        if answer is not None:
            writer.answer(f"{_encodable(answer.text(), sys.stdout)}\n")
        writer.end()
    except BrokenPipeError:
        return exit_codes.BROKEN_PIPE  # the reader has closed its end
    except BaseException:
        with suppress(OSError, Qwen35Error):
            writer.end()
        raise
    return 0


def _collect(event: TurnEvent, answer: JsonAnswer, writer: "_Writer") -> None:
    answer.add(event)
    if isinstance(event, Thinking | Answer | ToolCall):
        writer.cue("thinking ..." if isinstance(event, Thinking) else "writing ...")


def _encodable(text: str, stream: TextIO) -> str:
    """JSON without characters that the stream's encoding may lack."""
    if (stream.encoding or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8"):
        return text
    return "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in text)


def _write_event(event: TurnEvent, writer: "_Writer", show_thinking: bool) -> None:
    match event:
        case Thinking(text):
            if show_thinking:
                writer.thinking(text)
            else:
                writer.cue("thinking ...")
        case Answer(text):
            writer.answer(text)
        case ToolCall(name, arguments):
            writer.answer(f"{name}({json.dumps(dict(arguments), ensure_ascii=False)})\n")
        case Notice(line):
            writer.note(f"note: {line}")
        case Done(finish_reason="length", usage=usage):
            writer.note(f"note: the reply was cut short after {usage.reply_tokens:,} tokens")
        case Done(finish_reason="repetition", usage=usage):
            writer.note(
                f"note: the reply was ended after {usage.reply_tokens:,} tokens, since it went on"
                " repeating itself"
            )
        case _:
            pass


class _Writer:
    """Standard output and standard error, which may be one terminal.

    Each kind of text begins on a new line.
    """

    def __init__(self, out: TextIO, err: TextIO):
        self._out = out
        self._err = err
        self._shows_cues = err.isatty()
        self._cue = ""
        self._dim = err.isatty() and not os.environ.get("NO_COLOR")
        self._unfinished: TextIO | None = None  # the stream whose last line has no newline yet

    def cue(self, text: str) -> None:
        """Show what is in progress, until anything else is written. Only on a terminal."""
        if self._shows_cues and text != self._cue and self._unfinished is None:
            self._clear_cue()
            self._cue = text
            self._put(self._err, visible_line(text))

    def download_progress(self, done: int, total: int, _: str) -> None:
        """Show the progress of a download, in bytes."""
        self.cue(f"downloading ... {done / max(total, 1):.0%} of {total / 1e9:.1f} GB")

    def answer(self, text: str) -> None:
        self._begin(self._out)
        self._put(self._out, visible(text) if self._out.isatty() else text)
        self._unfinished = None if text.endswith("\n") else self._out

    def thinking(self, text: str) -> None:
        self._begin(self._err)
        shown = visible(text) if self._err.isatty() else text
        self._put(self._err, f"{DIM}{shown}{NOT_DIM}" if self._dim else shown)
        self._unfinished = None if text.endswith("\n") else self._err

    def note(self, text: str) -> None:
        self._begin(None)
        self._put(self._err, f"{visible_line(text)}\n")

    def end(self) -> None:
        """Finish the last line."""
        self._begin(None)

    def _begin(self, stream: TextIO | None) -> None:
        """Prepare for text of one stream: finish the line of the other."""
        self._clear_cue()
        if self._unfinished not in (None, stream):
            self._put(cast(TextIO, self._unfinished), "\n")
            self._unfinished = None

    def _clear_cue(self) -> None:
        if self._cue:
            self._put(self._err, CLEAR_LINE)
            self._cue = ""

    def _put(self, stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Qwen35Error(f"the answer cannot be written: {error.strerror}") from None
