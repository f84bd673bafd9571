"""One prompt, one answer: `qwen35-chat -p`."""

import json
import os
import sys
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from functools import partial
from io import TextIOWrapper
from typing import TextIO, cast

import qwen35_mlx
from qwen35_chat.control_characters import visible
from qwen35_chat.options import Options
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import Answer, Done, Notice, Thinking, ToolCall, TurnEvent

# What a shell reports for a program that SIGPIPE ended.
EXIT_BROKEN_PIPE = 141
DIM, PLAIN, CLEAR_LINE = "\x1b[2m", "\x1b[22m", "\r\x1b[2K"


def start_turn(
    prompt: str, options: Options, progress: Callable[[int, int, str], None]
) -> Generator[TurnEvent]:
    """Load the model and ask it.

    Raises:
        Qwen35Error: MLX, the model or the prompt cannot be used.
    """
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        raise Qwen35Error(
            f"MLX does not start ({error}): on Linux, install the extra for your machine, "
            "qwen35-mlx[cpu] or qwen35-mlx[cuda]"
        ) from None
    load = partial(
        qwen35_mlx.load,
        options.model,
        revision=options.revision,
        progress=progress,
        **options.load,
    )
    if options.resume is None:
        chat = qwen35_mlx.Chat(load(), **options.chat)
        return cast("Generator[TurnEvent]", chat.send(prompt, **options.turn))
    return _resumed(prompt, options, load)


def _resumed(
    prompt: str, options: Options, load: Callable[[], "qwen35_mlx.Model"]
) -> Generator[TurnEvent]:
    """A turn of a stored conversation, which is closed again."""
    with Library() as library:
        # Before the model: a name that is not there should not cost a load.
        number = _named(options.resume or "", library)
        with closing(
            qwen35_mlx.Chat(load(), library=library, conversation=number, **options.chat)
        ) as chat:
            yield from chat.send(prompt, **options.turn)


def _named(name: str, library: Library) -> int:
    if name:
        return library.resolve(name)
    newest = library.list(1)
    if not newest:
        raise Qwen35Error("there is no conversation to continue: start one with qwen35-chat")
    return newest[0].id


def print_answer(prompt: str, options: Options, *, show_thinking: bool = False) -> int:
    """Write the answer to standard output as it comes, and nothing else; the exit code.

    Standard error gets what is worth saying besides: the thinking if it is asked for, a note
    if the answer is cut short, and on a terminal a cue that something is going on.

    Raises:
        Qwen35Error: as for `start_turn`.
    """
    if sys.stdout is None:
        raise Qwen35Error("standard output is closed: there is nowhere to write the answer")
    # A character that the terminal's encoding lacks should not end the answer.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    writer = _Writer(sys.stdout, sys.stderr)
    try:
        writer.cue(f"loading {options.model} ...")
        with closing(start_turn(prompt, options, writer.fetched)) as events:
            writer.cue("reading ...")
            for event in events:
                _write(event, writer, show_thinking)
        writer.end()
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE  # whoever read this has had enough
    except BaseException:
        with suppress(OSError, Qwen35Error):
            writer.end()
        raise
    return 0


def _write(event: TurnEvent, writer: "_Writer", show_thinking: bool) -> None:
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
        case _:
            pass


class _Writer:
    """The two streams, which often are one terminal: each part begins on a line of its own."""

    def __init__(self, out: TextIO, err: TextIO):
        self._out = out
        self._err = err
        self._cues = err.isatty()
        self._cue = ""
        self._dim = err.isatty() and not os.environ.get("NO_COLOR")
        self._open: TextIO | None = None  # the stream whose last line has no end yet

    def cue(self, text: str) -> None:
        """What is going on, until anything else is written. Only for a terminal."""
        if self._cues and text != self._cue and self._open is None:
            self._clear()
            self._cue = text
            self._put(self._err, visible(text))

    def fetched(self, done: int, total: int, _: str) -> None:
        """A download's progress, in bytes, as a cue."""
        self.cue(f"downloading ... {done / max(total, 1):.0%} of {total / 1e9:.1f} GB")

    def answer(self, text: str) -> None:
        self._begin(self._out)
        self._put(self._out, visible(text) if self._out.isatty() else text)
        self._open = None if text.endswith("\n") else self._out

    def thinking(self, text: str) -> None:
        self._begin(self._err)
        shown = visible(text) if self._err.isatty() else text
        self._put(self._err, f"{DIM}{shown}{PLAIN}" if self._dim else shown)
        self._open = None if text.endswith("\n") else self._err

    def note(self, text: str) -> None:
        self._begin(None)
        self._put(self._err, f"{text}\n")

    def end(self) -> None:
        """Complete the last line."""
        self._begin(None)

    def _begin(self, stream: TextIO | None) -> None:
        self._clear()
        if self._open not in (None, stream):
            self._put(cast(TextIO, self._open), "\n")
            self._open = None

    def _clear(self) -> None:
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
