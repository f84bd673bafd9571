"""The messages sent before, for the composer."""

import json
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import replace_file

LIMIT = 1_000  # messages


class History:
    """Sent messages, oldest first, in a file of JSON lines.

    Args:
        file: None keeps them in memory.

    Attributes:
        texts: the messages.
    """

    def __init__(self, file: Path | None = None):
        self._file = file
        self.texts: list[str] = []
        self._at = 0
        self._draft = ""
        if file is not None and file.is_file():
            self.texts = _read(file)[-LIMIT:]
        self._at = len(self.texts)

    @property
    def browsing(self) -> bool:
        """`step` has gone back from the end."""
        return self._at < len(self.texts)

    def add(self, text: str) -> None:
        """Add a message, and go back to the end.

        Raises:
            Qwen35Error: the file cannot be written; the message is kept in memory only.
        """
        if not self.texts or self.texts[-1] != text:
            self.texts.append(text)
            self._write(text)
        self._at = len(self.texts)

    def step(self, direction: int, draft: str) -> str | None:
        """Go to the message before (-1) or after (1).

        Args:
            draft: what is typed, which comes after the newest message.

        Returns:
            The message or the draft there; None if there is none.
        """
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
            if len(self.texts) > 2 * LIMIT:
                self.texts = self.texts[-LIMIT:]
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
            continue  # cut off when the process was killed
        if isinstance(text, str):
            texts.append(text)
    return texts
