"""The line between turns that were summarised and those after them."""

from collections.abc import Sequence

from textual.content import Content

from qwen35_chat.drawing.entry_parts import plain_parts
from qwen35_chat.drawing.folded_entry import FoldedEntry
from qwen35_chat.drawing.lines import action
from qwen35_chat.drawing.parts import FixedPart, Part, estimate
from qwen35_chat.drawing.wrapping import wrap
from qwen35_mlx.terminal import visible

BACK = "/compact undo goes back to the whole"


class SummaryEntry(FoldedEntry):
    """A divider: what is above is summed up for the model. Unfolded, it shows the summary.

    Args:
        summarised: messages above it.
    """

    indent = 3
    author = "summary"

    def __init__(self, text: str, summarised: int, message: int | None = None):
        super().__init__(text, message)
        self.summarised = summarised

    def estimate(self, width: int) -> int:
        return estimate(self.text, width) + 3 if self.unfolded else 3

    def _parts(self) -> Sequence[Part]:
        number = f"{self.summarised} messages" if self.summarised else "earlier messages"
        head = Content.styled(f"{self.fold_mark} Summarised above: {number}", ".muted")
        head = head.stylize(action("fold", self.key))
        hint = Content.styled(f"The model reads a summary of them. {BACK}.", ".muted")
        parts: list[Part] = [
            FixedPart(lambda width: wrap(head, width, "── ", "   ")),
            FixedPart(lambda width: wrap(hint, width, "   ", "   ")),
        ]
        if self.unfolded:
            parts += plain_parts(visible(self.text), ".muted", first="   ", rest="   ")
        return parts
