"""`qwen35-chat --plain`: the chat as lines of text, for screen readers, logs and dumb terminals.

Nothing is redrawn and nothing moves; the commands are those of the screen, by their slash names.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from qwen35_chat import clipboard
from qwen35_chat.attachments import with_files
from qwen35_chat.commands import BY_SLASH, parse_slash
from qwen35_chat.desk import END_NOTES, Desk
from qwen35_chat.exporting import export
from qwen35_chat.models import PUBLISHED, local_models, machine_memory
from qwen35_chat.plain import visible
from qwen35_chat.settings import PRESETS, THINKING, THINKS, VIEWS, typed_value
from qwen35_mlx import __version__
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Done,
    Event,
    Failed,
    Loaded,
    Notice,
    Opened,
    PrefillProgress,
    Thinking,
    ToolCall,
    TurnEvent,
)

LOOKS_PER_SECOND = 15
PREFILL_SECONDS = 5.0  # between two lines about reading a long prompt
SHOWN_SESSIONS = 20


class Linear:
    """Reads a line, writes what it leads to. Each public method is a command of the table.

    Args:
        read: gives the next line; raises EOFError at the end. What a line that ends in a
            backslash goes on with is read as well.
        out: where everything is written.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        read: Callable[[], str] = input,
        out: TextIO | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.desk = desk
        self._read = read
        self._out = out or sys.stdout
        self._sleep = sleep
        self._ended = False
        self._answer = ""
        self._listed: list[int] = []

    def run(self, conversation: int | None = None) -> None:
        """Until the input ends, or /quit."""
        self._line(f"qwen35-chat {__version__}, {self.desk.model}. /help lists the commands.")
        self.desk.start(conversation)
        self._until(lambda: self.desk.loaded or self.desk.failed)
        if conversation is None and (draft := self.desk.draft()):
            self._line(f"Not sent last time: {draft}")
        while not self._ended:
            try:
                text = self._message()
            except EOFError:
                break
            except KeyboardInterrupt:
                self._line("")
                continue
            try:
                self._take_line(text)
            except Qwen35Error as error:
                self._line(f"Error: {error}")

    def _message(self) -> str:
        self._out.write("You: ")
        self._out.flush()
        lines = [self._read()]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._read())
        return "\n".join(lines)

    def _take_line(self, text: str) -> None:
        if not text.strip():
            return
        if parsed := parse_slash(text):
            command, argument = parsed
            if command.screen:
                raise Qwen35Error(f"/{command.slash} needs the screen: start without --plain")
            command.run(self, argument)
            return
        self.desk.past.add(text)
        self.send(with_files(text, Path.cwd()))

    def send(self, text: str) -> None:
        self.desk.send(text)
        self._turn()

    # Events

    def _turn(self) -> None:
        """Write the turn that was asked for, until its end; Ctrl+C stops it."""
        self._answer = ""
        self._part = ""
        self._told_at = time.monotonic()
        while self.desk.busy:
            try:
                self._until(lambda: not self.desk.busy)
            except KeyboardInterrupt:
                self.desk.stop()

    def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            for event in self.desk.poll():
                self.desk.take(event)
                self._show(event)
            if not reached():
                self._sleep(1 / LOOKS_PER_SECOND)

    def _show(self, event: Event) -> None:
        match event:
            case Loaded(model, context):
                self._line(f"{model} is loaded; its context is {context:,} tokens.")
            case Notice(message):
                self._line(message)
            case Opened():
                self._opened()
            case Failed(message):
                self._part_ends()
                self._line(f"Error: {message}")
            case Cancelled():
                self._part_ends()
                self._line("Stopped.")
            case _:
                if not isinstance(event, Loaded):
                    self._show_turn(event)  # pyright: ignore[reportArgumentType]

    def _show_turn(self, event: TurnEvent) -> None:
        match event:
            case PrefillProgress(done, total, cached):
                now = time.monotonic()
                if now - self._told_at > PREFILL_SECONDS:
                    self._told_at = now
                    self._line(f"Reading: {done:,} of {total:,} tokens, {cached:,} from before.")
            case Thinking(text):
                view = self.desk.settings.thinking_view
                if view == "open":
                    self._piece("Thinking", text)
                elif view == "collapsed" and self._part != "Thinking" and text.strip():
                    self._part = "Thinking"
                    self._line("Thinking.")
            case Answer(text):
                self._answer += text
                self._piece("Answer", text)
            case ToolCall(name, arguments):
                self._part_ends()
                shown = json.dumps(dict(arguments), ensure_ascii=False)
                self._line(f"Asks for {name}({shown})")
            case Done(reason, figures):
                self._part_ends()
                if note := END_NOTES[reason]:
                    self._line(note)
                self._line(
                    f"({figures.reply_tokens:,} tokens, {figures.decode_rate:.0f} a second, "
                    f"context {self.desk.used:,} of {self.desk.context:,})"
                )
            case _:
                pass

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
        if getattr(self, "_part", "") == "Answer" or (
            getattr(self, "_part", "") == "Thinking" and self.desk.settings.thinking_view == "open"
        ):
            self._write("\n")
        self._part = ""

    def _opened(self) -> None:
        stored = self.desk.stored()
        if stored is None:
            self._line("A new conversation.")
            return
        self._line(f"{stored.title or 'Untitled'}:")
        for message in stored.path():
            who = {"user": "You", "assistant": "Answer"}.get(message.role, message.role)
            which, total = stored.position(message.id)
            version = f" (version {which} of {total})" if total > 1 else ""
            self._line(f"{who}{version}: {message.content}")
            if message.role == "assistant":
                self._answer = message.content
        if self.desk.read_only:
            self._line("Open in another window: here it can be read only.")

    def _line(self, text: str) -> None:
        self._write(text + "\n")

    def _write(self, text: str) -> None:
        self._out.write(visible(text))
        self._out.flush()

    def say(self, text: str, *, error: bool = False) -> None:
        self._line(f"Error: {text}" if error else text)

    # Commands

    def new(self) -> None:
        self.desk.open(None)
        self._settled()

    def _settled(self) -> None:
        """Take in what the engine has to say to a request that is no turn."""
        for _ in range(LOOKS_PER_SECOND):
            for event in self.desk.poll():
                self.desk.take(event)
                self._show(event)
                if isinstance(event, Opened | Loaded | Failed):
                    return
            self._sleep(1 / LOOKS_PER_SECOND)

    def sessions(self, text: str = "") -> None:
        """List conversations; a number opens one of those that were listed."""
        if text.isdigit() and 1 <= int(text) <= len(self._listed):
            self.desk.open(self._listed[int(text) - 1])
            self._settled()
            return
        if text:
            hits = self.desk.library.search(text)
            found = {hit.conversation: (hit.title, hit.snippet.text) for hit in hits}
        else:
            summaries = self.desk.library.list(limit=SHOWN_SESSIONS)
            found = {s.id: (s.title, s.preview) for s in summaries}
        self._listed = list(found)
        for number, (title, preview) in enumerate(found.values(), 1):
            self._line(f"{number}. {title}: {' '.join(preview.split())[:80]}")
        self._line("/sessions and a number opens one." if found else "There is none.")

    def rename(self, title: str = "") -> None:
        self._line(f"Renamed to {self.desk.rename(title)}")

    def delete(self) -> None:
        self._line(f"Deleted {self.desk.delete()}; /undo brings it back.")
        self._settled()

    def undo(self) -> None:
        self.desk.open(self.desk.undelete().id)
        self._settled()

    def export(self, name: str = "") -> None:
        if self.desk.conversation is None:
            raise Qwen35Error("this conversation has no message yet")
        self._line(f"Written to {export(self.desk, self.desk.conversation, name)}")

    def retry(self) -> None:
        self.desk.retry()
        self._turn()

    def edit(self, text: str = "") -> None:
        message = self.desk.last_asked()
        if not text:
            self._line(f"Your last message: {message.content}")
            self._line("/edit and a text sends that instead.")
            return
        self.desk.edit(message.id, with_files(text, Path.cwd()))
        self._turn()

    def sibling(self, step: int) -> None:
        self.desk.sibling(step)
        self._settled()

    def compact(self) -> None:
        self.desk.compact()
        self._settled()

    def models(self, name: str = "") -> None:
        if name:
            self.desk.use_model(name)
            self._until(lambda: self.desk.loaded or self.desk.failed)
            return
        tokens, memory = self.desk.settings.context, machine_memory()
        local = local_models(self.desk.settings.folders)
        here = {known.name for known in local}
        for known in [*local, *(k for k in PUBLISHED if k.name not in here)]:
            place = "here" if known.folder else "to download"
            self._line(f"{known.name}: {known.fit(tokens, memory)}, {place}")
        self._line("/model and a name uses one, and downloads it if need be.")

    def unload(self) -> None:
        self.desk.unload()
        self._line("The model's memory is given back; the next message loads it again.")

    def _choose(self, name: str, values: Iterable[str], text: str) -> None:
        known = tuple(values)
        if text not in known:
            now = getattr(self.desk.settings, name)
            raise Qwen35Error(f"{name} is {now}; give one of: {', '.join(known)}")
        self.desk.configure(name, text)
        self._line(f"{name}: {text}")

    def thinking(self, text: str = "") -> None:
        self._choose("thinking", THINKING, text)

    def view(self, text: str = "") -> None:
        self._choose("thinking_view", VIEWS, text)

    def preset(self, text: str = "") -> None:
        self._choose("preset", PRESETS, text)
        if text in THINKS:
            self.desk.configure("thinking", THINKS[text])

    def system(self, text: str = "") -> None:
        if text:
            self.desk.configure("system", text)
        self._line(f"System prompt: {self.desk.settings.system or 'none'}")

    def settings(self, text: str = "") -> None:
        name, _, value = text.partition(" ")
        if value:
            self.desk.configure(name, typed_value(name, value))
            self._line(f"{name}: kept")
            return
        now = self.desk.settings
        for name in ("model", "system", "thinking", "preset", "max_tokens", "context"):
            self._line(f"{name}: {getattr(now, name)}")
        for name, number in now.sampling.items():
            self._line(f"sampling.{name}: {number:g}")
        self._line(f"/settings name value changes one. The file: {self.desk.file.file}")

    def copy_reply(self) -> None:
        if not self._answer:
            raise Qwen35Error("there is nothing to copy yet")
        self._line(clipboard.copy(self._answer.strip("\n"), self._terminal, os.environ))

    def copy_code(self) -> None:
        from qwen35_chat.drawing.markdown import Markdown

        codes = Markdown(self._answer).codes
        if not codes:
            raise Qwen35Error("there is no code in the last answer")
        self._line(clipboard.copy(codes[-1], self._terminal, os.environ))

    def _terminal(self, sequence: str) -> None:
        if self._out.isatty():
            self._out.write(sequence)

    def help(self) -> None:
        for name, command in BY_SLASH.items():
            if not command.screen:
                argument = f" ({command.argument})" if command.argument else ""
                self._line(f"/{name}{argument}: {command.help}")
        self._line(
            "A line that ends in \\ goes on in the next. Ctrl+C stops a reply, Ctrl+D quits."
        )

    def quit(self) -> None:
        self._ended = True
