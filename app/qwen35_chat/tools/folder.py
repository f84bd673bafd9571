"""The built-in tools: list and read the files below one folder that the user has named.

A file is read as one that is sent with a message: in any of its encodings, or as a document.

Nothing outside the folder can be reached. A path is opened name by name from the folder, and a
symbolic link on the way is refused; so a link that is put there meanwhile is refused as well.
"""

import errno
import os
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from qwen35_chat.documents import LARGEST_DOCUMENT, document_kind
from qwen35_chat.file_refused import FileRefusedError
from qwen35_chat.readable_files import text_in
from qwen35_chat.tools.calls import MAX_RESULT_BYTES, ServerState, Tool, ToolResult
from qwen35_chat.tools.config import RESERVED
from qwen35_mlx.terminal import visible_line

MAX_FILE_BYTES = 16 << 20  # of a text file
MAX_ENTRIES = 1_000
MAX_DEPTH = 64

_PATH = {
    "type": "string",
    "description": 'below the folder, with "/" between names, such as "notes/today.md"',
}
_LIST = "List the files and folders in a folder, with the sizes of files in bytes."
_READ = (
    "Read a text file, or the text of a PDF or Word file. A long one is cut; call again with a"
    " later first line to go on."
)


_Read = TypeVar("_Read")


class _RefusedError(Exception):
    """A call cannot be done; the message is one line for the model."""


class FolderServer:
    """Tools that read one folder.

    Args:
        folder: exists, and is absolute.
    """

    def __init__(self, folder: Path):
        self._folder = folder.resolve()
        self.state = ServerState(RESERVED, "off")

    def start(self) -> None:
        self.state = ServerState(RESERVED, "ready", self._tools())

    def stop(self) -> None:
        self.state = ServerState(RESERVED, "off")

    def close(self, seconds: float) -> None:
        self.stop()

    def call(self, name: str, arguments: Mapping[str, Any]) -> Future[ToolResult]:
        future: Future[ToolResult] = Future()
        # A thread of its own: a folder on a network may be slow, and a call can be given up.
        Thread(target=self._answer, args=(future, name, arguments), daemon=True).start()
        return future

    def _tools(self) -> tuple[Tool, ...]:
        origin = str(self._folder)
        first = {"type": "integer", "description": "counted from 1; default: 1"}
        listing = {"type": "object", "properties": {"path": _PATH}}
        reading = {
            "type": "object",
            "properties": {"path": _PATH, "first_line": first},
            "required": ["path"],
        }
        return (
            Tool(RESERVED, "list_files", _LIST, listing, origin),
            Tool(RESERVED, "read_file", _READ, reading, origin),
        )

    def _answer(self, future: Future[ToolResult], name: str, arguments: Mapping[str, Any]) -> None:
        try:
            result = ToolResult(self._run(name, arguments))
        except _RefusedError as error:
            result = ToolResult(str(error), error=True)
        except OSError as error:
            result = ToolResult(f"it cannot be read ({error.strerror})", error=True)
        except Exception as error:  # a future that is never done would be waited for
            result = ToolResult(f"{type(error).__name__}: {error}", error=True)
        with suppress(Exception):  # it was given up
            future.set_result(result)

    def _run(self, name: str, arguments: Mapping[str, Any]) -> str:
        if unknown := arguments.keys() - {"path", "first_line"}:
            raise _RefusedError(f"there is no argument {sorted(unknown)[0]!r}")
        path = arguments.get("path", "." if name == "list_files" else None)
        if not isinstance(path, str):
            raise _RefusedError("path must be a string")
        if name == "list_files":
            return _at(self._folder, path, os.O_DIRECTORY, _listed)
        first = arguments.get("first_line", 1)
        if not isinstance(first, int) or isinstance(first, bool) or first < 1:
            raise _RefusedError("first_line must be a whole number from 1")
        file_name = path.rpartition("/")[2]
        limit = LARGEST_DOCUMENT if document_kind(file_name) else MAX_FILE_BYTES
        flags = os.O_NONBLOCK | os.O_NOCTTY
        data = _at(self._folder, path, flags, lambda at: _content_of(at, limit))
        try:
            found = text_in(data, file_name, "it")
        except FileRefusedError as error:
            raise _RefusedError(str(error)) from None
        note = f"[read as {found.encoding}]\n" if found.encoding else ""
        return note + _from_line(found.text, first)


