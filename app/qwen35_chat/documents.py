"""The text of PDF and Word files, read by a process of its own."""

import json
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import PurePath

from qwen35_chat.file_refused import FileRefusedError
from qwen35_mlx.child_process import child_environment, python_command

LARGEST_DOCUMENT = 100_000_000  # bytes; pictures and fonts are no text
MOST_CHARACTERS = 2_000_000  # of the text
SECONDS = 60.0
MOST_DOCUMENTS = 50  # of one folder or pattern: each needs a process
# The module that reads each kind of file.
MODULES: Mapping[str, str] = {"pdf": "pypdfium2", "docx": "docx"}
INSTALL = "pip install 'qwen35-mlx[documents]'"


def document_kind(name: str) -> str:
    """ "pdf" or "docx", by the name of a file; "" for any other."""
    suffix = PurePath(name).suffix.lower().removeprefix(".")
    return suffix if suffix in MODULES else ""


def document_text(data: bytes, name: str, kind: str) -> str:
    """The text of a document.

    Args:
        data: the whole file.
        name: for error messages.
        kind: as `document_kind` returns it.

    Raises:
        FileRefusedError: it has no text, is too large, or cannot be read.
    """
    if find_spec(MODULES[kind]) is None:
        line = f"{name} needs what reads PDF and Word files: {INSTALL}"
        raise FileRefusedError(line, "unreadable")
    try:
        run = subprocess.run(
            python_command("qwen35_chat.document_reader", kind),
            input=data,
            capture_output=True,
            env=child_environment(),
            timeout=SECONDS,
        )
        answer = json.loads(run.stdout)
    except subprocess.TimeoutExpired:
        line = f"{name} takes longer than {SECONDS:g} s to read: attach a part of it"
        raise FileRefusedError(line, "unreadable") from None
    except (OSError, ValueError):
        raise FileRefusedError(f"{name} cannot be read: it is damaged", "unreadable") from None
    if "error" in answer:
        raise FileRefusedError(f"{name} {answer['error']}", answer["reason"])
    text: str = answer["text"]
    if len(text) > MOST_CHARACTERS:
        line = f"{name} has {len(text):,} characters of text, more than {MOST_CHARACTERS:,}"
        raise FileRefusedError(f"{line}: attach a part of it", "too large")
    return text
