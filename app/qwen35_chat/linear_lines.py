"""How the linear mode reads lines, and writes what happens as lines."""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from qwen35_chat.controller import END_NOTES, Controller
from qwen35_chat.plain import visible
from qwen35_mlx import __version__
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Done,
    Event,
    Failed,
    Loaded,
    Loading,
    Notice,
    Opened,
    PrefillProgress,
    Thinking,
    ToolCall,
    Unloaded,
)

LOOKS_PER_SECOND = 15
PROGRESS_SECONDS = 5.0  # between two lines about something long


class Lines:
    """Reads a line, writes what it leads to.

    Args:
        read: gives the next line after a prompt; raises EOFError at the end.
        out: where everything else is written.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        read: Callable[[str], str] = input,
        out: TextIO | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.controller = controller
        self.answer = ""  # the last one
        self._read = read
        self._out = out or sys.stdout
        self._sleep = sleep
        self._clock = clock
        self._ended = False
        self._interrupted = False
        self._part = ""  # what the line that is being written belongs to
        self._told_at = 0.0

    def run(self, conversation: int | None = None) -> None:
        """Until the input ends, or /quit."""
        self.line(f"qwen35-chat {__version__}, {self.controller.model}. /help lists the commands.")
        self.controller.start(conversation)
        self.loaded()
        if draft := self.controller.draft():
            self.line(f"Not sent last time: {draft}")
        while not self._ended:
            try:
                text = self._message()
            except EOFError:
                self.line("")
                break
            except KeyboardInterrupt:
                self.line("")
                continue
            try:
                self._take_line(text)
            except Qwen35Error as error:
                self.say(str(error), error=True)

    def _message(self) -> str:
        """A message: what a line that ends in a backslash goes on with belongs to it."""
        lines = [self._read("You: ")]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            try:
                lines.append(self._read("More: "))
            except EOFError:
                self.controller.save_draft("\n".join(lines))
                raise
        return "\n".join(lines)

    def _take_line(self, text: str) -> None:
        raise NotImplementedError

    # Waiting

    def turn(self) -> None:
        """Write the turn that was asked for, until its end; Ctrl+C stops it."""
        self.answer = ""
        self._part = ""
        self._until(lambda: not self.controller.busy)

    def loaded(self) -> None:
        """Wait for the model; Ctrl+C goes on without."""
        self._until(lambda: not self.controller.loading)

    def answered(self) -> None:
        """Wait for what a request that is no turn ends in."""
        self._until(lambda: False, ends=(Opened, Failed, Cancelled))

    def _until(self, reached: Callable[[], bool], ends: tuple[type[Event], ...] = ()) -> None:
        self._told_at = self._clock()
        with self._interrupts():
            while not reached():
                over = False
                for event in self.controller.poll():
                    loading = self.controller.loading
                    self.controller.take(event)
                    self._show(event, loading)
                    over = over or isinstance(event, ends)
                if over or reached():
                    return
                if self._interrupted:
                    self._interrupted = False
                    self.controller.stop()
                self._sleep(1 / LOOKS_PER_SECOND)

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Meanwhile Ctrl+C is noted, instead of breaking off whatever is being done."""
        self._interrupted = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(*_: object) -> None:
            self._interrupted = True

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # Writing

    def _show(self, event: Event, loading: bool) -> None:
        """Write what an event says; `loading`: whether a model was being loaded before it."""
        match event:
            case Loading(what, fraction):
                if fraction is not None and self._due():
                    self.line(f"Loading {what}: {fraction:.0%}")
            case Loaded(model, context):
                self.line(f"{model} is loaded; its context is {context:,} tokens.")
                self.controller.keep_model()
            case Unloaded():
                self.line("The model's memory was given back; the next message loads it again.")
            case Notice(message):
                self.line(message)
            case Opened():
                self._opened()
            case Failed(message):
                self._part_ends()
                self.line(f"Error: {message}")
                if loading:
                    self.line("/model and a name chooses another model.")
            case Cancelled():
                self._part_ends()
                self.line("Stopped.")
            case _:
                self._show_turn(event)

    def _show_turn(self, event: Event) -> None:
        match event:
            case PrefillProgress(done, total, cached):
                if self._due():
                    self.line(f"Reading: {done:,} of {total:,} tokens, {cached:,} from before.")
            case Thinking(text):
                view = self.controller.settings.thinking_view
                if view == "open":
                    self._piece("Thinking", text)
                elif view == "collapsed" and self._part != "Thinking" and text.strip():
                    self._part = "Thinking"
                    self.line("Thinking.")
            case Answer(text):
                self.answer += text
                self._piece("Answer", text)
            case ToolCall(name, arguments):
                self._part_ends()
                shown = json.dumps(dict(arguments), ensure_ascii=False)
                self.line(f"Asks for {name}({shown})")
            case Done(reason, usage):
                self._part_ends()
                if note := END_NOTES[reason]:
                    self.line(note)
                self.line(
                    f"({usage.reply_tokens:,} tokens, {usage.decode_rate:.0f} a second, "
                    f"context {self.controller.used:,} of {self.controller.context:,})"
                )
            case _:
                pass

    def _due(self) -> bool:
        """Whether it is time for a line about something long."""
        now = self._clock()
        if now - self._told_at < PROGRESS_SECONDS:
            return False
        self._told_at = now
        return True

    def _piece(self, part: str, text: str) -> None:
        if self._part != part:
            text = text.lstrip("\n")
            if not text:
                return
            self._part_ends()
            self._part = part
            self._write(f"{part}: ")
        self._write(text)

    def _part_ends(self) -> None:
        if self._part == "Answer" or (
            self._part == "Thinking" and self.controller.settings.thinking_view == "open"
        ):
            self._write("\n")
        self._part = ""

    def _opened(self) -> None:
        stored = self.controller.stored()
        if stored is None:
            self.answer = ""
            self.line("A new conversation.")
            return
        self.line(f"{stored.title or 'Untitled'}:")
        for message in stored.path():
            who = {"user": "You", "assistant": "Answer"}.get(message.role, message.role)
            which, total = stored.position(message.id)
            version = f" (version {which} of {total})" if total > 1 else ""
            self.line(f"{who}{version}: {message.content}")
            if message.role == "assistant":
                self.answer = message.content
        if self.controller.read_only:
            self.line("Open in another window: here it can be read only.")

    def line(self, text: str) -> None:
        self._write(text + "\n")

    def _write(self, text: str) -> None:
        self._out.write(visible(text))
        self._out.flush()

    def say(self, text: str, *, error: bool = False) -> None:
        self.line(f"Error: {text}" if error else text)
