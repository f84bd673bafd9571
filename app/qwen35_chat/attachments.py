"""Files and long pastes that are sent with a message."""

import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from qwen35_chat.mentions import CLOSING, mentions, refuse_missing
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import open_regular
from qwen35_mlx.user_paths import is_dir, shown

LARGEST_FILE = 2_000_000  # bytes; a larger one was hardly meant
LONG_PASTE = 12  # lines; a longer paste becomes a chip
LONG_PASTE_CHARACTERS = 2_000
LONG_TEXT, LONG_TEXT_CHARACTERS = 1_000, 20_000  # more takes too long to be edited on the screen
MOST_FILES = 20_000  # looked at for completion
# Folders without files that anyone attaches.
SKIPPED = {"node_modules", "__pycache__", "target", "build", "dist", "venv"}
# A file between <file name="..."> and </file>. Where its text has such an end itself, both tags get
# a number that the text does not have, as in <file-2 name="..."> and </file-2>.
_BEGIN = re.compile(r"<file(|-\d+) name=\"([^\"\n]*)\">\n")
_END = re.compile(r"\n</file(|-\d+)>(?=\n|\Z)")
_CHIP = re.compile(r"\[paste \d+: [^\]\n]{1,40}\]")


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
    name = shown(name or str(path))
    if is_dir(path):
        raise Qwen35Error(f"{name} is a folder: attach its files one by one")
    try:
        with open_regular(path) as file:
            # Up to one byte too many: some files of the system have no size until they are read.
            data = b""
            while (part := file.read(LARGEST_FILE + 1 - len(data))) and len(data) <= LARGEST_FILE:
                data += part
    except OSError as error:
        raise Qwen35Error(f"{name} cannot be read: {error.strerror}") from None
    except ValueError:
        raise Qwen35Error(f"{name} has a character that no path can have") from None
    if len(data) > LARGEST_FILE:
        raise Qwen35Error(f"{name} has more than {LARGEST_FILE:,} bytes: attach a part of it")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise Qwen35Error(f"{name} is not text, and the model reads text only: convert it first")
    return text


def with_files(message: str, folder: Path, typed: str | None = None) -> str:
    """`message`, followed by the files that it names as `@path`.

    A name without a file is refused if it looks like one's (`mentions.file_is_meant`), else it
    stays text. So does what stands in backticks.

    Args:
        typed: the message without its pastes, which name no files; None for all of it.

    Raises:
        Qwen35Error: a named file is not there, or cannot be attached.
    """
    parts = [message]
    seen: set[str] = set()
    for found in mentions(taken_apart(message)[0] if typed is None else typed):
        name = found.name
        path = _existing(folder, name)
        if path is None and not found.quoted:
            name = name.rstrip(CLOSING)
            path = _existing(folder, name)
        if path is None:
            refuse_missing(found, folder, partial(files_below, folder))
            continue
        if not name or name in seen:
            continue
        seen.add(name)
        text = read_text_file(path, name).rstrip("\n")
        tag = _tag_for(text)
        parts.append(f'<{tag} name="{name}">\n{text}\n</{tag}>')
    return "\n\n".join(parts)


def _existing(folder: Path, name: str) -> Path | None:
    """The path that a name after an @ means; None if there is nothing, or it is no path at all.

    Raises:
        Qwen35Error: whether there is something cannot be found out.
    """
    try:
        path = folder / Path(name).expanduser()
        path.stat()
    except PermissionError as error:
        raise Qwen35Error(f"{shown(name)} cannot be read: {error.strerror}") from None
    except (OSError, ValueError, RuntimeError):  # the last for a `~user` who does not exist
        return None
    return path


def _tag_for(text: str) -> str:
    """The tag for a file with this text: "file", or with the first number that `text` lacks."""
    lower = text.lower()
    if "</file" not in lower:
        return "file"
    taken = set(re.findall(r"</file-(\d+)", lower))
    return next(f"file-{number}" for number in count(2) if str(number) not in taken)


def taken_apart(message: str) -> tuple[str, list[Attached]]:
    """The inverse of `with_files`: a message as it was written, and its files."""
    ends: dict[str, list[int]] = {}  # by number, so that each is found without another search
    for end in _END.finditer(message):
        ends.setdefault(end.group(1), []).append(end.start())
    files: list[Attached] = []
    written: list[str] = []
    at = done = 0
    while begin := _BEGIN.search(message, at):
        number, name = begin.groups()
        own = ends.get(number, [])
        which = bisect_left(own, begin.end())
        if which == len(own):
            at = begin.end()
            continue
        files.append(Attached(name, message[begin.end() : own[which]]))
        written.append(message[done : begin.start()].rstrip("\n"))
        at = done = own[which] + len(f"\n</file{number}>")
    return "".join([*written, message[done:]]), files


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
                if '"' in child.name or "\n" in child.name:  # which no mention can hold
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

    def chip(
        self, text: str, longest: int = LONG_PASTE, characters: int = LONG_PASTE_CHARACTERS
    ) -> str | None:
        """A name for `text`; None if it is short enough to be shown itself.

        Args:
            longest, characters: the lines and the characters of the longest that is.
        """
        lines = text.count("\n") + 1
        if lines <= longest and len(text) <= characters:
            return None
        size = f"{lines} lines" if lines > longest else f"{len(text):,} characters"
        name = f"[paste {len(self._texts) + 1}: {size}]"
        self._texts[name] = self.expanded(text)
        return name

    def expanded(self, text: str) -> str:
        """`text` with the paste in place of each chip."""
        return _CHIP.sub(lambda match: self._texts.get(match.group(), match.group()), text)
