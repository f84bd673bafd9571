"""Reading and writing files: one-line errors for small ones, large ones in limited pieces."""

import errno
import os
import shutil
import stat
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.untrusted_json import parse_json

# Of a file that is read whole; tokenizer.json is the longest of a checkpoint.
MAX_FILE_BYTES = 128 << 20
MAX_JSON_BYTES = 32 << 20
# macOS refuses a single read or write of 2 GiB or more.
MAX_IO_BYTES = 1 << 30
# Characters of an error of foreign code, in a line for the user.
LONGEST_MESSAGE = 500
# What to do with a damaged file of a checkpoint.
_FETCH = "download it again"


def open_regular(path: Path) -> FileIO:
    """Open a file for reading; never waits for another process.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe, a socket or a device.
    """
    return FileIO(path, opener=regular_descriptor)


def regular_descriptor(path: str | Path, flags: int) -> int:
    """As `os.open`, for a regular file only; one that is made is private.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe, a socket or a device.
    """
    # Without O_NONBLOCK, opening a pipe waits for its writer.
    extra = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags | extra, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_bytes(file: Path) -> bytes:
    """The content of a file of a checkpoint.

    Raises:
        Qwen35Error: it is missing, unreadable, not a regular file, or longer than
            `MAX_FILE_BYTES`.
    """
    try:
        return _read_bytes(file, MAX_FILE_BYTES)
    except (OSError, EOFError) as error:
        raise _unreadable(file, error) from error


def read_text(file: Path, advice: str = _FETCH) -> str:
    """The text of a file; every kind of line break becomes a line feed.

    Args:
        advice: what to do with one that is damaged.

    Raises:
        Qwen35Error: as `read_bytes`, or it is not UTF-8.
    """
    try:
        return _text(_read_bytes(file, MAX_FILE_BYTES))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise _unreadable(file, error, advice) from error


def read_json_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint; {} if there is no such file.

    Raises:
        Qwen35Error: as `read_text`, or it is not JSON within the bounds of `parse_json`, or JSON
            of another type.
    """
    try:
        text = _text(_read_bytes(file, MAX_JSON_BYTES))
    except FileNotFoundError as error:
        if file.is_symlink():
            raise _unreadable(file, "it is a link to nothing") from error
        return {}
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from error
    try:
        value = parse_json(text)
    except ValueError as error:
        raise Qwen35Error(f"{file} is not JSON ({one_line(error)}): download it again") from error
    if not isinstance(value, dict):
        raise Qwen35Error(f"{file} does not hold a JSON object: download it again")
    return value


def _read_bytes(file: Path, limit: int) -> bytes:
    with open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, the limit is {limit:,}")
        content = bytearray(size)
        read_exactly(opened, memoryview(content), 0)
        return bytes(content)


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def _unreadable(file: Path, reason: Exception | str, advice: str = _FETCH) -> Qwen35Error:
    if isinstance(reason, FileNotFoundError):
        return Qwen35Error(f"{file} does not exist: check the path")
    if isinstance(reason, PermissionError):
        return Qwen35Error(f"{file} may not be read: change its permissions")
    words = (reason.strerror if isinstance(reason, OSError) else None) or one_line(reason)
    return Qwen35Error(f"{file} cannot be read ({words}): {advice}")


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


def replace_file(path: Path, text: str, *, private: bool = False) -> None:
    """Write a file, as UTF-8, so that readers always find either the old or the new text.

    Creates missing parent folders. A symbolic link is followed, and the permissions of an
    existing file are kept.

    Args:
        private: only the owner may read the file and the folders that are created. What is behind
            a symbolic link keeps its permissions.

    Raises:
        OSError: the file cannot be written; it is unchanged, and nothing else is left behind.
    """
    keep_mode = not private or path.is_symlink()
    path = path.resolve()
    if private:
        make_private_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)  # of a killed process that had this number
        mode = 0o600 if private else 0o666
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if keep_mode and path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, and its parents likewise; one that is there
    stays as it is.

    Raises:
        OSError: it cannot be made.
    """
    for missing in [*reversed(folder.parents), folder]:
        if not missing.exists():
            missing.mkdir(mode=0o700, exist_ok=True)


def make_private(path: Path) -> None:
    """Take a file or folder of this user from all others. A symbolic link is left alone."""
    with suppress(OSError):
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        regular = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
        if regular and mode & 0o077 and status.st_uid == os.geteuid():
            path.chmod(mode & 0o700)


def write_new(file: Path, text: str, otherwise: str, *, make_folder: bool = False) -> None:
    """Write a text to a file that is not there yet.

    Args:
        otherwise: what the user may do if there is such a file.
        make_folder: whether its folder is made if there is none.

    Raises:
        Qwen35Error: there is, or it cannot be written.
    """
    try:
        if make_folder:
            file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise Qwen35Error(f"{file} exists: {otherwise}") from None
    except OSError as error:
        raise Qwen35Error(f"{file} cannot be written: {error.strerror}") from None
