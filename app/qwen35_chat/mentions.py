"""Names of files in messages: `@notes.txt`, `@"my notes.txt"`."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.user_paths import shown

CLOSING = ".,;:!?)"  # that may follow a name without being a part of it
LONGEST_NAME = 4096  # characters of a path
_MENTION = re.compile(r"(?:(?<=\s)|^)@(?:\"([^\"\n]+)\"|([^\s\"]+))")
# Blocks of code, and code within a line.
_CODE = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,}).*?(?:^ {0,3}(?P=fence)|\Z)|(?P<ticks>`+)[^`\n]+(?P=ticks)",
    re.DOTALL | re.MULTILINE,
)
_SUFFIX = re.compile(r"[^./]\.[A-Za-z][A-Za-z0-9]{0,4}\Z")
# What follows a decorator of Python, or another one.
_DECORATED = re.compile(r"[^\n]*\n\s*(?:@|(?:async )?def |class )")


@dataclass(frozen=True, slots=True)
class Mention:
    """A name after an @.

    Attributes:
        quoted: it stands in quotation marks.
        decorator: a function or a class follows in the next line.
    """

    name: str
    quoted: bool
    decorator: bool


def mention(path: str) -> str:
    """A file's name, as a message mentions it."""
    return f'@"{path}"' if re.search(r"\s", path) else f"@{path}"


def mentions(text: str) -> Iterator[Mention]:
    """The names after an @ in a message, without those in code."""
    code = [match.span() for match in _CODE.finditer(text)] if "`" in text or "~~~" in text else []
    for match in _MENTION.finditer(text):
        at = match.start()
        while code and code[0][1] <= at:
            code.pop(0)
        if not (code and code[0][0] <= at):
            begins_line = at == 0 or text[at - 1] == "\n"
            decorator = begins_line and _DECORATED.match(text, match.end()) is not None
            quoted = match.group(1) is not None
            yield Mention(match.group(1) or match.group(2), quoted, decorator)


def refuse_missing(found: Mention, folder: Path, files: Callable[[], Sequence[str]]) -> None:
    """Refuse a name without a file, if a file is meant; it may also be a person's or a decorator.

    Args:
        files: the files below the folder.

    Raises:
        Qwen35Error: a file is meant; the line names one that is near.
    """
    name = found.name if found.quoted else found.name.rstrip(CLOSING)
    if not name.strip() or found.decorator or len(name) > LONGEST_NAME:
        return
    path_like = found.quoted or "/" in name or _SUFFIX.search(name)
    if not path_like:
        like = _same_stem(name, files())
    elif name.startswith(("/", "~", "..")):
        like = _near(name, _beside(name))
    else:
        like = _near(name, files())
    if not (path_like or like):
        return
    where = f" in {shown(str(folder.absolute()))}."
    hint = f"; did you mean {shown(mention(like))}?" if like else where
    raise Qwen35Error(
        f"there is no file {shown(name)}{hint} As text it goes in backticks: `@{shown(name)}`"
    )


def _same_stem(name: str, files: Sequence[str]) -> str:
    """The file that has this name before its suffix; "" without one."""
    wanted = name.casefold()
    return next((file for file in files if Path(file).stem.casefold() == wanted), "")


def _near(name: str, files: Sequence[str]) -> str:
    """The file with the name that is nearest; "" if none is near."""
    low = {file.casefold(): file for file in reversed(files)}
    if found := get_close_matches(name.casefold(), low, 1, cutoff=0.7):
        return low[found[0]]
    last = {file.rpartition("/")[2]: file for file in low}
    found = get_close_matches(name.casefold().rpartition("/")[2], last, 1, cutoff=0.7)
    return low[last[found[0]]] if found else ""


def _beside(name: str) -> list[str]:
    """The files in the folder of a path, by paths that begin as it does."""
    start = name.rpartition("/")[0] + "/"
    try:
        return [f"{start}{file.name}" for file in Path(start).expanduser().iterdir()]
    except (OSError, ValueError, RuntimeError):
        return []
