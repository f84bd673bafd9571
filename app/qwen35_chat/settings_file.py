"""The settings file: read, reloaded when it changes, and edited in place."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen35_chat.personas import FOLDER
from qwen35_chat.settings import FILE_NAME, Settings, setting_problem
from qwen35_chat.settings_text import parse_settings
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import make_private, open_regular, replace_file

if TYPE_CHECKING:
    from tomlkit import TOMLDocument
    from tomlkit.items import Item, Key

    Body = list[tuple[Key | None, Item]]

HEADER = """\
# Settings of qwen35-chat. What is not here has its default; changes apply at once.
"""


class SettingsFile:
    """The current settings and the file that they are stored in.

    Args:
        file: None keeps everything in memory.
        overrides: settings from the command line. They hold until the app changes the same
            setting, and are never written to the file.
        commands: as for `setting_problem`.

    Attributes:
        settings: the last valid ones.
    """

    def __init__(
        self,
        file: Path | None,
        overrides: Mapping[str, Any] | None = None,
        commands: Mapping[str, str] | None = None,
    ):
        self.file = file
        self._overrides = dict(overrides or {})
        self._commands = commands
        self._held: dict[str, Any] = {}
        self._loaded_stamp: tuple[int, int] | None = None
        self._memory = HEADER  # the text while there is no file
        self._stored = Settings()
        self.settings = self._with_overrides(self._stored)

    def load(self) -> Settings:
        """Read the file, and take it from other users.

        Raises:
            Qwen35Error: it is unreadable or invalid; the settings stay as they were.
        """
        if self.file is not None:
            make_private(self.file)
        self._loaded_stamp = self._stamp()
        self._stored = self._parse(self._text())
        self.settings = self._with_overrides(self._stored)
        return self.settings

    @property
    def persona_folder(self) -> Path | None:
        """The folder of personas, beside the file; None without a file."""
        return None if self.file is None else self.file.parent / FOLDER

    @property
    def held(self) -> Mapping[str, Any]:
        """The settings of the conversation that is open, by their names."""
        return self._held

    def hold(self, settings: Mapping[str, Any]) -> Settings:
        """Let these settings hold in the conversation that is open, in place of those before.

        They are over the command line's, end as those do, and are never written to the file.
        """
        self._held = dict(settings)
        self.settings = self._with_overrides(self._stored)
        return self.settings

    def changed(self) -> bool:
        """Whether the file was changed since it was last read or written here."""
        return self.file is not None and self._stamp() != self._loaded_stamp

    def reload(self) -> Settings | None:
        """`load` the file if it was changed; None if not."""
        return self.load() if self.changed() else None

    def set(self, name: str, value: object) -> Settings:
        """Change one setting, in the file too.

        Args:
            name: a setting, or `table.key`.
            value: None restores the default.

        Raises:
            Qwen35Error: the value is invalid, or the file is invalid or cannot be written; the
                file and the settings stay as they were.
        """
        if value is not None and (found := setting_problem(name, value, self._commands)):
            raise Qwen35Error(f"{name} {found}")
        texts = value if isinstance(value, list) else [value]
        if not all(_is_text(text) for text in texts if isinstance(text, str)):
            raise Qwen35Error(f"{name} has a character that is half of one: write it again")
        before = self._text() or HEADER
        self._parse(before)  # so that mistakes are reported with the lines of the user's own text
        text = with_value(before, name, value)
        parsed = self._parse(text)
        if self.file is None:
            self._memory = text
        else:
            try:
                replace_file(self.file, text, private=True)
            except OSError as error:
                raise Qwen35Error(
                    f"{self.file} cannot be written ({error.strerror}): nothing is changed; "
                    "make the file and its folder writable"
                ) from None
        for above in (self._overrides, self._held):
            above.pop(name, None)
        table, _, key = name.rpartition(".")
        if table in self._overrides:
            entries = self._overrides[table].items()
            self._overrides[table] = {k: v for k, v in entries if k != key}
        self._loaded_stamp = self._stamp()
        self._stored = parsed
        self.settings = self._with_overrides(parsed)
        return self.settings

    def _parse(self, text: str) -> Settings:
        return parse_settings(text, self.file or Path(FILE_NAME), self._commands)

    def _with_overrides(self, settings: Settings) -> Settings:
        values = {f.name: getattr(settings, f.name) for f in fields(Settings)}
        values.update(self._overrides)
        for table in ("sampling", "template_arguments"):
            values[table] = {**getattr(settings, table), **self._overrides.get(table, {})}
        return Settings(**{**values, **self._held})

    def _text(self) -> str:
        if self.file is None:
            return self._memory
        try:
            with open_regular(self.file) as file:
                text = file.readall().decode("utf-8-sig")
            return text.replace("\r\n", "\n")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise Qwen35Error(
                f"{self.file} cannot be read ({reason}): correct it, or move it away"
            ) from None

    def _stamp(self) -> tuple[int, int] | None:
        """Modification time and size of the file; None if there is none."""
        try:
            stat = self.file.stat() if self.file else None
        except OSError:
            return None
        return (stat.st_mtime_ns, stat.st_size) if stat else None


def _is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: a lone surrogate cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def with_value(text: str, name: str, value: object) -> str:
    """The text of a TOML file with one value changed, added or removed.

    Everything else stays as it was written, the comment behind the value included.

    Args:
        text: valid TOML.
        name: a key, or `table.key`.
        value: a string, number, boolean or list of strings; None removes the statement.
    """
    import tomlkit  # only needed for a change; takes 20 ms

    document = tomlkit.parse(text if text.endswith("\n") or not text else text + "\n")
    table, _, key = name.rpartition(".")
    values: Any = document.get(table) if table else document
    if values is not None and key in values:
        if value is None:
            _remove(document, table, key)
        else:
            values[key] = value
    elif value is not None:
        _add(document, table, key, value)
    return tomlkit.dumps(document)


def _remove(document: "TOMLDocument", table: str, key: str) -> None:
    """Remove a statement and leave its comment, on a line of its own."""
    from tomlkit.items import Comment, Trivia

    for body in _bodies(document, table):
        for at, (found, item) in enumerate(body):
            if found is not None and found.key == key:
                trivia = item.trivia
                comment = Comment(Trivia(indent=trivia.indent, comment=trivia.comment))
                body[at : at + 1] = [(None, comment)] if trivia.comment else []
                return
    del document[table][key]  # pyright: ignore[reportIndexIssue]  # an inline table


def _add(document: "TOMLDocument", table: str, key: str, value: object) -> None:
    """Add a statement behind the last one of its table.

    tomlkit itself would put it behind the comments there, which describe the next table.
    """
    import tomlkit
    from tomlkit.items import Comment

    bodies = list(_bodies(document, table))
    if not bodies:
        document.setdefault(table, tomlkit.table())[key] = value
        return
    body = bodies[-1]
    statements = [at for at, (found, item) in enumerate(body) if _is_statement(found, item)]
    entry = (tomlkit.key(key), tomlkit.item(value))
    if statements:
        body.insert(statements[-1] + 1, entry)
    elif table:
        body.insert(0, entry)
    else:
        at = next((at for at, (found, _) in enumerate(body) if found is not None), None)
        if at is None:
            body.append(entry)
            return
        while at > 0 and isinstance(body[at - 1][1], Comment):  # it describes the table
            at -= 1
        body[at:at] = [entry, (None, tomlkit.nl())]


def _is_statement(key: "Key | None", item: "Item") -> bool:
    """Whether an entry is `key = item` or `key.part = item`, not a comment or `[key]`."""
    from tomlkit.items import Table

    return key is not None and (key.is_dotted() or not isinstance(item, Table))


def _bodies(document: "TOMLDocument", table: str) -> "Iterator[Body]":
    """The lists of entries that a table is written in: several if its keys are dotted.

    Edits of these lists are not seen by the document's mapping, only by `tomlkit.dumps`.
    """
    from tomlkit.items import Table

    if not table:
        yield document.body
        return
    for key, item in document.body:
        if key is not None and key.key == table and isinstance(item, Table):
            yield item.value.body
