"""What a running chat consists of, opened and closed together."""

import gc
import os
import sys
from codecs import lookup
from contextlib import ExitStack, suppress
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from qwen35_chat.commands import SCOPE_OF
from qwen35_chat.controller import Controller
from qwen35_chat.history import History
from qwen35_chat.options import CommandOptions, Start
from qwen35_chat.settings import settings_file
from qwen35_chat.settings_file import SettingsFile
from qwen35_chat.terminal_guard import FILE_NAME, guarded_terminal
from qwen35_chat.tools.toolbox import open_toolbox
from qwen35_mlx import demo, exit_codes
from qwen35_mlx.command_line import discard_output
from qwen35_mlx.distributed.place import Place
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import history
from qwen35_mlx.library.library import Library
from qwen35_mlx.load_options import drafting
from qwen35_mlx.session.engine import EngineThread
from qwen35_mlx.session.engine_protocol import Engine
from qwen35_mlx.terminal import print_error, print_line

if TYPE_CHECKING:
    from qwen35_chat.app import ChatApp

# Textual waits for one or two frames after each that it draws. At its default of 60 a second, that
# delays the echo of typed text by up to 33 ms while a reply streams in. Drawing itself does not get
# more frequent.
FRAMES_PER_SECOND = 120
# At the end: how long saving may take without a word, and how long it may take then.
QUIET_SECONDS = 1.0
CLOSE_SECONDS = 10.0


class ChatRuntime:
    """Engine, library and settings of one chat, behind a controller.

    Args:
        fake: use a scripted engine, default settings and a temporary library.
        place: of this process, the first of several that run the model; None for one.

    Raises:
        Qwen35Error: the settings are invalid, or the library cannot be opened.
    """

    def __init__(self, options: CommandOptions, *, fake: bool = False, place: Place | None = None):
        self._stack = ExitStack()
        self._finished = True  # no call uses the library any more
        self._kept = not fake
        with self._stack:
            file = None if fake else settings_file()
            settings = SettingsFile(file, options.setting_overrides, SCOPE_OF)
            settings.load()
            folder: Path | None = None
            if fake:
                import tempfile

                folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            self._library = Library(folder)
            library = self._library
            self._stack.callback(self._close_library)
            self._engine = self._make_engine(options, settings, library, fake, place)
            self._stack.callback(self._engine.close)
            typed = History(library.folder / history.FILE)
            seed = options.turn.get("seed")
            toolbox, notices = open_toolbox(
                file.parent if file is not None else None,
                options.mcp_config,
                settings.settings.tools_folder,
            )
            if toolbox is not None:
                self._stack.callback(toolbox.close)
            self.controller = Controller(
                self._engine, library, settings, typed, seed=seed, toolbox=toolbox, notices=notices
            )
            self._stack.callback(self._close_download)
            self._stack.callback(self._finish_calls)
            self._stack = self._stack.pop_all()

    def __enter__(self) -> "ChatRuntime":
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
        options: CommandOptions,
        settings: SettingsFile,
        library: Library,
        fake: bool,
        place: Place | None,
    ) -> Engine:
        if fake:
            from qwen35_chat.fake import FakeEngine, demonstration

            return FakeEngine(library, script=demonstration)
        return EngineThread(
            settings.settings.model,
            revision=options.revision,
            settings=options.chat_settings,
            library=library,
            mtp=drafting(settings.settings.mtp),
            place=place,
            **options.load,
        )

    def conversation(self, *, last: bool, name: str | None) -> int | None:
        """The stored conversation to continue; None for a new one.

        Args:
            last: the one that was changed last.
            name: an id, a title or a part of one.

        Raises:
            Qwen35Error: there is none.
        """
        library = self.controller.library
        if name is not None:
            return library.resolve(name)
        if not last:
            return None
        newest = library.newest()
        if newest is None:
            raise Qwen35Error("there is no conversation to go on with: start without --continue")
        return newest.id

    def run_screen(self, start: Start) -> int:
        """Run the chat on the whole terminal until the user quits. Returns the exit code."""
        with guarded_terminal(self.controller.library.folder / FILE_NAME):
            app = app_class()(
                self.controller,
                demo=self.controller.model == demo.NAME,
                start=start,
                ready=collect_garbage,
            )
            try:
                app.run()
            finally:
                app.chat.save_draft()
        code = app.return_code or 0
        if self.controller.alone:
            return code
        if code == exit_codes.CLOSED:
            discard_output()
        elif self._kept and self.controller.conversation is not None:
            with suppress(OSError, Qwen35Error):
                number = self.controller.conversation
                print_line(f"To go on with this conversation: qwen35-chat --resume {number}")
        return code

    def run_plain(self, start: Start) -> int:
        """Run the chat in plain mode until the input ends. Returns the exit code."""
        from qwen35_chat.plain_input import read_block
        from qwen35_chat.plain_mode import PlainMode

        if sys.stdin is None or sys.stdout is None:
            raise Qwen35Error("--plain needs standard input and output")
        if isinstance(sys.stdin, TextIOWrapper):
            # Without a byte order mark. What is no text must not end the chat.
            utf8 = lookup(sys.stdin.encoding).name == "utf-8"
            sys.stdin.reconfigure(encoding="utf-8-sig" if utf8 else None, errors="replace")
        collect_garbage()
        attended = sys.stdin.isatty()
        if attended:
            self._enable_readline()
        read = read_block if attended else input
        PlainMode(self.controller, attended=attended, read=read).run(start)
        return 0

    def _enable_readline(self) -> None:
        """Line editing for `input`, with earlier messages as its history."""
        try:
            import readline
        except ImportError:  # not in every build of Python; `input` works without
            return
        readline.parse_and_bind("set enable-bracketed-paste on")
        for text in self.controller.history.texts:
            readline.add_history(" ".join(text.split()))

    def _finish_calls(self) -> None:
        """Wait for what is being saved, with a line if that takes long, but not for ever."""
        calls = self.controller.calls
        self.controller.end_calls()
        self._engine.cancel()  # its reply is saved meanwhile
        if not calls.close(QUIET_SECONDS):
            _say("waiting for another window or the disk to save what was typed last ...")
            self._finished = calls.close(CLOSE_SECONDS)
        if not self._finished or self.controller.drafts.waiting:
            _say("error: what was typed last is not saved: the library is busy or full")

    def _close_library(self) -> None:
        # A call that never returned still uses it: it ends with the process, as after a kill.
        if self._finished:
            self._library.close()

    def _close_download(self) -> None:
        if self.controller.download is not None:
            self.controller.download.close()


def collect_garbage() -> None:
    """Collect garbage from now on, without the objects there are.

    A full collection visits every other object and stops drawing for 50 to 100 ms. Modules and the
    model are permanent.
    """
    gc.freeze()
    gc.enable()


def _say(line: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        print_error(line)


def app_class() -> "type[ChatApp]":
    """The app's class, imported with `FRAMES_PER_SECOND` in effect."""
    os.environ.setdefault("TEXTUAL_FPS", str(FRAMES_PER_SECOND))  # Textual reads it when imported
    from qwen35_chat.app import ChatApp

    return ChatApp
