"""Names of files in messages: `@notes.txt`, `@"my notes.txt"`."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from qwen35_chat.patterns import pattern
from qwen35_chat.segmentation import UNSPACED
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.user_paths import shown

CLOSING = ".,;:!?)"  # that may follow a name without being a part of it
LONGEST_NAME = 4096  # characters of a path
FURTHEST = 200  # characters of a text without spaces in which the end of a name is looked for
# Letters that a name may follow, or be followed by, without a space.
_JOINS = rf"{UNSPACED}\uac00-\ud7a3"
AT_SIGNS = "@\uff20"  # the second as input methods type it
# Not within an address: of mail, or of the web.
_AT = rf"(?<![^\W{_JOINS}])(?<![-+/\\=%~@])[{AT_SIGNS}]"
_ESCAPED = re.compile(r"\\([\\\"])")
_UNFINISHED = pattern(rf"{_AT}(?=([^\s\"]*)\Z)")
_OPEN_QUOTE = pattern(rf"{_AT}[\"\u201c]((?:[^\"\u201d\\\n]|\\.)*)\Z")
_MENTION = pattern(_AT + r"(?:\"((?:[^\"\\\n]|\\.)+)\"|\u201c([^\u201d\n]+)\u201d|([^\s\"]+))")
_GLUED = re.compile(r"[^\s(\[{<\u201c\u2018\u3008-\u3011\uff08]")
_UNSPACED = pattern(rf"[{_JOINS}\u3000-\u303f\uff00-\uffef]")
# Where a name in a text without spaces may end.
_END = pattern(
    rf"(?=[,;:)\]}}>'`]|[?!](?![!-~])|[^\x00-\x7f\w\u0300-\u036f]|[{_JOINS}])|(?<=[{_JOINS}])(?=\w)"
)
_STOP = re.compile(r"[,;:)\]}>'`]|[^\x00-\x7f\w\u0300-\u036f]")
# Blocks of code, and code within a line.
_CODE = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,}).*?(?:^ {0,3}(?P=fence)|\Z)|(?P<ticks>`+)[^`\n]+(?P=ticks)",
    re.DOTALL | re.MULTILINE,
)
_SUFFIX = re.compile(r"[^./]\.[A-Za-z][A-Za-z0-9]{0,4}\Z")
_WEB = re.compile(r"\.(?:com|org|net|edu|gov|io|cn|tw|hk|jp|kr|de)\Z", re.IGNORECASE)
# What follows a decorator of Python, or another one.
_DECORATED = re.compile(r"[^\n]*\n\s*(?:@|(?:async )?def |class )")


@dataclass(frozen=True, slots=True)
class Mention:
    """A name after an @.

    Attributes:
        start: where the name begins in the message.
        text: what follows the @, up to a space: the name, and perhaps more.
        quoted: it stands in quotation marks.
        decorator: a function or a class follows in the next line.
        glued: there is no space and no bracket before the @, but what usually has one after it.
        unspaced: a sign of a script without spaces is before it.
    """

    start: int
    text: str
    quoted: bool
    decorator: bool
    glued: bool
    unspaced: bool

    @property
    def names(self) -> Sequence[str]:
        """The names that may be meant, the longest first."""
        if self.quoted:
            return [self.text]
        ends = [found.start() for found in _END().finditer(self.text[:FURTHEST])]
        whole = [self.text, *(self.text[:end] for end in reversed(ends) if end)]
        stripped = (short for name in whole for short in (name, name.rstrip(CLOSING)))
        return list(dict.fromkeys(name for name in stripped if name)) or [""]

    @property
    def name(self) -> str:
        """The name that is meant, as far as this can be told without the files."""
        if self.quoted:
            return self.text
        names = self.names[::-1]
        if named := next((name for name in names if _SUFFIX.search(name)), None):
            return named
        stop = _STOP.search(self.text)
        return self.text[: stop.start() if stop else None].rstrip(CLOSING)


def mention(path: str) -> str:
    """A file's name, as a message mentions it."""
    if not re.search(r"[\s\"\u201c]", path):
        return f"@{path}"
    escaped = re.sub(r"([\\\"])", r"\\\1", path)
    return f'@"{escaped}"'


def mentions(text: str) -> Iterator[Mention]:
    """The names after an @ in a message, without those in code.

    A name may be a part of the one before: in a text without spaces, only the files tell.
    """
    code = [match.span() for match in _CODE.finditer(text)] if "`" in text or "~~~" in text else []
    at = 0
    while match := _MENTION().search(text, at):
        start = match.start()
        while code and code[0][1] <= start:
            code.pop(0)
        escaped, in_quotes, bare = match.groups()
        at = start + 1 if bare else match.end()
        if code and code[0][0] <= start:
            continue
        begins_line = start == 0 or text[start - 1] == "\n"
        name = re.sub(_ESCAPED, r"\1", escaped) if escaped else in_quotes or bare
        before = text[start - 1 : start] if start else ""
        unspaced = _UNSPACED().match(before) is not None
        yield Mention(
            start + 1,
            name,
            quoted=not bare,
            decorator=begins_line and _DECORATED.match(text, match.end()) is not None,
            glued=not unspaced and _GLUED.match(before) is not None,
            unspaced=unspaced,
        )


def unfinished(text: str) -> tuple[int, str] | None:
    """Where the @ is whose name ends with `text`, and this part of the name; None without one."""
    found = _OPEN_QUOTE().search(text)
    for bare in _UNFINISHED().finditer(text) if found is None else ():
        found = bare
    return (found.start(), re.sub(_ESCAPED, r"\1", found[1])) if found else None


def refuse_missing(found: Mention, folder: Path, files: Callable[[], Sequence[str]]) -> None:
    """Refuse a name without a file, if a file is meant; it may also be a person's or a decorator.

    Args:
        files: the files below the folder.

    Raises:
        Qwen35Error: a file is meant; the line names one that is near.
    """
    name = found.name
    if not name.strip() or found.decorator or len(name) > LONGEST_NAME:
        return
    path_like = found.quoted or "/" in name or _SUFFIX.search(name)
    if not path_like:
        like = _same_stem(name, files())
    elif name.startswith(("/", "~", "..")):
        like = _near(name, _beside(name))
    else:
        like = _near(name, files())
    if not like and (found.glued or not path_like or (found.unspaced and _WEB.search(name))):
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
