"""The clipboard of the machine that the user sits at."""

import base64
import os
import subprocess
import sys
from collections.abc import Callable, Mapping

from qwen35_mlx.child_process import find_program

TIMEOUT = 3.0  # seconds
# characters; terminals drop a longer sequence, and some drop any.
LONGEST_OSC52 = 100_000


def programs(environment: Mapping[str, str], platform: str = sys.platform) -> list[list[str]]:
    """Commands that read text for the clipboard, the best first.

    Over SSH there are none, since they would fill the clipboard of the remote machine.
    """
    if environment.get("SSH_CONNECTION") or environment.get("SSH_TTY"):
        return []
    if platform == "darwin":
        return [["pbcopy"]]
    found: list[list[str]] = []
    if environment.get("WAYLAND_DISPLAY"):
        found.append(["wl-copy"])
    if environment.get("DISPLAY"):
        found += [["xclip", "-selection", "clipboard"], ["xsel", "--clipboard", "--input"]]
    return found


def osc52(text: str) -> str:
    """The escape sequence that makes a terminal copy `text`."""
    return f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\a"


def copy(
    text: str, write: Callable[[str], object], environment: Mapping[str, str] = os.environ
) -> str:
    """Copy `text` by a program, or else by the terminal.

    Args:
        write: writes an escape sequence to the terminal.

    Returns:
        A line for the user.
    """
    commands = programs(environment)
    for command in commands:
        program = find_program(command[0])
        if program is None:
            continue
        try:
            # No pipe for the output: xclip stays alive and would keep it open.
            subprocess.run(
                [program, *command[1:]],
                input=text.encode(errors="replace"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=TIMEOUT,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return "Copied"
    text = text.encode(errors="replace").decode()
    if len(text) > LONGEST_OSC52:
        return "Not copied: it is too long for the terminal; export the conversation instead"
    write(osc52(text))
    surer = f"; install {commands[0][0]} to be sure" if commands else ""
    return f"Copied, if this terminal allows it{surer}"
