"""The lines around the composer: the turn above it, the model and the context below it."""

import re
from collections.abc import Sequence

from textual.app import RenderResult
from textual.content import Content
from textual.widget import Widget

from qwen35_chat.progress import bar_cells, short_name, size_of
from qwen35_chat.widgets.key_hints import with_keys
from qwen35_chat.widgets.segments import EXTRA, Segment, line_of, segment
from qwen35_mlx.library.conversation import Usage
from qwen35_mlx.session.events import DraftCounts

GAUGE_CELLS = 8
# From which share of the context on the gauge has which colour.
GAUGE_STYLES = ((0.9, "bold $text-error"), (0.75, "$text-warning"), (0.0, "$text-secondary"))
SHORT_NAME = 10  # cells
KEY_RANKS = (3, 6, 7)  # of the most useful keys; others are extras
DRAFT_GAIN = 1.05  # times as fast, from which on drafts are shown; /stats has them all
_SIZE = re.compile(r"\d+(\.\d+)?B(-A\d+(\.\d+)?B)?")  # in a model's name: 9B, 35B-A3B


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
        ranked = [segment(part, rank=n) for n, part in enumerate(filter(None, self._parts), 1)]
        cue = [Segment((with_keys(self._cue),), 0, right=True)] if self._cue else []
        progress = line_of([*ranked, *cue], self.size.width)
        return Content("\n").join([message, progress]) if self._message else progress


class Status(Widget):
    """Model, context in use, modes, speed, drafts, memory, and keys.

    Attributes:
        model: its name.
        named: whether to show it.
        state: what is the matter with the model, "" if nothing is: it is being loaded, say.
        mode: of the composer; "" if it has none.
        modes: how it is made to reply, where that is not as usual; each in full and in short.
        keys: to know now, the most useful one last.
        used, context: tokens.
        usage, accepted: of the last turn; drafts are shown if they have made it faster.
        live_rate: tokens a second of the reply that is being written; 0 without one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = ""
        self.named = True
        self.state = ""
        self.mode = ""
        self.modes: Sequence[tuple[str, str]] = ()
        self.keys: Sequence[str] = ()
        self.used = 0
        self.context = 0
        self.usage: Usage | None = None
        self.accepted: DraftCounts | None = None
        self.live_rate = 0

    def update(self, **values: object) -> None:
        """Set any of the attributes."""
        changed = {name: value for name, value in values.items() if getattr(self, name) != value}
        for name, value in changed.items():
            setattr(self, name, value)
        if changed:
            self.refresh()

    @property
    def segments(self) -> list[Segment]:
        """All that there is to say."""
        found: list[Segment] = []
        if self.named:
            found.append(segment(*name_forms(self.model), rank=1, style="$text-accent"))
        if self.mode:
            found.insert(0, segment(f" {self.mode} ", rank=0, style="$text-accent on $panel"))
        if self.context:
            found.append(self._gauge())
        for n, forms in enumerate(self.modes):
            chips = (f" {form} " for form in forms)
            found.append(segment(*chips, rank=5 if n else 2, style="$text-primary on $panel"))
        if self.live_rate:
            rate = f"~{self.live_rate}"
            found.append(segment(f"{rate} tok/s", f"{rate} t/s", rank=4))
        elif self.usage and self.usage.reply_tokens > 1:
            rate = f"{self.usage.decode_rate:.0f}"
            found.append(segment(f"{rate} tok/s", f"{rate} t/s", rank=4))
        if self.accepted and (self.accepted.speedup or 0) >= DRAFT_GAIN:
            found.append(segment(*draft_forms(self.accepted), rank=8))
        if self.usage:
            memory = size_of(self.usage.peak_memory)
            found.append(segment(f"memory {memory}", memory, rank=8))
            first = f"{self.usage.prefill_seconds:.2f} s"
            found.append(segment(f"first token {first}", f"first {first}", rank=EXTRA))
        if self.state:
            shorter = self.state.partition(",")[0]
            found.append(segment(self.state, shorter, rank=0, style="$text-warning", right=True))
        elif self.keys:
            ranks = (*KEY_RANKS, *(EXTRA + n for n in range(len(self.keys))))
            keys = zip(reversed(self.keys), ranks, strict=False)
            found += [Segment((with_keys(key),), rank, right=True) for key, rank in keys][::-1]
        return found

    def _gauge(self) -> Segment:
        """How much of the context is in use, by its colour as well."""
        share = self.used / self.context
        style = next(style for least, style in GAUGE_STYLES if share >= least)
        percent = Content.styled(f"{share:.0%}", style)
        full = bar_cells(share, GAUGE_CELLS)
        gauge = Content.styled("━" * full, style)
        gauge += "╌" * (GAUGE_CELLS - full)
        return Segment(
            (
                Content.assemble(gauge, f" {self.used:,} / {self.context:,} (", percent, ")"),
                Content.assemble(gauge, " ", percent, f" of {self.context:,}"),
                Content.assemble(gauge, " ", percent),
                percent,
            ),
            rank=0,
        )

    def render(self) -> RenderResult:
        return line_of(self.segments, self.size.width)


def name_forms(model: str) -> tuple[str, ...]:
    """A model's name, in full and ever shorter; what tells it from others stays."""
    name = short_name(model).removesuffix(".gguf")
    size = _SIZE.search(name)
    if size is None:
        return name, middle_cut(name, SHORT_NAME)
    own = name[size.start() :]
    return name, middle_cut(own, 2 * SHORT_NAME), size.group()


def middle_cut(name: str, cells: int) -> str:
    """`name` in at most `cells` characters, without its middle."""
    if len(name) <= cells:
        return name
    end = (cells - 1) // 2
    return f"{name[: cells - 1 - end]}…{name[-end:]}"


def draft_forms(counts: DraftCounts) -> tuple[str, ...]:
    """What came of drafts, in full and ever shorter."""
    accepted, drafted = counts.accepted / counts.passes, counts.drafted / counts.passes
    speed = "" if counts.speedup is None else f", {counts.speedup:.1f}x"
    few = f"{accepted:.1f}/{drafted:.1f} drafts"
    return (
        f"{accepted:.1f} of {drafted:.1f} drafts{speed}",
        f"{few}{speed}",
        f"{accepted:.1f} drafts",
    )
