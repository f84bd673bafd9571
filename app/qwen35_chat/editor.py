"""Editing text in the user's own editor."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from qwen35_mlx.child_process import find_program
from qwen35_mlx.errors import Qwen35Error


def editor_command(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The user's editor, $VISUAL, $EDITOR or vi, and its options.

    Raises:
        Qwen35Error: there is no such program.
    """
    named = environment.get("VISUAL") or environment.get("EDITOR") or "vi"
    try:
        program, *options = shlex.split(named)
    except ValueError:  # an open quotation mark, or nothing but blanks
        raise Qwen35Error(f"the editor {named!r} cannot be understood: correct $EDITOR") from None
    found = program if os.sep in program else find_program(program)
    if found is None:
        raise Qwen35Error(f"the editor {program} is not on this machine: set $EDITOR to another")
    return [found, *options]


def edited(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Let the user edit `text` in their editor, which uses the terminal meanwhile.

    Raises:
        Qwen35Error: the editor does not start, or fails.
    """
    command = editor_command(environment)
    with tempfile.TemporaryDirectory(prefix="qwen35-") as folder:  # which other users cannot read
        file = Path(folder) / "message.md"
        file.write_text(text, encoding="utf-8", errors="replace")
        try:
            # Not this process's own streams, which the screen redirects.
            code = subprocess.run(
                [*command, str(file)], stdout=sys.__stderr__, stderr=sys.__stderr__, check=False
            ).returncode
            result = file.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise Qwen35Error(
                f"the editor {command[0]} does not start ({error}): set $EDITOR"
            ) from None
        if code:
            raise Qwen35Error(f"the editor {command[0]} ended with code {code}: nothing is changed")
    return result.removesuffix("\n")
