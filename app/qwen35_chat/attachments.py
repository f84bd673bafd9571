"""Files and long pastes that are sent with a message."""

import re
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error

LARGEST_FILE = 2_000_000  # bytes; a larger one was hardly meant
LONG_PASTE = 12  # lines; a longer paste becomes a chip
LONG_PASTE_CHARACTERS = 2_000
MOST_FILES = 20_000  # looked at for completion
# Folders without files that anyone attaches.
SKIPPED = {"node_modules", "__pycache__", "target", "build", "dist", "venv"}
_FILE_OPEN = re.compile(r"<file name=\"([^\"\n]*)\">\n")
_FILE_CLOSE = re.compile(r"\n</file>(?=\n|\Z)")
_MENTION = re.compile(r"(?:(?<=\s)|^)@(?:\"([^\"\n]+)\"|([^\s\"]+))")


@dataclass(frozen=True, slots=True)
class Attached:
    """A file in a message."""

    name: str
    text: str

    @property
    def lines(self) -> int:
        return self.text.count("\n") + 1


def read_text_file(path: Path, name: str = "") -> str:
    """The text of a file.

    Args:
        name: for error messages; "" for the path.

    Raises:
        Qwen35Error: the file is not text, too large, or cannot be read.
    """
    name = name or str(path)
    try:
        if path.is_dir():
            raise Qwen35Error(f"{name} is a folder: attach its files one by one")
        if not path.is_file():
            raise Qwen35Error(f"{name} is not a file that can be attached")
        if path.stat().st_size > LARGEST_FILE:
            raise Qwen35Error(f"{name} has more than {LARGEST_FILE:,} bytes: attach a part of it")
        data = path.read_bytes()
    except OSError as error:
        raise Qwen35Error(f"{name} cannot be read: {error.strerror}") from None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise Qwen35Error(f"{name} is not text, and the model reads text only: convert it first")
    return text


def with_files(message: str, folder: Path) -> str:
    """`message`, followed by the files that it names as `@path`.

    A name without a file stays text: it may be a handle or a decorator.

    Raises:
        Qwen35Error: a named file cannot be attached.
    """
    parts = [message]
    seen: set[str] = set()
    for match in _MENTION.finditer(message):
        name = match.group(1) or match.group(2)
        path = folder / Path(name).expanduser()
        if not path.exists() and match.group(2):
            name = name.rstrip(".,;:!?)")
            path = folder / Path(name).expanduser()
        if name in seen or not name or not path.exists():
            continue
        seen.add(name)
        text = read_text_file(path, name).rstrip("\n")
        parts.append(f'<file name="{name}">\n{text}\n</file>')
    return "\n\n".join(parts)


def taken_apart(message: str) -> tuple[str, list[Attached]]:
    """The inverse of `with_files`: a message as it was written, and its files."""
    files: list[Attached] = []
    written: list[str] = []
    at = 0
    while opened := _FILE_OPEN.search(message, at):
        closed = _FILE_CLOSE.search(message, opened.end())
        if closed is None:
            break
        files.append(Attached(opened.group(1), message[opened.end() : closed.start()]))
        written.append(message[at : opened.start()].rstrip("\n"))
        at = closed.end()
    return "".join(written) + message[at:], files


def mention(path: str) -> str:
    """A file's name, as a message mentions it."""
    return f'@"{path}"' if re.search(r"\s", path) else f"@{path}"


def files_below(folder: Path) -> list[str]:
    """Files below `folder`, as relative paths, level by level, without hidden ones."""
    found: list[str] = []
    level = [folder]
    while level and len(found) < MOST_FILES:
        below: list[Path] = []
        for parent in level:
            try:
                children = sorted(parent.iterdir())
            except OSError:
                continue
            for child in children:
                if child.name.startswith(".") or child.name in SKIPPED:
                    continue
                if child.is_symlink() and child.is_dir():
                    continue
                if child.is_dir():
                    below.append(child)
                else:
                    found.append(child.relative_to(folder).as_posix())
        level = below
    return found[:MOST_FILES]


class Chips:
    """Long pastes, each of which the composer shows as a short name."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def chip(self, text: str) -> str | None:
        """A name for `text`; None if it is short enough to be shown itself."""
        lines = text.count("\n") + 1
        if lines <= LONG_PASTE and len(text) <= LONG_PASTE_CHARACTERS:
            return None
        size = f"{lines} lines" if lines > LONG_PASTE else f"{len(text):,} characters"
        name = f"[paste {len(self._texts) + 1}: {size}]"
        self._texts[name] = text
        return name

    def expanded(self, text: str) -> str:
        """`text` with the paste in place of each chip."""
        if not self._texts:
            return text
        names = "|".join(map(re.escape, self._texts))
        return re.sub(names, lambda match: self._texts[match.group()], text)
