"""Editing text in the user's own editor."""

import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error


def editor_command(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The user's editor: $VISUAL, $EDITOR, or vi."""
    named = environment.get("VISUAL") or environment.get("EDITOR") or "vi"
    try:
        return shlex.split(named)
    except ValueError:
        raise Qwen35Error(f"the editor {named!r} cannot be understood: correct $EDITOR") from None


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
            code = subprocess.run([*command, str(file)], check=False).returncode
            result = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise Qwen35Error(
                f"the editor {command[0]} does not start ({error}): set $EDITOR"
            ) from None
        if code:
            raise Qwen35Error(f"the editor {command[0]} ended with code {code}: nothing is changed")
    return result.removesuffix("\n")