def _names(path: str) -> list[str]:
    """The names of a path below the folder."""
    if path.startswith(("/", "~")):
        raise _RefusedError("the path is absolute: give one below the folder")
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        raise _RefusedError("the path leaves the folder: give one below it, without ..")
    if "\0" in path or len(names) > MAX_DEPTH:
        raise _RefusedError("there is no such path")
    return names


def _at(folder: Path, path: str, flags: int, read: Callable[[int], _Read]) -> _Read:
    """What `read` makes of the descriptor of a file or folder.

    Args:
        flags: to open it with.
    """
    names = _names(path)
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number, name in enumerate(names, 1):
            wanted = flags if number == len(names) else os.O_DIRECTORY
            inner = _open(name, wanted, at)
            os.close(at)
            at = inner
        return read(at)
    finally:
        os.close(at)


def _open(name: str, flags: int, folder: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    except UnicodeEncodeError:
        raise _RefusedError("there is no such path") from None
    except OSError as error:
        if _is_link(name, folder):
            raise _RefusedError("a symbolic link is not followed") from None
        if error.errno == errno.ENOENT:
            raise _RefusedError("there is no such file or folder") from None
        if error.errno == errno.ENOTDIR:
            raise _RefusedError("it is a file, no folder") from None
        raise


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _listed(at: int) -> str:
    """One line for each entry of an open folder."""
    with os.scandir(at) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    lines = [_line(entry) for entry in entries[:MAX_ENTRIES]]
    if len(entries) > MAX_ENTRIES:
        lines.append(f"[{len(entries) - MAX_ENTRIES:,} more]")
    return "\n".join(lines) or "[the folder is empty]"


def _line(entry: "os.DirEntry[str]") -> str:
    name = visible_line(entry.name)
    if entry.is_symlink():
        return f"{name} (a link, not followed)"
    if entry.is_dir(follow_symlinks=False):
        return f"{name}/"
    try:
        return f"{name} {entry.stat(follow_symlinks=False).st_size}"
    except OSError:  # gone meanwhile
        return name


def _content_of(at: int, limit: int) -> bytes:
    """The content of an open file of at most `limit` bytes."""
    status = os.fstat(at)
    if stat.S_ISDIR(status.st_mode):
        raise _RefusedError("it is a folder: list it")
    if not stat.S_ISREG(status.st_mode):
        raise _RefusedError("it is no regular file")
    if status.st_size > limit:
        raise _RefusedError(f"it has {status.st_size:,} bytes, the limit is {limit:,}")
    data = bytearray()
    while len(data) <= limit and (piece := os.read(at, 1 << 20)):
        data += piece
    return bytes(data)


def _from_line(text: str, first: int) -> str:
    """The text from a line on, as much as a result holds; a last line says what is left."""
    lines = text.splitlines(keepends=True)
    if first > max(len(lines), 1):
        raise _RefusedError(f"the file has only {len(lines):,} lines")
    room, last = MAX_RESULT_BYTES - 200, first - 1
    while last < len(lines) and (room := room - len(lines[last].encode())) >= 0:
        last += 1
    if last == len(lines):
        return "".join(lines[first - 1 :]) or "[the file is empty]"
    if last < first:  # a line that is longer than a result: its start
        start = lines[last].encode()[: MAX_RESULT_BYTES - 200].decode("utf-8", "ignore")
        return f"{start}\n[Cut: line {first:,} is too long. first_line={first + 1} goes on]"
    kept = "".join(lines[first - 1 : last])
    return f"{kept}[Cut: the file has {len(lines):,} lines. first_line={last + 1} goes on]"
