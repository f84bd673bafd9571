"""Everything that one window needs, opened and closed together."""

import gc
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from qwen35_chat.commands import SCOPE_OF
from qwen35_chat.controller import Controller
from qwen35_chat.history import History
from qwen35_chat.options import Options
from qwen35_chat.settings import settings_file
from qwen35_chat.settings_file import SettingsFile
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.engine import Engine, EngineThread

if TYPE_CHECKING:
    from qwen35_chat.app import ChatApp

DEMO = "demo"
# Textual waits for one or two frames after each that it draws. At its usual 60 a second, what is
# typed while a reply streams in is late by up to 33 ms; nothing is drawn more often for this.
FRAMES_PER_SECOND = 120
EXIT_CLOSED = 128 + 1  # of a program that SIGHUP ended, which Windows does not know


class Window:
    """Engine, library and settings of one chat.

    Args:
        fake: an engine that plays a script, and a library that nobody keeps.

    Raises:
        Qwen35Error: the settings are wrong, or the library cannot be opened.
    """

    def __init__(self, options: Options, *, fake: bool = False):
        self._stack = ExitStack()
        with self._stack:
            settings = SettingsFile(None if fake else settings_file(), _changes(options), SCOPE_OF)
            settings.load()
            folder: Path | None = None
            if fake:
                folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            library = self._stack.enter_context(Library(folder))
            self._engine = self._make_engine(options, settings, library, fake)
            self._stack.callback(self._engine.close)
            history = History(library.folder / "history.jsonl")
            seed = options.turn.get("seed")
            self.controller = Controller(self._engine, library, settings, history, seed=seed)
            self._stack.callback(self._end_download)
            self._stack = self._stack.pop_all()

    def __enter__(self) -> "Window":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @staticmethod
    def _make_engine(
        options: Options, settings: SettingsFile, library: Library, fake: bool
    ) -> Engine:
        if fake:
            from qwen35_chat.fake import FakeEngine, demonstration

            return FakeEngine(library, script=demonstration)
        return EngineThread(
            settings.settings.model,
            revision=options.revision,
            settings=options.settings,
            library=library,
            **options.load,
        )

    def conversation(self, *, last: bool, name: str | None) -> int | None:
        """The conversation that the command line asks for.

        Raises:
            Qwen35Error: there is none.
        """
        library = self.controller.library
        if name is not None:
            return library.resolve(name)
        if not last:
            return None
        found = library.list(limit=1)
        if not found:
            raise Qwen35Error("there is no conversation to go on with: start without --continue")
        return found[0].id

    def run(self, conversation: int | None) -> int:
        """The screen, until the user quits; the exit code."""
        app = app_class()(
            self.controller,
            demo=self.controller.model == DEMO,
            conversation=conversation,
            # A full collection looks at all that there is: 50 to 100 ms in which nothing is drawn.
            # Modules and the model stay as they are, so it need not look at them.
            ready=gc.freeze,
        )
        try:
            app.run()
        finally:
            app.chat.save_draft()
        code = app.return_code or 0
        if code == EXIT_CLOSED:
            _write_nowhere()
        return code

    def run_plain(self, conversation: int | None) -> int:
        """The linear mode, until the input ends; the exit code."""
        from qwen35_chat.plain_mode import PlainMode

        if sys.stdin is None or sys.stdout is None:
            raise Qwen35Error("--plain needs standard input and output")
        if sys.stdin.isatty():
            self._edit_lines()
        PlainMode(self.controller).run(conversation)
        return 0

    def _edit_lines(self) -> None:
        """Have `input` edit its line, and step back through what was sent before with Up."""
        try:
            import readline
        except ImportError:  # a Python without it reads plain lines
            return
        for text in self.controller.history.texts:
            readline.add_history(" ".join(text.split()))

    def _end_download(self) -> None:
        if self.controller.download is not None:
            self.controller.download.close()


def _write_nowhere() -> None:
    """Give the standard streams another end than a terminal that is gone: at its own end, Python
    writes what is left in them, and an error then would be the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def app_class() -> "type[ChatApp]":
    """The app, imported such that it draws as often as it should."""
    os.environ.setdefault("TEXTUAL_FPS", str(FRAMES_PER_SECOND))  # read once, at the import
    from qwen35_chat.app import ChatApp

    return ChatApp


def _changes(options: Options) -> dict[str, object]:
    """What the command line says, as settings."""
    changes: dict[str, object] = {"model": options.model} if options.named else {}
    chat = dict(options.chat)
    if chat.get("system") is not None:
        changes["system"] = chat["system"]
    if chat.get("thinking") is not None:
        changes["thinking"] = "on" if chat["thinking"] else "off"
    if options.turn.get("max_tokens") is not None:
        changes["max_tokens"] = options.turn["max_tokens"]
    sampling = {
        name: chat[name] for name in ("temperature", "top_p", "top_k") if chat.get(name) is not None
    }
    if sampling:
        changes["sampling"] = sampling
    return changes
