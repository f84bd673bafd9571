"""Files that are sent with a message."""

import re
from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from unicodedata import normalize

from qwen35_chat.documents import MOST_DOCUMENTS, document_kind
from qwen35_chat.file_groups import MADE, file_group, is_pattern
from qwen35_chat.file_refused import FileRefusedError
from qwen35_chat.mentions import LONGEST_NAME, Mention, mentions, refuse_missing
from qwen35_chat.readable_files import read_text_file
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text.folding import folded
from qwen35_mlx.user_paths import is_dir, shown

MOST_FILES = 20_000  # looked at for completion
# A file between <file name="..."> and </file>. Where its text has such an end itself, both tags get
# a number that the text does not have, as in <file-2 name="..."> and </file-2>.
_BEGIN = re.compile(r"<file(|-\d+) name=\"([^\"\n]*)\">\n")
_END = re.compile(r"\n</file(|-\d+)>(?=\n|\Z)")
_QUOTE = "&quot;"  # a quotation mark in the name of a file


@dataclass(frozen=True, slots=True)
class Attached:
    """A file in a message.

    Attributes:
        encoding: of the file, where it was read from one that is not UTF-8.
    """

    name: str
    text: str
    encoding: str = ""

    @property
    def lines(self) -> int:
        return self.text.count("\n") + 1

    @property
    def tagged(self) -> str:
        """The file, as it stands in a message."""
        tag = _tag_for(self.text)
        name = self.name.replace('"', _QUOTE)
        return f'<{tag} name="{name}">\n{self.text}\n</{tag}>'


