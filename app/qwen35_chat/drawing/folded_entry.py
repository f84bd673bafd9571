"""A text that is folded until it is asked for."""

from collections.abc import Sequence

from qwen35_chat.drawing.entry import TranscriptEntry
from qwen35_mlx.terminal import visible


class FoldedEntry(TranscriptEntry):
    """A head, and below it a text once it is unfolded.

    Attributes:
        text: as it was written.
        unfolded: whether the text is shown.
    """

    def __init__(self, text: str, message: int | None):
        super().__init__(message)
        self.text = text
        self.unfolded = False

    @property
    def copy_text(self) -> str:
        return self.text

    @property
    def commands(self) -> Sequence[str]:
        return ["mark_copy", "mark_toggle"]

    @property
    def sources(self) -> Sequence[str]:
        return [visible(self.text)] if self.unfolded else []

    @property
    def fold_mark(self) -> str:
        """For the beginning of its head."""
        return "▾" if self.unfolded else "▸"

    def toggle(self) -> None:
        self.unfolded = not self.unfolded
        self.invalidate()
