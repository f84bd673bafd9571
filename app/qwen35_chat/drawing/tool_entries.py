"""The result of a tool, as an entry of the transcript."""

from collections.abc import Sequence

from textual.content import Content

from qwen35_chat.drawing.entry_parts import plain_parts
from qwen35_chat.drawing.folded_entry import FoldedEntry
from qwen35_chat.drawing.lines import action
from qwen35_chat.drawing.parts import FixedPart, Part, estimate
from qwen35_chat.drawing.wrapping import wrap
from qwen35_chat.progress import short_duration
from qwen35_chat.tools.calls import ERROR
from qwen35_mlx.terminal import visible, visible_line

SHOWN_NAME = 80  # characters of a tool's name
SHOWN_ERROR = 200  # characters of an error in the head


class ToolEntry(FoldedEntry):
    """What a tool has answered: one line, unfolded on request. An error shows its first line.

    Args:
        name: as the model called the tool; "" if that is not known.
        seconds: that it took; None if that is not known, or it was not run.
    """

    author = "tool"

    def __init__(
        self, name: str, text: str, *, seconds: float | None = None, message: int | None = None
    ):
        super().__init__(text, message)
        self.name = name
        self._seconds = seconds

    def estimate(self, width: int) -> int:
        return estimate(self.text, width) + 2 if self.unfolded else 2

    def _parts(self) -> Sequence[Part]:
        failed = self.text.startswith(ERROR)
        head = Content.styled(f"{self.fold_mark} {self._head(failed)}")
        head = head.stylize(".error" if failed else ".muted").stylize(action("fold", self.key))
        parts: list[Part] = [FixedPart(lambda width: wrap(head, width, "", "  "))]
        if self.unfolded:
            parts += plain_parts(visible(self.text), ".muted", first="  ", rest="  ")
        return parts

    def _head(self, failed: bool) -> str:
        name = visible_line(self.name[:SHOWN_NAME]) or "a tool"
        if failed:
            first = self.text.removeprefix(ERROR).strip().partition("\n")[0]
            return f"{name}: {visible_line(first[:SHOWN_ERROR])}"
        lines = self.text.count("\n") + 1
        shown = f"{lines:,} lines" if lines > 1 else f"{len(self.text):,} characters"
        took = "" if self._seconds is None else f" in {short_duration(self._seconds)}"
        return f"Result of {name}{took}: {shown}"
