"""One reply of the model: how it comes in, and how it stays."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Collapsible, Markdown, Static

from qwen35_chat.plain import visible
from qwen35_mlx.session.events import PrefillProgress

# A paragraph is laid out again with every piece it gets; beyond this it is left as it is.
LIVE_CHARACTERS = 1500


def line_breaks_kept() -> MarkdownIt:
    """A Markdown parser for replies: a model that begins a new line means it."""
    parser = MarkdownIt("gfm-like")
    parser.core.ruler.push("line_breaks", _harden)
    return parser


def _harden(state: StateCore) -> None:
    for token in state.tokens:
        for child in token.children or []:
            if child.type == "softbreak":
                child.type = "hardbreak"


class StreamText(Vertical):
    """Plain text that grows. A piece costs the layout of the last lines only."""

    def __init__(self) -> None:
        super().__init__()
        self._live = ""

    def compose(self) -> ComposeResult:
        yield Static(markup=False)

    def append(self, text: str) -> None:
        self._live += visible(text)
        last = self.query(Static).last()
        end = self._live.rfind("\n") if len(self._live) > LIVE_CHARACTERS else -1
        if end < 0:
            last.update(self._live)
            return
        last.update(self._live[:end])
        self._live = self._live[end + 1 :]
        self.mount(Static(self._live, markup=False))


class Reply(Vertical):
    """Thinking, folded away; the answer; and one line about how it goes.

    While it grows the answer is plain text: Markdown would be laid out again with every piece.
    """

    def __init__(self, clock: Callable[[], float]):
        super().__init__()
        self._clock = clock
        self._thinking_since: float | None = None
        self._thinking_ended = False
        self.answer = ""

    @property
    def said_nothing(self) -> bool:
        return self._thinking_since is None and not self.answer

    def compose(self) -> ComposeResult:
        thoughts = Collapsible(StreamText(), title="Thinking")
        thoughts.display = False
        yield thoughts
        answer = StreamText()
        answer.display = False
        yield answer
        yield Static(classes="note", markup=False)

    def note(self, text: str, *, error: bool = False) -> None:
        """The line about how it goes; empty text removes it."""
        line = self.query_one(".note", Static)
        line.update(visible(text))
        line.set_class(error, "error")
        line.display = bool(text)

    def progress(self, event: PrefillProgress) -> None:
        cached = f", {event.cached:,} of them from before" if event.cached else ""
        self.note(f"Reading: {event.done:,} of {event.total:,} tokens{cached}")

    def think(self, text: str) -> None:
        thoughts = self.query_one(Collapsible)
        if self._thinking_since is None:
            text = text.lstrip()
            if not text:
                return
            self._thinking_since = self._clock()
            thoughts.display = True
            self.note("")
        thoughts.query_one(StreamText).append(text)

    def say(self, text: str) -> None:
        if not self.answer:
            text = text.lstrip("\n")
            if not text:
                return
            self._end_thinking()
            self.note("")
        self.answer += text
        stream = self.query_one("Reply > StreamText", StreamText)
        stream.display = True
        stream.append(text)

    def call(self, name: str, arguments: Mapping[str, Any]) -> None:
        """A call that the model asks for. Nothing runs it here."""
        shown = json.dumps(dict(arguments), ensure_ascii=False)
        self.say(f"\n\n`{name}({shown})`\n\n")

    async def finish(self, note: str = "", *, error: bool = False) -> None:
        """Nothing more will come: the answer as Markdown, and a last word about it."""
        self._end_thinking()
        if self.answer:
            stream = self.query_one("Reply > StreamText", StreamText)
            with self.app.batch_update():
                rendered = Markdown(
                    visible(self.answer), parser_factory=line_breaks_kept, open_links=False
                )
                await self.mount(rendered, after=stream)
                await stream.remove()
        self.note(note, error=error)

    def toggle_thinking(self) -> None:
        thoughts = self.query_one(Collapsible)
        thoughts.collapsed = not thoughts.collapsed

    def _end_thinking(self) -> None:
        if self._thinking_since is not None and not self._thinking_ended:
            self._thinking_ended = True
            seconds = self._clock() - self._thinking_since
            self.query_one(Collapsible).title = f"Thought for {seconds:.1f} s"
