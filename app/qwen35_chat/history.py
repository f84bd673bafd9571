"""What the user has sent before, for the composer."""

import json
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import replace_file

KEPT = 1_000


class History:
    """Sent messages, oldest first, in a file of JSON lines.

    Args:
        file: None keeps them in memory.
    """

    def __init__(self, file: Path | None = None):
        self._file = file
        self.texts: list[str] = []
        self._at = 0
        self._draft = ""
        if file is not None and file.is_file():
            self.texts = _read(file)[-KEPT:]
        self._at = len(self.texts)

    @property
    def browsing(self) -> bool:
        return self._at < len(self.texts)

    def add(self, text: str) -> None:
        """Remember a message.

        Raises:
            Qwen35Error: the file cannot be written; it is remembered until the end only.
        """
        if not self.texts or self.texts[-1] != text:
            self.texts.append(text)
            self._write(text)
        self.leave()

    def leave(self) -> None:
        """Back at the end, after the newest."""
        self._at = len(self.texts)

    def step(self, direction: int, draft: str) -> str | None:
        """The one before (-1) or after (1); None where there is none. After all: the draft."""
        to = self._at + direction
        if not 0 <= to <= len(self.texts):
            return None
        if self._at == len(self.texts):
            self._draft = draft
        self._at = to
        return self._draft if to == len(self.texts) else self.texts[to]

    def _write(self, text: str) -> None:
        if self._file is None:
            return
        try:
            if len(self.texts) > 2 * KEPT:
                self.texts = self.texts[-KEPT:]
                lines = "".join(json.dumps(text) + "\n" for text in self.texts)
                replace_file(self._file, lines)
                return
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(text) + "\n")
        except OSError as error:
            raise Qwen35Error(f"{self._file} cannot be written: {error.strerror}") from None


def _read(file: Path) -> list[str]:
    texts: list[str] = []
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            text = json.loads(line)
        except ValueError:
            continue  # the last line of a process that was killed
        if isinstance(text, str):
            texts.append(text)
    return texts
