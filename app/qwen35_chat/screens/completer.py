"""Completions for what is typed: commands, and files with the number of their tokens."""

import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from textual.screen import Screen

from qwen35_chat.attachments import files_below
from qwen35_chat.completion import commands_for, files_for
from qwen35_chat.controller import Controller
from qwen35_chat.mentions import unfinished
from qwen35_chat.readable_files import read_text_file
from qwen35_chat.shell_command import shell_command
from qwen35_chat.typed_signs import with_ascii_sign
from qwen35_chat.widgets.completions import Completions
from qwen35_mlx.errors import Qwen35Error

FILES_SECONDS = 10.0  # before the list of files is renewed


class Completer:
    """Keeps the list of completions up to date.

    Args:
        screen: its workers wait for the disk.
    """

    def __init__(self, screen: Screen[Any], controller: Controller, completions: Completions):
        self._screen = screen
        self._controller = controller
        self._completions = completions
        self._text = self._before = ""
        self._files: list[str] = []
        self._listed_at: float | None = None

    def complete(self, text: str, before: str) -> None:
        """List what may follow.

        Args:
            text: what is typed.
            before: the part of it before the cursor.
        """
        self._text, self._before = text, before
        typed, text, before = before, with_ascii_sign(text), with_ascii_sign(before)
        choices = commands_for(before) if text == before else []
        if self._controller.settings.shell_commands == "on" and shell_command(text):
            before = ""  # names of files are a stranger's words, and would be run
        if not choices and (found := unfinished(before)) is not None:
            self._list_files()
            choices = files_for(before, self._files)
            if choices and found[1] and not choices[0].hint:
                self._work("count", self._count(choices[0].label))
        # What a whole command's name would complete to is that name.
        self._completions.show(
            [c for c in choices if c.insert.strip() != before.strip() or "/" in c.label], typed
        )

    def _list_files(self) -> None:
        now = time.monotonic()
        if self._listed_at is None or now - self._listed_at > FILES_SECONDS:
            self._listed_at = now
            self._work("files", self._find_files())

    def _work(self, group: str, work: Coroutine[Any, Any, None]) -> None:
        self._screen.run_worker(work, group=group, exclusive=True)

    async def _find_files(self) -> None:
        found = await self._controller.calls.run("files", files_below, Path())
        if found != self._files:
            self._files = found
            self.complete(self._text, self._before)

    async def _count(self, name: str) -> None:
        hint = await self._controller.calls.run("models", self._describe, name)
        self._completions.hint(name, hint)

    def _describe(self, name: str) -> str:
        try:
            return self._controller.tokens.describe(read_text_file(Path(name)).text)
        except Qwen35Error as error:
            return str(error).removeprefix(f"{name} ")
