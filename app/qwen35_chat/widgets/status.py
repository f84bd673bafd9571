"""The two lines about how it goes: above the composer the turn, below it the model."""

from textual.app import RenderResult
from textual.content import Content
from textual.widget import Widget

from qwen35_mlx.library.conversation import Usage
from qwen35_mlx.session.events import PrefillProgress

SEPARATOR = " · "
WARN_AT = 0.8  # of the context
BAR_CELLS = 16


def fitted(parts: list[str], cue: str, width: int) -> str:
    """`parts` at the left, `cue` at the right. Parts that do not fit go, the last one first."""
    shown = [part for part in parts if part]
    while len(shown) > 1 and len(SEPARATOR.join(shown)) + len(cue) + 2 > width:
        shown.pop()
    left = SEPARATOR.join(shown)
    room = max(width - len(cue) - 2, 0) if cue else width
    if len(left) > room:
        left = left[: room - 1] + "…" if room > 1 else ""
    return left + cue.rjust(width - len(left))


def clock_time(seconds: float) -> str:
    """A duration for people: 12 s, 3:05, 1:02:05."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size_of(size: float) -> str:
    """Bytes for people, in decimal units."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return (
                f"{size / scale:.1f} {unit}" if size < 100 * scale else f"{size / scale:.0f} {unit}"
            )
    return f"{size / 1e3:.0f} kB"


def bar(share: float) -> str:
    """A bar that is full to this share."""
    full = round(min(max(share, 0.0), 1.0) * BAR_CELLS)
    return "━" * full + "╌" * (BAR_CELLS - full)


def prefill_parts(progress: PrefillProgress, seconds: float) -> list[str]:
    """Reading the prompt: a bar, the time to go, and tokens done, from before and left.

    Args:
        seconds: since the first progress of this turn.
    """
    share = progress.done / max(progress.total, 1)
    computed = progress.done - progress.cached
    left = progress.total - progress.done
    parts = [f"Reading {bar(share)} {share:.0%}"]
    if left and computed > 0 and seconds > 0:
        parts.append(f"{clock_time(left * seconds / computed)} to go")
    parts.append(f"{progress.done:,} of {progress.total:,} tokens")
    if progress.cached:
        parts.append(f"{progress.cached:,} from before")
    if left:
        parts.append(f"{left:,} left")
    return parts


class Activity(Widget):
    """What the turn is doing, and the key that matters; blank while nothing runs.

    One line, but what is said to the user takes as many as it needs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._cue = ""
        self._said = ""

    def show(self, parts: list[str], cue: str = "", said: str = "") -> None:
        """`parts` at the left and `cue` at the right; or `said` instead of both."""
        if (parts, cue, said) != (self._parts, self._cue, self._said):
            layout = said != self._said
            self._parts, self._cue, self._said = parts, cue, said
            self.refresh(layout=layout)

    def render(self) -> RenderResult:
        if self._said:
            return Content(self._said)
        return Content(fitted(self._parts, self._cue, self.size.width))


class Status(Widget):
    """Model, context in use, speed, time to the first token, memory."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ""
        self.cue = ""
        self.used = 0
        self.context = 0
        self.usage: Usage | None = None
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
