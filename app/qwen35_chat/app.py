"""The chat on the terminal.

Knows the model only as an `Engine`: nothing here imports MLX.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Collapsible, Markdown, Static

from qwen35_chat.pace import Pace
from qwen35_chat.plain import visible
from qwen35_chat.widgets.composer import Composer
from qwen35_chat.widgets.reply import Reply
from qwen35_chat.widgets.status import Status
from qwen35_chat.widgets.transcript import Transcript
from qwen35_mlx import __version__
from qwen35_mlx.session.engine import Engine
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Done,
    Event,
    Failed,
    FinishReason,
    Loaded,
    Loading,
    PrefillProgress,
    Thinking,
    ToolCall,
)
from qwen35_mlx.session.requests import Send

# Often enough to look continuous, seldom enough to leave the interpreter to the model.
POLLS_PER_SECOND = 15
DRAWING_SHARE = 0.25
DEMO_WELCOME = (
    "This is a small demonstration model that came with the package. It shows how everything "
    "works, and knows very little. For another one, start with --model."
)
KEYS = "Enter sends, Shift+Enter or Ctrl+J begins a new line, Ctrl+Q quits."
WORK = "Esc stops"
NOTES: dict[FinishReason, str] = {
    "stop": "",
    "length": "The reply was cut short: it reached the limit of tokens.",
    "tool_calls": "The model asks for a tool; this chat has none.",
}


def merged(events: Iterable[Event]) -> Iterator[Event]:
    """The same events: neighbouring pieces of text in one, and of progress the latest."""
    for kind, neighbours in groupby(events, type):
        group = list(neighbours)
        if kind is Answer:
            yield Answer("".join(event.text for event in group if isinstance(event, Answer)))
        elif kind is Thinking:
            yield Thinking("".join(event.text for event in group if isinstance(event, Thinking)))
        elif kind in (Loading, PrefillProgress):
            yield group[-1]
        else:
            yield from group


class ChatApp(App[None]):
    """One conversation with one model.

    Args:
        engine: started here, once the first frame is drawn; closed by the caller.
        model: its name for the user.
        demo: whether it is the demonstration model.
        clock: seconds, for what is timed on the screen.
    """

    CSS_PATH = "app.tcss"
    TITLE = "qwen35-chat"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop the reply"),
        Binding("ctrl+q", "quit", "Quit", priority=True),
        # Where something is selected, the widget's own Ctrl+C copies it first.
        Binding("ctrl+c", "quit", "Quit", show=False),
        Binding("ctrl+t", "thinking", "Show or hide the thinking"),
        Binding("pageup", "page_up", "Scroll up", priority=True),
        Binding("pagedown", "page_down", "Scroll down", priority=True),
        Binding("ctrl+end", "follow", "To the end", priority=True),
    ]

    def __init__(
        self,
        engine: Engine,
        *,
        model: str,
        demo: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self._engine = engine
        self._model = model
        self._demo = demo
        self._clock = clock
        self._loaded = False
        self._dead = False  # the model could not be loaded
        self._turn: tuple[str, Static, Reply] | None = None
        self._stopping = False
        self._pace = Pace(DRAWING_SHARE)

    def compose(self) -> ComposeResult:
        with Transcript():
            welcome = f"{self.TITLE} {__version__}: {self._model}"
            if self._demo:
                welcome += f"\n{DEMO_WELCOME}"
            yield Static(visible(f"{welcome}\n{KEYS}"), markup=False, classes="welcome")
            yield Static("Loading the model", markup=False, classes="notice")
        yield Composer()
        yield Status(visible(self._model.rstrip("/").rpartition("/")[2]))

    def on_mount(self) -> None:
        self.query_one(Composer).focus()
        self._show_cue()
        self.call_after_refresh(self._engine.start)
        self.set_interval(1 / POLLS_PER_SECOND, self._drain)

    async def on_composer_sent(self, sent: Composer.Sent) -> None:
        """Send, unless a reply is being written; the text stays in the composer then."""
        if self._turn is not None or self._dead:
            self.bell()
            return
        composer = self.query_one(Composer)
        composer.clear()
        line, reply = await self.query_one(Transcript).add_turn(sent.text, self._clock)
        reply.note("" if self._loaded else "Waiting for the model")
        self._turn = (sent.text, line, reply)
        self._engine.ask(Send(sent.text))
        self._show_cue()

    async def _drain(self) -> None:
        if self._stopping:
            # Again: a turn that had not begun when it was first told has not heard it.
            self._engine.cancel()
        if not self._pace.due():
            return
        for event in merged(self._engine.poll()):
            await self._take(event)

    async def _take(self, event: Event) -> None:
        match event:
            case Loading(what, fraction):
                share = "" if fraction is None else f": {fraction:.0%}"
                self._notice(f"Loading {what}{share}")
                self._show_cue(f"loading{share}")
            case Loaded(_, context):
                self._loaded = True
                self._notice("")
                self.query_one(Status).set_context(0, context)
                self._show_cue()
            case Failed(message) if not self._loaded:
                self._dead = True
                self._notice(f"The model could not be loaded. {message}", error=True)
                await self._take_back("")
                self._show_cue()
            case _ if self._turn is not None:
                await self._take_turn(event, self._turn[2])
            case _:
                pass

    async def _take_turn(self, event: Event, reply: Reply) -> None:
        match event:
            case PrefillProgress():
                reply.progress(event)
                self.query_one(Status).set_context(event.total)
                self._show_cue("reading")
            case Thinking(text):
                reply.think(text)
                self._show_cue("thinking")
            case Answer(text):
                reply.say(text)
                self._show_cue("writing")
            case ToolCall(name, arguments):
                reply.call(name, arguments)
            case Done(reason, figures):
                await reply.finish(NOTES[reason])
                self.query_one(Status).set_figures(figures)
                self._end_turn()
            case Cancelled() if reply.said_nothing:
                await self._take_back("")
            case Cancelled():
                await reply.finish("Stopped.")
                self._end_turn()
            case Failed(message):
                await self._fail(message, reply)
            case _:
                pass

    async def _fail(self, message: str, reply: Reply) -> None:
        """A turn has failed. If nothing was said, the model's conversation lacks the message."""
        if reply.said_nothing:
            await self._take_back(message)
        else:
            await reply.finish(message, error=True)
            self._end_turn()

    async def _take_back(self, message: str) -> None:
        """Out of the conversation and back into the composer with what was sent."""
        if self._turn is None:
            return
        text, line, reply = self._turn
        self.query_one(Composer).put_back(text)
        await line.remove()
        await reply.remove()
        if message:
            await self.query_one(Transcript).add_text(message, "notice error")
        self._end_turn()

    def _end_turn(self) -> None:
        self._turn = None
        self._stopping = False
        self._show_cue()

    def _notice(self, text: str, *, error: bool = False) -> None:
        """The line below the welcome."""
        line = self.query(".notice").first(Static)
        line.update(visible(text))
        line.set_class(error, "error")
        line.display = bool(text)

    def _show_cue(self, doing: str = "") -> None:
        if self._dead:
            cue = "Ctrl+Q quits"
        elif self._stopping:
            cue = "stopping"
        elif self._turn is not None:
            cue = f"{doing or 'waiting'}, {WORK}"
        else:
            cue = "" if self._loaded else doing or "loading"
        self.query_one(Status).set_cue(cue)

    def action_stop(self) -> None:
        if self._turn is not None:
            self._stopping = True
            self._engine.cancel()
            self._show_cue()

    def action_thinking(self) -> None:
        if replies := self.query(Reply):
            replies.last().toggle_thinking()

    def action_page_up(self) -> None:
        self.query_one(Transcript).scroll_page_up(animate=False)

    def action_page_down(self) -> None:
        self.query_one(Transcript).scroll_page_down(animate=False)

    def action_follow(self) -> None:
        self.query_one(Transcript).follow()

    def on_collapsible_toggled(self, _: Collapsible.Toggled) -> None:
        # Else what is typed next would be lost on the title.
        self.query_one(Composer).focus()

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        # The model chose the address: a page may be opened, a file or a program may not.
        if event.href.startswith(("https://", "http://")):
            self.open_url(event.href)
