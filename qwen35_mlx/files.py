"""Reading and writing files: one-line errors for small ones, large ones in limited pieces."""

import json
import os
import shutil
from io import FileIO
from pathlib import Path
from typing import Any

from qwen35_mlx.errors import Qwen35Error

# macOS refuses a single read or write of 2 GiB or more.
MAX_IO_BYTES = 1 << 30
# Characters of an error of foreign code, in a line for the user.
LONGEST_MESSAGE = 500


def read_text(file: Path) -> str:
    """The text of a file that a download may have damaged.

    Raises:
        Qwen35Error: it is unreadable or not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Qwen35Error(
            f"{file} cannot be read ({one_line(error)}): download it again"
        ) from error


def read_json_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint; {} if there is no such file.

    Raises:
        Qwen35Error: it is unreadable, not JSON, or JSON of another type.
    """
    if not file.is_file():
        return {}
    try:
        value = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise Qwen35Error(f"{file} is not JSON ({one_line(error)}): download it again") from error
    if not isinstance(value, dict):
        raise Qwen35Error(f"{file} does not hold a JSON object: download it again")
    return value


def one_line(error: object) -> str:
    """An error's message without line breaks, cut where it gets long; its type if it has none."""
    try:
        words = " ".join(str(error).split())
    except BaseException:  # of a foreign __str__
        words = ""
    return words[:LONGEST_MESSAGE] or type(error).__name__


def read_exactly(file: FileIO, out: memoryview, offset: int) -> None:
    """Fill `out` with the bytes of a file from `offset` on. Several threads may share the file.

    Raises:
        EOFError: the file ends before `out` is full.
    """
    while out:
        count = os.preadv(file.fileno(), [out[:MAX_IO_BYTES]], offset)
        if not count:
            raise EOFError(f"{file.name} ends at byte {offset}")
        out = out[count:]
        offset += count


def write_all(file: FileIO, data: memoryview) -> None:
    """Write every byte of `data` at the file's position."""
    while data:
        count = file.write(data[:MAX_IO_BYTES])
        data = data[count or 0 :]


def write_durably(path: Path, content: str | bytes) -> None:
    """Write a new file, text as UTF-8, and wait until it is on disk.

    Raises:
        FileExistsError: there is a file of that name.
    """
    with path.open("xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on disk: a rename in it then survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, text: str) -> None:
    """Write a file, as UTF-8, so that readers always find either the old or the new text.

    Creates missing parent folders. A symbolic link is followed, and the permissions of an
    existing file are kept.

    Raises:
        OSError: the file cannot be written; it is unchanged, and nothing else is left behind.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
