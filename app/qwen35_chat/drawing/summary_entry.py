"""The line between turns that were summarised and those after them."""

from collections.abc import Sequence

from textual.content import Content

from qwen35_chat.drawing.entries import TranscriptEntry
from qwen35_chat.drawing.entry_parts import plain_parts
from qwen35_chat.drawing.lines import action
from qwen35_chat.drawing.parts import FixedPart, Part, estimate
from qwen35_chat.drawing.wrapping import wrap
from qwen35_mlx.terminal import visible

BACK = "/compact undo goes back to the whole"


class SummaryEntry(TranscriptEntry):
    """A divider: what is above is summed up for the model. Unfolded, it shows the summary.

    Args:
        summarised: messages above it.
    """

    indent = 3
    author = "summary"

    def __init__(self, text: str, summarised: int, message: int | None = None):
        super().__init__(message)
        self.text = text
        self.summarised = summarised
        self._open = False

    @property
    def copy_text(self) -> str:
        return self.text

    @property
    def commands(self) -> Sequence[str]:
        return ["mark_copy", "mark_toggle"]

    @property
    def sources(self) -> Sequence[str]:
        return [visible(self.text)] if self._open else []

    def toggle(self) -> None:
        self._open = not self._open
        self.invalidate()

    def estimate(self, width: int) -> int:
        return estimate(self.text, width) + 3 if self._open else 3

    def _parts(self) -> Sequence[Part]:
        number = f"{self.summarised} messages" if self.summarised else "earlier messages"
        head = Content.styled(f"{'▾' if self._open else '▸'} Summarised above: {number}", ".muted")
        head = head.stylize(action("fold", self.key))
        hint = Content.styled(f"The model reads a summary of them. {BACK}.", ".muted")
        parts: list[Part] = [
            FixedPart(lambda width: wrap(head, width, "── ", "   ")),
            FixedPart(lambda width: wrap(hint, width, "   ", "   ")),
        ]
        if self._open:
            parts += plain_parts(visible(self.text), ".muted", first="   ", rest="   ")
        return parts
