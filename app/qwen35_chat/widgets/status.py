"""The lines around the composer: the turn above it, the model and the context below it."""

from textual.app import RenderResult
from textual.content import Content
from textual.widget import Widget

from qwen35_chat.progress import size_of
from qwen35_mlx.library.conversation import Usage
from qwen35_mlx.session.events import DraftCounts

SEPARATOR = " · "
WARN_AT = 0.8  # of the context, from which it is highlighted


def fitted(parts: list[str], cue: str, width: int) -> str:
    """One line of `width` cells: `parts` at the left, `cue` at the right.

    Parts that do not fit are left out, the last one first.
    """
    shown = [part for part in parts if part]
    while len(shown) > 1 and len(SEPARATOR.join(shown)) + len(cue) + 2 > width:
        shown.pop()
    left = SEPARATOR.join(shown)
    room = max(width - len(cue) - 2, 0) if cue else width
    if len(left) > room:
        left = left[: room - 1] + "…" if room > 1 else ""
    return left + cue.rjust(width - len(left))


class Activity(Widget):
    """What the turn is doing, and the key that matters; blank without a turn.

    This is one line. A message to the user stands above it, in as many lines as it needs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._cue = ""
        self._message = ""
        self._error = False

    def show(
        self, parts: list[str], cue: str = "", message: str = "", *, error: bool = False
    ) -> None:
        """Show `parts` at the left and `cue` at the right, below `message`."""
        before = self._parts, self._cue, self._message, self._error
        if (parts, cue, message, error) != before:
            layout = message != self._message or bool(parts) != bool(self._parts)
            self._parts, self._cue, self._message, self._error = parts, cue, message, error
            self.refresh(layout=layout)

    def render(self) -> RenderResult:
        message = Content.styled(self._message, "$text-error" if self._error else "")
        if self._message and not self._parts:
            return message
        progress = Content(fitted(self._parts, self._cue, self.size.width))
        return Content("\n").join([message, progress]) if self._message else progress


class Status(Widget):
    """Model, context in use, speed, time to the first token, memory."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ""
        self.cue = ""
        self.used = 0
        self.context = 0
        self.usage: Usage | None = None
        self.accepted: DraftCounts | None = None
        self.live_rate = 0.0

    def update(self, **values: object) -> None:
        """Set any of the attributes."""
        changed = {name: value for name, value in values.items() if getattr(self, name) != value}
        for name, value in changed.items():
            setattr(self, name, value)
        if changed:
            self.refresh()

    @property
    def parts(self) -> list[str]:
        parts = [self.model, self._gauge()]
        if self.live_rate:
            parts.append(f"~{self.live_rate:.0f} tok/s")
        elif self.usage and self.usage.reply_tokens > 1:
            parts.append(f"{self.usage.decode_rate:.0f} tok/s")
        if self.usage:
            parts.append(f"first token {self.usage.prefill_seconds:.2f} s")
            parts.append(size_of(self.usage.peak_memory))
        if self.accepted:
            parts.append(str(self.accepted))
        return parts

    def _gauge(self) -> str:
        if not self.context:
            return ""
        share = self.used / self.context
        return f"{self.used:,} / {self.context:,} ({share:.0%})"

    @property
    def nearly_full(self) -> bool:
        return bool(self.context) and self.used >= WARN_AT * self.context

    def render(self) -> RenderResult:
        line = fitted(self.parts, self.cue, self.size.width)
        content = Content(line)
        gauge = self._gauge()
        if self.nearly_full and gauge and (at := line.find(gauge)) >= 0:
            content = content.stylize("$text-warning bold", at, at + len(gauge))
        return content
