"""One prompt, one answer: `qwen35-chat -p`."""

import json
import os
import sys
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from io import TextIOWrapper
from typing import TextIO, cast

from qwen35_chat.options import Options
from qwen35_chat.plain import visible
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.events import Answer, Done, Thinking, ToolCall, TurnEvent

# What a shell reports for a program that SIGPIPE ended.
EXIT_BROKEN_PIPE = 141
DIM, PLAIN, CLEAR_LINE = "\x1b[2m", "\x1b[22m", "\r\x1b[2K"


class OutputError(Qwen35Error):
    """A stream does not take what is written to it."""


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
    import qwen35_mlx

    model = qwen35_mlx.load(options.model, revision=options.revision, progress=progress)
    events = qwen35_mlx.Chat(model, **options.chat).send(prompt, **options.turn)
    return cast("Generator[TurnEvent]", events)


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
        # Whoever read this has had enough.
        _discard_output()
        return EXIT_BROKEN_PIPE
    except OutputError:
        _discard_output()
        raise
    except BaseException:
        with suppress(OSError, OutputError):
            writer.end()
        raise
    return 0


def _discard_output() -> None:
    """Python would try to flush what is left at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        case Done(finish_reason="length", figures=figures):
            writer.note(f"note: the reply was cut short after {figures.reply_tokens:,} tokens")
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
            raise OutputError(f"the answer cannot be written: {error.strerror}") from None