@dataclass(frozen=True, slots=True)
class AttachedGroup:
    """The files of a folder, or those that fit a pattern.

    Attributes:
        name: of the folder, or the pattern, as the message has it.
        left_out: why files and folders are left out, and how many for each reason.
    """

    name: str
    files: tuple[Attached, ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Attachments:
    """A message and what it names.

    Attributes:
        files: those that are named one by one.
        groups: folders and patterns, for which the user has to be asked.
    """

    message: str
    files: tuple[Attached, ...] = ()
    groups: tuple[AttachedGroup, ...] = ()

    @property
    def text(self) -> str:
        """The message, followed by the files, each once."""
        return "\n\n".join([self.message, *(file.tagged for file in self._each)])

    @property
    def note(self) -> str:
        """Which files were read from another encoding than UTF-8, in a line; "" for none."""
        return ", ".join(
            f"{shown(file.name)} is read as {file.encoding}" for file in self._each if file.encoding
        )

    @property
    def _each(self) -> Collection[Attached]:
        grouped = (file for group in self.groups for file in group.files)
        return {file.name: file for file in (*self.files, *grouped)}.values()


def attached(message: str, folder: Path, typed: str | None = None) -> Attachments:
    """The files that a message names as `@path`, `@folder/` or `@*.py`.

    A name without a file is refused if it looks like one's (`refuse_missing`), else it
    stays text. So does what stands in backticks.

    Args:
        typed: the message without its pastes, which name no files; None for all of it.

    Raises:
        Qwen35Error: a named file is not there, or cannot be attached.
    """
    files: dict[str, Attached] = {}
    groups: dict[str, AttachedGroup] = {}
    typed = taken_apart(message)[0] if typed is None else typed
    behind = 0  # the end of the last name
    for found in mentions(typed):
        if found.start < behind:
            continue
        existing = ((name, path) for name in found.names if (path := _existing(folder, name)))
        written, path = next(existing, (found.name, None))
        name = written
        if path is None:
            others = ((n, other) for n in found.names if (other := _other_spelling(folder, n)))
            written, name = next(others, (written, name))
            path = _existing(folder, name)
        if path is not None and not found.quoted:
            behind = found.start + len(written)
        if not name or name in files or name in groups:
            continue
        if path is not None and not is_dir(path):
            files[name] = _read(path, name)
        elif group := _group(found, name, folder, is_folder=path is not None):
            groups[name] = group
        else:
            refuse_missing(found, folder, partial(files_below, folder))
    return Attachments(message, tuple(files.values()), tuple(groups.values()))


def _read(path: Path, name: str) -> Attached:
    read = read_text_file(path, name)
    return Attached(name, read.text.rstrip("\n"), read.encoding)


def _group(found: Mention, name: str, folder: Path, *, is_folder: bool) -> AttachedGroup | None:
    """The files of a folder or a pattern; None if the name is neither.

    Raises:
        Qwen35Error: there are none that can be attached, or too many.
    """
    if not is_folder and (not is_pattern(name) or found.decorator or len(name) > LONGEST_NAME):
        return None
    try:
        group = file_group(name, folder)
    except (OSError, ValueError, RuntimeError):
        return None
    if sum(bool(document_kind(file)) for file, _ in group.paths) > MOST_DOCUMENTS:
        raise Qwen35Error(
            f"{shown(name)} has more than {MOST_DOCUMENTS} PDF and Word files: name a part of them"
        )
    files: list[Attached] = []
    for file, path in group.paths:
        try:
            files.append(_read(path, file))
        except FileRefusedError as refused:
            group.left_out[refused.reason] += 1
    if files:
        return AttachedGroup(name, tuple(files), group.left_out)
    # Without any file, what looks like a pattern may be something else: 2 * 3, or *emphasis*.
    if not is_folder and not group.left_out and not ("/" in name or "." in name):
        return None
    why = f" ({shown_reasons(group.left_out)})" if group.left_out else ""
    raise Qwen35Error(
        f"{shown(name)} has no file that can be attached{why}. "
        f"As text it goes in backticks: `@{shown(name)}`"
    )


def shown_reasons(left_out: Mapping[str, int]) -> str:
    """What is left out, for people: "2 hidden, 1 not text"."""
    return ", ".join(f"{number:,} {reason}" for reason, number in sorted(left_out.items()))


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


def _other_spelling(folder: Path, name: str) -> str | None:
    """A name of what is there, which folds to the same as `name`; None if several or none do.

    Of several, one that is composed in another way alone goes before the others.
    """
    parts: list[str] = []
    at = folder
    try:
        for part in Path(name).expanduser().parts:
            if not (at / part).exists():
                names, composed = [file.name for file in at.iterdir()], normalize("NFC", part)
                found = [other for other in names if normalize("NFC", other) == composed]
                found = found or [other for other in names if folded(other) == folded(part)]
                if len(found) != 1:
                    return None
                (part,) = found
            parts.append(part)
            at /= part
    except (OSError, ValueError, RuntimeError):
        return None
    return f"{Path(*parts)}{'/' * name.endswith('/')}"


def _tag_for(text: str) -> str:
    """The tag for a file with this text: "file", or with the first number that `text` lacks."""
    lower = text.lower()
    if "</file" not in lower:
        return "file"
    taken = set(re.findall(r"</file-(\d+)", lower))
    return next(f"file-{number}" for number in count(2) if str(number) not in taken)


def taken_apart(message: str) -> tuple[str, list[Attached]]:
    """The inverse of `Attachments.text`: a message as it was written, and its files."""
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
        text = message[begin.end() : own[which]]
        files.append(Attached(name.replace(_QUOTE, '"'), text))
        written.append(message[done : begin.start()].rstrip("\n"))
        at = done = own[which] + len(f"\n</file{number}>")
    return "".join([*written, message[done:]]), files


def as_typed(message: str) -> str:
    """A message as it was before its files were read: without those that its names stand for."""
    written, _ = taken_apart(message)
    return written if any(mentions(written)) else message


def files_below(folder: Path) -> list[str]:
    """Files and folders below `folder`, as relative paths, level by level, without hidden ones.

    A folder's path ends in a slash.
    """
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
                if child.name.startswith(".") or child.name in MADE:
                    continue
                if "\n" in child.name:  # which no mention can hold
                    continue
                if child.is_symlink() and child.is_dir():
                    continue
                path = child.relative_to(folder).as_posix()
                if child.is_dir():
                    below.append(child)
                    path += "/"
                found.append(path)
        level = below
    return found[:MOST_FILES]
