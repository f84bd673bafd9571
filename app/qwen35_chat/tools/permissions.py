"""Which tools may run without a question, which never, and which servers are off.

{"off": {"search": true},
 "tools": {"files": {"read": {"answer": "always", "of": "9f86d0..."}}}}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qwen35_chat.tools.calls import Tool
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import open_regular, replace_file
from qwen35_mlx.json_text import write_json
from qwen35_mlx.untrusted_json import parse_json

FILE_NAME = "tools.json"
MAX_BYTES = 4 << 20

Permission = Literal["ask", "always", "never"]
PERMISSIONS: tuple[Permission, ...] = ("ask", "always", "never")


@dataclass(slots=True)
class _Answers:
    """By server, and by server and tool: the answer, and the fingerprint that it was given for."""

    off: dict[str, bool] = field(default_factory=dict)
    tools: dict[tuple[str, str], tuple[Permission, str]] = field(default_factory=dict)

    def update(self, newer: "_Answers") -> None:
        self.off.update(newer.off)
        self.tools.update(newer.tools)


class Permissions:
    """The user's answers, stored in a file.

    "always" holds for a tool as it was when the user agreed: once its server runs another program,
    or its description or arguments change, the chat asks again. "never" holds for the name.

    Args:
        file: None keeps everything in memory.

    Attributes:
        version: grows with every answer.
    """

    def __init__(self, file: Path | None = None):
        self.version = 0
        self._file = file
        self._stored = _Answers()
        self._given = _Answers()  # in this window; another one may write the file, too

    def load(self) -> None:
        """Read the file.

        Raises:
            Qwen35Error: it cannot be read; what held before still holds.
        """
        if self._file is not None:
            self._stored = _read(self._file, "every call of a tool asks again")

    def of(self, tool: Tool) -> Permission:
        """What holds for a tool."""
        key = tool.server, tool.name
        answer, of = self._given.tools.get(key) or self._stored.tools.get(key) or ("ask", "")
        return "ask" if answer == "always" and of != tool.fingerprint else answer

    def set(self, tool: Tool, answer: Permission) -> None:
        """Hold this for a tool from now on; `save` stores it."""
        self._given.tools[tool.server, tool.name] = answer, tool.fingerprint
        self.version += 1

    def off(self, server: str, default: bool) -> bool:
        """Whether a server is switched off; `default` if the user never switched it here."""
        return self._given.off.get(server, self._stored.off.get(server, default))

    def switch(self, server: str, *, off: bool) -> None:
        """Switch a server from now on; `save` stores it."""
        self._given.off[server] = off

    def save(self) -> None:
        """Store what was answered in this window, beside what others have stored meanwhile.

        Another thread may read the answers during this.

        Raises:
            Qwen35Error: the file cannot be read or written; what was answered holds until the end.
        """
        if self._file is None:
            return
        stored = _read(self._file, "the answer holds until the end")
        stored.update(self._given)
        try:
            replace_file(self._file, _text(stored), private=True)
        except OSError as error:
            raise Qwen35Error(
                f"{self._file} cannot be written ({error.strerror}): the answer holds until the end"
            ) from None
        self._stored = stored


def _read(file: Path, otherwise: str) -> _Answers:
    """The answers in the file; none if it does not exist.

    Raises:
        Qwen35Error: it cannot be read, and what follows from that is `otherwise`.
    """
    try:
        with open_regular(file) as opened:
            text = (opened.read(MAX_BYTES) or b"").decode()
        return _parsed(parse_json(text))
    except FileNotFoundError:
        return _Answers()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise Qwen35Error(f"{file} cannot be read ({reason}): {otherwise}") from None


def _parsed(value: Mapping[str, Any]) -> _Answers:
    """The answers in the file's JSON. A value of another form raises an error of its own kind."""
    tools = {
        (server, name): (entry["answer"], str(entry["of"]))
        for server, entries in value["tools"].items()
        for name, entry in entries.items()
        if entry["answer"] in PERMISSIONS
    }
    return _Answers({name: off is True for name, off in value["off"].items()}, tools)


def _text(answers: _Answers) -> str:
    tools: dict[str, dict[str, dict[str, str]]] = {}
    for (server, name), (answer, of) in answers.tools.items():
        if answer != "ask":
            tools.setdefault(server, {})[name] = {"answer": answer, "of": of}
    return write_json({"off": answers.off, "tools": tools}, indent=2) + "\n"
