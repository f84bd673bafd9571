"""The settings file: read, read again when it changes, and changed by the app."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from qwen35_chat.settings import FILE, Settings, parse, problem
from qwen35_chat.toml_text import with_value
from qwen35_mlx.errors import Qwen35Error

HEADER = """\
# Settings of qwen35-chat. What is not here has its default; changes apply at once.
"""


class SettingsFile:
    """The settings, as they are in the file now.

    Args:
        file: None keeps everything in memory.
        changes: what the command line says; it holds until the end and is not written.
        commands: as for `problem`.

    Attributes:
        settings: the last ones that were right.
    """

    def __init__(
        self,
        file: Path | None,
        changes: Mapping[str, Any] | None = None,
        commands: Mapping[str, str] | None = None,
    ):
        self.file = file
        self._changes = dict(changes or {})
        self._commands = commands
        self._seen: tuple[int, int] | None = None
        self._memory = HEADER
        self.settings = self._with_changes(Settings())

    def load(self) -> Settings:
        """Read the file.

        Raises:
            Qwen35Error: something in it is wrong; the settings stay as they were.
        """
        self._seen = self._stamp()
        text = self._text()
        self.settings = self._with_changes(parse(text, self.file or Path(FILE), self._commands))
        return self.settings

    def changed(self) -> bool:
        """Whether the file is another than the one that was read."""
        return self.file is not None and self._stamp() != self._seen

    def set(self, name: str, value: object) -> Settings:
        """Change one value in the file. `name`, `value`: as for `with_value`.

        Raises:
            Qwen35Error: the value is refused, or the file cannot be written; it is as before then.
        """
        if value is not None and (why := problem(name, value, self._commands)):
            raise Qwen35Error(f"{name} {why}")
        before = self._text() or HEADER
        parse(before, self.file or Path(FILE), self._commands)  # its own mistakes, in its own lines
        text = with_value(before, name, value)
        parsed = parse(text, self.file or Path(FILE), self._commands)
        if self.file is None:
            self._memory = text
        else:
            try:
                _replace(self.file, text)
            except OSError as error:
                raise Qwen35Error(
                    f"{self.file} cannot be written ({error.strerror}): nothing is changed; "
                    "make the file and its folder writable"
                ) from None
        self._changes.pop(name, None)
        table, _, key = name.rpartition(".")
        if table in self._changes:
            self._changes[table] = {k: v for k, v in self._changes[table].items() if k != key}
        self._seen = self._stamp()
        self.settings = self._with_changes(parsed)
        return self.settings

    def _with_changes(self, settings: Settings) -> Settings:
        values = {f.name: getattr(settings, f.name) for f in fields(Settings)}
        values.update({k: v for k, v in self._changes.items() if k != "sampling"})
        if sampling := self._changes.get("sampling"):
            values["sampling"] = {**settings.sampling, **sampling}
        return Settings(**values)

    def _text(self) -> str:
        if self.file is None:
            return self._memory
        try:
            return self.file.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise Qwen35Error(
                f"{self.file} cannot be read ({reason}): correct it, or move it away"
            ) from None

    def _stamp(self) -> tuple[int, int] | None:
        try:
            stat = self.file.stat() if self.file else None
        except OSError:
            return None
        return (stat.st_mtime_ns, stat.st_size) if stat else None


def _replace(file: Path, text: str) -> None:
    """Write a file so that it always is either the old or the new one, whatever happens."""
    file = file.resolve()  # a link stays one: some keep their settings elsewhere
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        if file.exists():
            shutil.copymode(file, temporary)
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
