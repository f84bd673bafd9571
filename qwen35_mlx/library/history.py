"""The file of what was typed, for the composer: one JSON string a line, the oldest first."""

import json
import os
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path

from qwen35_mlx.files import open_regular, regular_descriptor, replace_file
from qwen35_mlx.library.locks import locked
from qwen35_mlx.library.rows import replace_surrogates

FILE = "history.jsonl"
# The newest messages, and the bytes of their lines, that are kept. The file may grow to twice that
# before it is cut.
LIMIT = 1_000
LIMIT_BYTES = 4_000_000
LOCK_SECONDS = 5.0


def read(file: Path) -> list[str]:
    """The newest messages of the file; none if it is missing or unreadable."""
    try:
        return _kept(_texts(_bytes(file)))
    except OSError:
        return []


def append(file: Path, text: str) -> None:
    """Add a message, and cut the file if it has grown too long.

    Raises:
        OSError: the file cannot be written.
        Qwen35Error: another window has locked it for too long.
    """
    with _locked(file):
        descriptor = regular_descriptor(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(_line(text).encode())
        data = _bytes(file)
        if len(data) > 2 * LIMIT_BYTES or data.count(b"\n") > 2 * LIMIT:
            _replace(file, _kept(_texts(data)))


def forget(file: Path, contents: Collection[str]) -> None:
    """Remove what was typed for messages with these contents.

    A content is what was typed, with attached files behind it.
    """
    if not contents or not file.is_file():
        return
    with _locked(file):
        texts = _texts(_bytes(file))
        kept = [text for text in texts if not _is_part(text, contents)]
        if len(kept) < len(texts):
            _replace(file, kept)


def _is_part(text: str, contents: Collection[str]) -> bool:
    typed = replace_surrogates(text).strip()
    return any(typed in content for content in contents)


def _locked(file: Path) -> AbstractContextManager[None]:
    return locked(file.with_suffix(".lock"), LOCK_SECONDS)


def _bytes(file: Path) -> bytes:
    with open_regular(file) as stream:
        return stream.readall()


def _texts(data: bytes) -> list[str]:
    """The messages in the lines of the file. A line that is cut off or damaged is left out."""
    texts: list[str] = []
    for line in data.decode("utf-8", "replace").splitlines():
        try:
            text = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(text, str):
            texts.append(text)
    return texts


def _kept(texts: list[str]) -> list[str]:
    """The newest messages within the limits."""
    kept, size = list[str](), 0
    for text in reversed(texts[-LIMIT:]):
        size += len(_line(text))
        if size > LIMIT_BYTES:
            break
        kept.append(text)
    return kept[::-1]


def _line(text: str) -> str:
    return json.dumps(text) + "\n"


def _replace(file: Path, texts: list[str]) -> None:
    replace_file(file, "".join(map(_line, texts)), private=True)
