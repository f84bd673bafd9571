"""Completions for what is typed. Files are found, and their tokens counted, on other threads."""

import time
from functools import partial
from pathlib import Path
from typing import Any

from textual.screen import Screen

from qwen35_chat.attachments import files_below, read_text_file
from qwen35_chat.completion import commands_for, files_for, mention_before
from qwen35_chat.tokens import TokenCounter
from qwen35_chat.widgets.completions import Completions
from qwen35_mlx.errors import Qwen35Error

FILES_SECONDS = 10.0  # before the list of files is renewed


class Completer:
    """Keeps the list of completions up to date.

    Args:
        screen: whose workers run the threads.
    """

    def __init__(self, screen: Screen[Any], completions: Completions):
        self._screen = screen
        self._completions = completions
        self._text = self._before = ""
        self._files: list[str] = []
        self._listed_at: float | None = None
        self._counter = TokenCounter()

    def use_model(self, model: str) -> None:
        """Count tokens as this model does."""
        self._counter.use_model(model)

    def complete(self, text: str, before: str) -> None:
        """List what may follow.

        Args:
            text: what is typed.
            before: the part of it before the cursor.
        """
        self._text, self._before = text, before
        choices = commands_for(before) if text == before else []
        if not choices and (query := mention_before(before)) is not None:
            self._list_files()
            choices = files_for(before, self._files)
            if choices and query:
                name = choices[0].label
                self._in_thread("count", partial(self._count, name))
        # What a whole command's name would complete to is that name.
        self._completions.show(
            [c for c in choices if c.insert.strip() != before.strip() or "/" in c.label], before
        )

    def _list_files(self) -> None:
        now = time.monotonic()
        if self._listed_at is None or now - self._listed_at > FILES_SECONDS:
            self._listed_at = now
            self._in_thread("files", self._find_files)

    def _in_thread(self, group: str, function: Any) -> None:
        self._screen.run_worker(function, group=group, exclusive=True, thread=True)

    def _find_files(self) -> None:
        found = files_below(Path())
        self._screen.app.call_from_thread(self._take_files, found)

    def _take_files(self, found: list[str]) -> None:
        if found != self._files:
            self._files = found
            self.complete(self._text, self._before)

    def _count(self, name: str) -> None:
        try:
            hint = self._counter.describe(read_text_file(Path(name)))
        except Qwen35Error as error:
            hint = str(error).removeprefix(f"{name} ")
        self._screen.app.call_from_thread(self._completions.hint, name, hint)
