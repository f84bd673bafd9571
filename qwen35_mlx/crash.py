"""What is said of an error of the program itself: where it arose, and never what it was about.

A traceback can show the values of variables, and the message of an error can quote them: both may
be a user's words. A report has the types of the errors, modules, functions and line numbers only.
"""

import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType

from qwen35_mlx.terminal import print_error

FILE = "crash.txt"  # of the last one
MOST_FRAMES = 40
MOST_CAUSES = 5


class CrashReports:
    """Reports errors that are faults of the program. In a `with` block, on all threads.

    Args:
        program: the name of the command.
        folder: where the last report is kept, as `FILE`, readable by its owner only; None to keep
            none. A function is called when it is needed.
    """

    def __init__(self, program: str, folder: Path | Callable[[], Path] | None = None):
        self._program = program
        self._folder = folder

    def __enter__(self) -> "CrashReports":
        self._before = sys.excepthook, threading.excepthook, sys.unraisablehook
        sys.excepthook = self._uncaught
        threading.excepthook = self._uncaught_in_thread
        # Python prints these with the error's message, and goes on.
        sys.unraisablehook = lambda unraisable: self.keep(unraisable.exc_value)
        return self

    def __exit__(self, *_: object) -> None:
        sys.excepthook, threading.excepthook, sys.unraisablehook = self._before

    def line(self, error: BaseException) -> str:
        """One line about an error, for the user. Its report is kept."""
        return self._line(error, self.keep(error))

    def print(self, error: BaseException) -> None:
        """Print the line on standard error, and the report itself if it could not be kept."""
        kept = self.keep(error)
        print_error(self._line(error, kept))
        if kept is None:
            for line in report(error, self._program):
                print_error(line)

    def _line(self, error: BaseException, kept: Path | None) -> str:
        line = f"{self._program} hit an error of its own ({summary(error)})"
        with_it = f"with {kept}, which holds no text of yours" if kept else "with these lines"
        return f"{line}: please report it {with_it}"

    def keep(self, error: BaseException | None) -> Path | None:
        """Write the report of an error. Returns its file; None if there is no place for one."""
        if error is None:
            return None
        try:
            folder = self._folder() if callable(self._folder) else self._folder
            if folder is None:
                return None
            file = folder / FILE
            file.unlink(missing_ok=True)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as out:
                out.writelines(f"{line}\n" for line in report(error, self._program))
            return file
        except Exception:  # a second error would hide the first
            return None

    def _uncaught(
        self, _: type[BaseException], error: BaseException, __: TracebackType | None
    ) -> None:
        self.print(error)

    def _uncaught_in_thread(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            self.print(args.exc_value)


def summary(error: BaseException) -> str:
    """The type of an error and where it arose, such as "KeyError in qwen35_mlx.convert:12"."""
    frames = list(_frames(error))
    own = [frame for frame in frames if frame[0].startswith(("qwen35_mlx", "qwen35_chat"))]
    if not frames:
        return type(error).__name__
    module, line, _ = (own or frames)[-1]
    return f"{type(error).__name__} in {module}:{line}"


def report(error: BaseException, program: str) -> list[str]:
    """The lines of a report: versions, and the frames of the error and of what led to it."""
    version = getattr(sys.modules["qwen35_mlx"], "__version__", "")  # a floor above this one
    system = f"{platform.system()} {platform.machine()}"
    lines = [f"{program} {version}, Python {platform.python_version()}, {system}"]
    one: BaseException | None = error
    for _ in range(MOST_CAUSES):
        if one is None:
            break
        lines.append(type(one).__name__)
        frames = list(_frames(one))
        left_out = len(frames) - MOST_FRAMES
        for n, (module, line, function) in enumerate(frames):
            if left_out > 0 and n == MOST_FRAMES // 2:
                lines.append(f"  … {left_out} more")
            if left_out <= 0 or n < MOST_FRAMES // 2 or n >= len(frames) - MOST_FRAMES // 2:
                lines.append(f"  {module}:{line} {function}")
        one = one.__cause__ or one.__context__
    return lines


def _frames(error: BaseException) -> Iterator[tuple[str, int, str]]:
    """Module, line and function of each frame, the innermost last."""
    trace = error.__traceback__
    while trace is not None:
        frame: FrameType = trace.tb_frame
        yield str(frame.f_globals.get("__name__", "?")), trace.tb_lineno, frame.f_code.co_name
        trace = trace.tb_next
