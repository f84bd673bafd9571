"""What all commands share: how they read options, and how they end."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from qwen35_mlx import exit_codes
from qwen35_mlx.crash import CrashReports
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.terminal import print_error


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are those of the project: one line."""

    @property
    def arguments(self) -> list[argparse.Action]:
        """Of all options, those of groups included."""
        return self._actions

    @property
    def option_groups(self) -> list[tuple[str, list[argparse.Action]]]:
        """Titles and options of the groups. Those that were added to none have the title ""."""
        default = (self._positionals, self._optionals)
        return [
            ("" if group in default else group.title or "", group._group_actions)
            for group in self._action_groups
        ]

    def error(self, message: str) -> NoReturn:
        """Raise an error instead of printing the usage."""
        raise Qwen35Error(f"{message}; see {self.prog} --help")


def run_command(
    program: str, run: Callable[[], int], reports: Callable[[], Path] | None = None
) -> int:
    """Run a command and return its exit code. Errors are one line on standard error.

    Ctrl-C is one line too: "interrupted", with the message of the KeyboardInterrupt if it has one.
    When the reader of standard output has gone, as `head` does, the command ends quietly.

    Args:
        program: its name.
        reports: returns the folder for the report of a fault of the program.
    """
    with CrashReports(program, reports) as crashes:
        try:
            try:
                return run()
            finally:
                _flush_output()
        except Qwen35Error as error:
            print_error(f"error: {error}")
            code = exit_codes.BAD_INPUT
        except KeyboardInterrupt as interrupt:
            print_error(f"interrupted: {interrupt}" if str(interrupt) else "interrupted")
            code = exit_codes.INTERRUPTED
        except BrokenPipeError:
            code = exit_codes.BROKEN_PIPE
        except SystemExit:
            raise
        except BaseException as error:  # a panic of a library in Rust is no Exception
            crashes.print(error)
            code = exit_codes.CRASHED
    _drop_unwritten_output()
    return code


def discard_output() -> None:
    """Redirect the standard streams, which cannot be written any more, to the null device.

    Python flushes them when it exits, and an error at that point would change the exit code.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            os.dup2(null, stream.fileno())
    os.close(null)


def _flush_output() -> None:
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Qwen35Error(f"standard output cannot be written: {error.strerror}") from None


def _drop_unwritten_output() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        discard_output()
