"""Files and long pastes that travel with a message."""

import re
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error

LARGEST_FILE = 2_000_000  # bytes; beyond this a file is hardly meant
LONG_PASTE = 12  # lines: longer ones become a chip
LONG_PASTE_CHARACTERS = 2_000
MOST_FILES = 20_000  # looked at for completion
# What a folder holds that nobody wants to attach.
SKIPPED = {"node_modules", "__pycache__", "target", "build", "dist", "venv"}
_ATTACHED = re.compile(r"\n*<file name=\"([^\"\n]*)\">\n(.*?)\n</file>(?=\n|\Z)", re.DOTALL)
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
    """What a file says; `name` is what errors call it.

    Raises:
        Qwen35Error: it is no text, too large, or cannot be read.
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
    """`message` with the files that it names as `@path` at its end.

    A name that is no file stays what it is: a handle, say, or a decorator.

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
    """A message as it was written, and the files that were attached to it."""
    files = [Attached(match.group(1), match.group(2)) for match in _ATTACHED.finditer(message)]
    return _ATTACHED.sub("", message) if files else message, files


def mention(path: str) -> str:
    """How a message names a file."""
    return f'@"{path}"' if re.search(r"\s", path) else f"@{path}"


def files_below(folder: Path) -> list[str]:
    """Paths of files below `folder`, the near ones first; hidden ones are left out."""
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
    """Long pastes, each shown as a short name in the composer."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def chip(self, text: str) -> str | None:
        """A name for `text`, or None if it is short enough to be shown."""
        lines = text.count("\n") + 1
        if lines <= LONG_PASTE and len(text) <= LONG_PASTE_CHARACTERS:
            return None
        size = f"{lines} lines" if lines > LONG_PASTE else f"{len(text):,} characters"
        name = f"[paste {len(self._texts) + 1}: {size}]"
        self._texts[name] = text
        return name

    def expanded(self, text: str) -> str:
        """`text` with what its chips stand for."""
        if not self._texts:
            return text
        names = "|".join(map(re.escape, self._texts))
        return re.sub(names, lambda match: self._texts[match.group()], text)
