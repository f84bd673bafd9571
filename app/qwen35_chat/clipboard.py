"""Copying to the clipboard of the machine that the user sits at."""

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping

SECONDS = 3.0
# A terminal may drop a longer sequence, and some drop all of it.
LONGEST_OSC52 = 100_000


def programs(environment: Mapping[str, str], platform: str = sys.platform) -> list[list[str]]:
    """Commands that take text for the clipboard, the best first; none over SSH.

    Over SSH they would fill the clipboard of the wrong machine.
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
    """The sequence that asks the terminal to do it."""
    return f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\a"


def copy(
    text: str, write: Callable[[str], object], environment: Mapping[str, str] = os.environ
) -> str:
    """Copy `text` by a program, or else by the terminal, to which `write` writes.

    Returns:
        What to tell the user.
    """
    wanted = programs(environment)
    for command in wanted:
        if shutil.which(command[0]) is None:
            continue
        try:
            # Output is not read: xclip stays alive, and would keep a pipe open.
            subprocess.run(
                command,
                input=text.encode(errors="replace"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return "Copied"
    text = text.encode(errors="replace").decode()
    if len(text) > LONGEST_OSC52:
        return "Not copied: it is too long for the terminal; export the conversation instead"
    write(osc52(text))
    surer = f"; install {wanted[0][0]} to be sure" if wanted else ""
    return f"Copied, if this terminal allows it{surer}"
