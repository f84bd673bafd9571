"""Personas: system prompts as Markdown files, in the folder `prompts` beside the settings file.

A file is the system prompt, below front matter that may name it, a model, a preset and whether to
think:

    ---
    name: Reviewer
    thinking: on
    ---
    You review code. Name the worst problem first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwen35_chat.settings import setting_problem
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import open_regular, write_new
from qwen35_mlx.terminal import visible_line
from qwen35_mlx.text.folding import folded

FOLDER = "prompts"
SUFFIX = ".md"
KEYS = ("name", "model", "preset", "thinking")
NEW = "new"  # before the name of one to begin
NO_PERSONA = "none"  # in place of a name: the settings' system prompt again
LONGEST_NAME = 40  # characters
LARGEST_FILE = 1_000_000  # bytes
MOST_FILES = 500
EXAMPLE = """\
---
name: Reviewer
thinking: on
---
You review code. Name the worst problem first."""
_FENCE = "---"


@dataclass(frozen=True, slots=True)
class Persona:
    """A system prompt with a name, and the settings that it is meant for.

    Attributes:
        file: the name of its file.
        model: to load with it; "" for the present one.
        settings: `preset` and `thinking`, where the file names them.
    """

    name: str
    system: str
    file: str
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def held(self) -> dict[str, Any]:
        """The settings that hold in a conversation with it."""
        return {"system": self.system, **self.settings}


@dataclass(frozen=True, slots=True)
class Personas:
    """What the folder of personas holds.

    Attributes:
        usable: by name.
        problems: why a file is none, in one line, by the file's name.
    """

    usable: tuple[Persona, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)

    def named(self, name: str) -> Persona:
        """The persona of this name, or in the file of this name.

        Raises:
            Qwen35Error: there is none; what is wrong with the file, if that is why.
        """
        for spelled in (str.casefold, folded):
            for persona in self.usable:
                if spelled(name) in map(spelled, (persona.name, _stem(persona.file))):
                    return persona
        for file, problem in self.problems.items():
            if folded(name) == folded(_stem(file)):
                raise Qwen35Error(problem)
        shown = visible_line(name[:LONGEST_NAME])
        raise Qwen35Error(f"there is no prompt {shown!r}: /prompt lists them")

    def with_system(self, system: str) -> Persona | None:
        """The persona with this system prompt; None if there is none."""
        return next((p for p in self.usable if p.system == system), None)


def new_persona(folder: Path, name: str) -> Path:
    """Write a file to begin with, the example under another name, and return its path.

    Raises:
        Qwen35Error: the name cannot be one, there is such a file, or it cannot be written.
    """
    text = EXAMPLE.replace("Reviewer", name, 1) + "\n"
    file = folder / f"{name}{SUFFIX}"
    if "/" in name or name.startswith(".") or parse_persona(text, file.name).name != name:
        raise Qwen35Error(f"a prompt cannot be called {visible_line(name[:LONGEST_NAME])!r}")
    write_new(file, text, f"/prompt {name} uses it", make_folder=True)
    return file


def read_personas(folder: Path) -> Personas:
    """Read all personas of a folder; one that is not there has none."""
    try:
        found = [p for p in folder.iterdir() if p.suffix == SUFFIX and not p.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return Personas()
    except OSError as error:
        return Personas(problems={"": f"{folder} cannot be read ({error.strerror})"})
    files = sorted(found, key=lambda file: file.name.casefold())
    usable: dict[str, Persona] = {}
    problems: dict[str, str] = {}
    for file in files[:MOST_FILES]:
        try:
            persona = parse_persona(_text(file), file.name)
            other = usable.setdefault(persona.name.casefold(), persona)
            if other is not persona:
                taken = f"name is {persona.name!r}, as in {visible_line(other.file)}"
                problems[file.name] = f"{visible_line(file.name)}: {taken}: change one"
        except Qwen35Error as error:
            problems[file.name] = str(error)
    if len(files) > MOST_FILES:
        problems[""] = f"{len(files):,} files are too many: {MOST_FILES} of them are read"
    return Personas(tuple(sorted(usable.values(), key=lambda p: p.name.casefold())), problems)


def _text(file: Path) -> str:
    """The text of a persona's file.

    Raises:
        Qwen35Error: it is too large, or cannot be read.
    """
    shown = visible_line(file.name)
    try:
        with open_regular(file) as opened:
            data = opened.read(LARGEST_FILE + 1) or b""
        if len(data) > LARGEST_FILE:
            raise Qwen35Error(f"{shown} is larger than {LARGEST_FILE:,} bytes: shorten it")
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        line = f"{shown} cannot be read ({reason}): correct it, or move it away"
        raise Qwen35Error(line) from None


def parse_persona(text: str, file: str) -> Persona:
    """The persona in the text of a file.

    Args:
        file: its name, which names the persona if nothing else does.

    Raises:
        Qwen35Error: a line of the front matter is wrong, or there is no prompt below it; names the
            file, and the line and key.
    """
    shown = visible_line(file)
    values, body = _front_matter(text, shown)
    if not body.strip():
        raise Qwen35Error(f"{shown} has no prompt: write it below the front matter")
    given = {key: value for key, value in values.items() if key in ("preset", "thinking")}
    name = values.get("name", file.removesuffix(SUFFIX))
    return Persona(name, body.strip(), file, values.get("model", ""), given)


def _front_matter(text: str, file: str) -> tuple[dict[str, str], str]:
    """The values of the front matter, and the text below it."""
    lines = text.split("\n")
    if lines[0].rstrip() != _FENCE:
        return {}, text
    values: dict[str, str] = {}
    for number, line in enumerate(lines[1:], 2):
        if line.rstrip() == _FENCE:
            return values, "\n".join(lines[number:])
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, colon, value = line.partition(":")
        key = key.strip()
        value = _unquoted(value.strip())
        where = f"{file}, line {number}"
        if not colon:
            raise Qwen35Error(f"{where} is not KEY: VALUE: correct it, or write {_FENCE} above")
        if problem := _problem(key, value, values):
            raise Qwen35Error(f"{where}: {visible_line(key[:LONGEST_NAME])} {problem}")
        values[key] = value
    raise Qwen35Error(f"{file}: the front matter has no end: write {_FENCE} below it")


def _problem(key: str, value: str, before: Mapping[str, str]) -> str:
    """Why the front matter cannot have this value; "" if it can."""
    if key not in KEYS:
        return f"is no key of a prompt; these are: {', '.join(KEYS)}"
    if key in before:
        return "is there twice: remove one"
    if key == "name":
        fits = 0 < len(value) <= LONGEST_NAME and value == visible_line(value)
        if not fits:
            return f"must be a name of at most {LONGEST_NAME} characters"
        none = value.casefold() == NO_PERSONA
        return f"cannot be {NO_PERSONA!r}, which stands for no prompt" if none else ""
    return setting_problem(key, value)


def _unquoted(value: str) -> str:
    """A value without its quotes, or without the comment behind it."""
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value.partition(" #")[0].rstrip()


def _stem(file: str) -> str:
    return file.removesuffix(SUFFIX)
