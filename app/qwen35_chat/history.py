"""The messages sent before, for the composer."""

from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import history


class History:
    """Sent messages, oldest first, and their file.

    Args:
        file: as `library.history` writes it; None keeps them in memory.

    Attributes:
        texts: the messages.
    """

    def __init__(self, file: Path | None = None):
        self._file = file
        self.texts: list[str] = []
        self._at = 0
        self._draft = ""
        if file is not None:
            self.texts = history.read(file)
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
            history.append(self._file, text)
        except OSError as error:
            raise Qwen35Error(f"{self._file} cannot be written: {error.strerror}") from None
