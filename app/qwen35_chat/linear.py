"""`qwen35-chat --plain`: the chat as lines of text, for screen readers, logs and dumb terminals.

Nothing is redrawn and nothing moves; the commands are those of the screen, by their slash names.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from qwen35_chat import clipboard
from qwen35_chat.attachments import with_files
from qwen35_chat.commands import BY_SLASH, parse_slash
from qwen35_chat.exporting import export
from qwen35_chat.linear_lines import Lines
from qwen35_chat.models import PUBLISHED, local_models, machine_memory
from qwen35_chat.settings import (
    FIELDS,
    PRESET_THINKING,
    PRESETS,
    SAMPLING,
    THINKING,
    VIEWS,
    display_value,
    parse_value,
)
from qwen35_mlx.errors import Qwen35Error

SHOWN_SESSIONS = 20


class Linear(Lines):
    """Each public method is a command of the table."""

    _listed: tuple[int, ...] = ()  # the conversations that numbers stand for

    def _take_line(self, text: str) -> None:
        if not text.strip():
            return
        if parsed := parse_slash(text):
            command, argument = parsed
            if command.screen:
                raise Qwen35Error(f"/{command.slash} needs the screen: start without --plain")
            command.run(self, argument)
            return
        self.controller.send(with_files(text, Path.cwd()))
        try:
            self.controller.save_draft("")
            self.controller.past.add(text)
        except Qwen35Error as error:
            self.say(str(error), error=True)
        self.turn()

    def new(self) -> None:
        self.controller.open(None)
        self.answered()

    def sessions(self, text: str = "") -> None:
        """List conversations; a number opens one of those that were listed."""
        if text.isdigit() and 1 <= int(text) <= len(self._listed):
            self.controller.open(self._listed[int(text) - 1])
            self.answered()
            return
        if text:
            hits = self.controller.library.search(text)
            found = {hit.conversation: (hit.title, hit.snippet.text) for hit in hits}
        else:
            summaries = self.controller.library.list(limit=SHOWN_SESSIONS)
            found = {s.id: (s.title, s.preview) for s in summaries}
        self._listed = tuple(found)
        for number, (title, preview) in enumerate(found.values(), 1):
            shown = " ".join(title.split()) or "Untitled"
            self.line(f"{number}. {shown}: {' '.join(preview.split())[:80]}")
        self.line("/sessions and a number opens one." if found else "There is none.")

    def rename(self, title: str = "") -> None:
        self.line(f"Renamed to {self.controller.rename(title)}")

    def delete(self) -> None:
        self.line(f"Deleted {self.controller.delete()}; /undo brings it back.")
        self.answered()

    def undo(self) -> None:
        self.controller.open(self.controller.undelete().id)
        self.answered()

    def export(self, name: str = "") -> None:
        if self.controller.conversation is None:
            raise Qwen35Error("this conversation has no message yet")
        self.line(f"Written to {export(self.controller, self.controller.conversation, name)}")

    def retry(self) -> None:
        self.controller.retry()
        self.turn()

    def edit(self, text: str = "") -> None:
        message = self.controller.last_asked()
        if not text:
            self.line(f"Your last message: {message.content}")
            self.line("/edit and a text sends that instead.")
            return
        self.controller.edit(message.id, with_files(text, Path.cwd()))
        self.turn()

    def sibling(self, step: int) -> None:
        self.controller.sibling(step)
        self.answered()

    def compact(self) -> None:
        self.controller.compact()
        self.answered()

    def models(self, name: str = "") -> None:
        if name:
            self.controller.use_model(name)
            self.loaded()
            return
        tokens, memory = self.controller.settings.context, machine_memory()
        local = local_models(self.controller.settings.folders)
        here = {known.name for known in local}
        for known in [*local, *(k for k in PUBLISHED if k.name not in here)]:
            place = "here" if known.folder else "to download"
            self.line(f"{known.name}: {known.memory_fit(tokens, memory)}, {place}")
        self.line("/model and a name uses one, and downloads it if need be.")

    def unload(self) -> None:
        self.controller.unload()
        self._until(lambda: not self.controller.loaded)

    def _choose(self, name: str, values: Iterable[str], text: str) -> None:
        known = tuple(values)
        if text not in known:
            now = getattr(self.controller.settings, name)
            raise Qwen35Error(f"{name} is {now}; give one of: {', '.join(known)}")
        self.controller.configure(name, text)
        self.line(f"{name}: {text}")

    def thinking(self, text: str = "") -> None:
        self._choose("thinking", THINKING, text)

    def view(self, text: str = "") -> None:
        self._choose("thinking_view", VIEWS, text)

    def preset(self, text: str = "") -> None:
        self._choose("preset", PRESETS, text)
        if text in PRESET_THINKING:
            self.controller.configure("thinking", PRESET_THINKING[text])

    def system(self, text: str = "") -> None:
        if text:
            self.controller.configure("system", text)
        self.line(f"System prompt: {self.controller.settings.system or 'none'}")

    def settings(self, text: str = "") -> None:
        name, _, value = text.partition(" ")
        if value:
            self.controller.configure(name, parse_value(name, value))
            self.line(f"{name}: kept")
            return
        now = self.controller.settings
        for name in (*FIELDS, *(f"sampling.{name}" for name in SAMPLING)):
            self.line(f"{name}: {display_value(now, name) or 'none'}")
        self.line(f"/settings name value changes one. The file: {self.controller.file.file}")

    def copy_reply(self) -> None:
        if not self.answer:
            raise Qwen35Error("there is nothing to copy yet")
        self.line(clipboard.copy(self.answer.strip("\n"), self._terminal, os.environ))

    def copy_code(self) -> None:
        from qwen35_chat.drawing.markdown import Markdown

        codes = Markdown(self.answer).codes
        if not codes:
            raise Qwen35Error("there is no code in the last answer")
        self.line(clipboard.copy(codes[-1], self._terminal, os.environ))

    def _terminal(self, sequence: str) -> None:
        if self._out.isatty():
            self._out.write(sequence)

    def help(self) -> None:
        for name, command in BY_SLASH.items():
            if not command.screen:
                argument = f" ({command.argument})" if command.argument else ""
                self.line(f"/{name}{argument}: {command.help}")
        self.line("A line that ends in \\ goes on in the next. Ctrl+C stops a reply, Ctrl+D quits.")

    def quit(self) -> None:
        self._ended = True
