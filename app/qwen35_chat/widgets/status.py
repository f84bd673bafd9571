"""The line at the bottom."""

from textual.app import RenderResult
from textual.content import Content
from textual.widget import Widget

from qwen35_mlx.session.events import Figures

SEPARATOR = " · "


def status_line(parts: list[str], cue: str, width: int) -> str:
    """`parts` at the left, `cue` at the right. Parts that do not fit go, the last one first."""
    shown = [part for part in parts if part]
    while len(shown) > 1 and len(SEPARATOR.join(shown)) + len(cue) + 2 > width:
        shown.pop()
    left = SEPARATOR.join(shown)
    room = max(width - len(cue) - 2, 0) if cue else width
    if len(left) > room:
        left = left[: room - 1] + "…" if room > 1 else ""
    return left + cue.rjust(width - len(left))


class Status(Widget):
    """Model, context in use, speed, and what is going on."""

    def __init__(self, model: str):
        super().__init__()
        self._model = model
        self._available = 0
        self._used = 0
        self._speed = ("", "")
        self._cue = ""

    def set_cue(self, cue: str) -> None:
        """What is going on now, and which key matters."""
        if cue != self._cue:
            self._cue = cue
            self.refresh()

    def set_context(self, used: int, total: int | None = None) -> None:
        """Tokens that the conversation takes, of those that the model can take."""
        self._used = used
        self._available = total or self._available
        self.refresh()

    def set_figures(self, figures: Figures) -> None:
        """What the last turn cost."""
        self._speed = (
            f"{figures.decode_rate:.0f} tok/s" if figures.reply_tokens > 1 else "",
            f"first token {figures.prefill_seconds:.2f} s",
        )
        self.set_context(figures.prompt_tokens + figures.reply_tokens)

    def render(self) -> RenderResult:
        context = f"{self._used:,} / {self._available:,} tokens" if self._available else ""
        parts = [self._model, context, *self._speed]
        return Content(status_line(parts, self._cue, self.size.width))
