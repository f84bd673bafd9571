"""The first screen: what it says of the model, what it offers, and how it fits the terminal."""

import time
from collections.abc import Callable, Sequence

from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from qwen35_chat.controller import Controller
from qwen35_chat.progress import short_name
from qwen35_chat.screens.moments import when
from qwen35_chat.screens.picker import Row
from qwen35_chat.screens.snippets import one_line
from qwen35_chat.widgets.completions import Completions
from qwen35_chat.widgets.composer import Composer
from qwen35_chat.widgets.first_screen import WORDMARK_CELLS, Face, Starts
from qwen35_chat.widgets.transcript import TranscriptView
from qwen35_mlx import demo
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import ConversationSummary

# Each model gets questions that it answers well; the demo model was trained for these.
DEMO_STARTERS = ("What can you do?", "How do I change the model?", "Show me a formula")
STARTERS = (
    "Explain how a hash table works, with a small example",
    "Write a Python script that sorts photos into folders by date",
    "Plan a weekend in Lisbon, as a table",
)
DEMO = "a small demonstration model that came with the package"
MORE = "It knows very little: {models} finds a real one for this machine."
RECENT = 5
TIPS = (
    "{sessions} finds every conversation by any word in it",
    "@ and the name of a file attach it",
    "{retry} asks for another reply, and keeps the one before",
    "{edit} writes your last message anew, as another branch",
    "{thinking} turns the model's thinking on and off",
    "/theme shows every theme while you choose",
    "{code} copies the last block of code",
)
DAY = 86_400
LOWEST_HIGH = 12  # rows, from which the composer has a border
LOW = 16  # rows, from which there is room for more than the composer
# Rows that are always taken by the composer, the status, gaps, a tip and the program's name.
FIXED, WORDMARK_ROWS, HEADINGS = 11, 3, 3
# Rows of the composer, the status and the program's name, in a low terminal (`-low`) and others.
LEAST, LEAST_HIGH = 6, 9
NOTICE_ROWS = 8
WIDEST = 84  # cells of the column, as in app.tcss
MARGINS = 6  # cells beside a line of it


class FirstScreen:
    """Shown while the conversation has no message. What is written is in the middle of it.

    Args:
        key: returns the first keys of a command, for people.
    """

    def __init__(
        self,
        screen: Screen[None],
        controller: Controller,
        transcript: TranscriptView,
        composer: Composer,
        completions: Completions,
        key: Callable[..., str],
    ):
        self.face, self.starts = Face(), Starts()
        self.tip = Static("", id="tip", markup=False)
        self.shown = False
        for widget in (self.face, self.starts, self.tip):
            widget.display = False
        self._screen = screen
        self._controller = controller
        self._transcript = transcript
        self._composer = composer
        self._completions = completions
        self._key = key
        self._recent: Sequence[ConversationSummary] = ()

    def show(self, shown: bool) -> None:
        """Show or hide it."""
        if shown and not self.shown:
            self._screen.run_worker(self._read_recent, group="recent", exclusive=True)
        if shown != self.shown:
            self.shown = shown
            self._screen.set_class(shown, "-empty")
            self._transcript.styles.height = None
            self._transcript.display = True
            for widget in (self.face, self.starts, self.tip):
                widget.display = shown
            sends = f"{self._key('send')} sends · {self._key('newline')} new line"
            self._composer.border_subtitle = sends if shown else ""
            # The composer stays where it is, whatever is completed.
            column = self._screen.query_one("#column")
            if shown:
                column.move_child(self._completions, after=self._composer)
            else:
                column.move_child(self._completions, before=self._composer)
        if shown:
            self.update()

    async def _read_recent(self) -> None:
        controller = self._controller
        try:
            found = await controller.calls.run("reads", controller.library.list, RECENT + 1)
        except Qwen35Error:
            return  # the list of conversations says what is wrong
        others = [one for one in found if one.id != controller.conversation]
        self._recent = others[:RECENT]
        self.update()

    def update(self) -> None:
        """Bring it up to date with the model and the size of the terminal."""
        size = self._screen.size
        if not self.shown or not size.height:
            return
        width = max(min(size.width, WIDEST) - MARGINS, 1)
        about = [line for line in self._about() for line in line.wrap(width)]
        least = LEAST_HIGH if size.height >= LOWEST_HIGH else LEAST
        about = about[: max(size.height - least, 0)]  # the composer matters more
        rows = size.height - FIXED - len(about) - self._show_notices(width)
        wordmark = rows >= HEADINGS + WORDMARK_ROWS + 1 and width >= WORDMARK_CELLS
        self.face.show(about, wordmark=wordmark)
        rows -= WORDMARK_ROWS if wordmark else 0
        starts = self._starts(rows)
        self.starts.show(starts)
        self.starts.display = bool(starts)
        # Recent conversations are read later, and must not move the composer.
        spare = max(rows - HEADINGS - len(DEMO_STARTERS) - RECENT, 0)
        self.face.styles.margin = (spare // 3 + (1 if size.height >= LOW else 0), 0, 0, 0)
        tips = TIPS if size.height >= LOW else ()
        self.tip.display = bool(tips)
        if tips:
            tip = tips[int(time.time() // DAY) % len(tips)]
            self.tip.update("Tip: " + tip.format_map(_Keys(self._key)))

    def _show_notices(self, width: int) -> int:
        """Give notices above the composer the rows that they need; returns these."""
        entries = self._transcript.entries
        self._transcript.display = bool(entries)
        rows = 0
        for entry in entries:
            column = entry.column(width)
            column.lay_out_down(0, NOTICE_ROWS)
            rows += column.height
        rows = min(rows, NOTICE_ROWS)
        if entries:
            self._transcript.styles.height = rows
        return rows

    def _about(self) -> list[Content]:
        """The model, and what it can do."""
        controller = self._controller
        name = Content.styled(short_name(controller.model), "bold")
        if controller.model == demo.NAME:
            more = MORE.format(models=self._key("models"))
            return [Content.assemble(name, f" is {DEMO}."), Content.styled(more, "dim")]
        skills = [f"{controller.context:,} tokens of context"] if controller.context else []
        if "enable_thinking" in controller.template_arguments:
            skills.append("thinks before it answers")
        if controller.toolbox is not None:
            number = len(controller.toolbox.offered())
            skills.append(f"{number} {'tool' if number == 1 else 'tools'}")
        return [name, Content.styled(" · ".join(skills), "dim")]

    def _starts(self, rows: int) -> list[Row]:
        """What fits into so many rows."""
        texts = DEMO_STARTERS if self._controller.model == demo.NAME else STARTERS
        shown: list[Row] = []
        if rows > len(texts):
            shown += [_heading("Try")]
            shown += [Row(f"m{text}", Content.assemble(("→ ", "$accent"), text)) for text in texts]
        left = rows - len(shown) - 2
        if self._recent and left > 0:
            shown += [Row("", Content("")), _heading("Go on with")]
            shown += [_recent_row(found) for found in self._recent[:left]]
        return shown


class _Keys(dict[str, str]):
    """The keys of commands, by the commands' names."""

    def __init__(self, key: Callable[..., str]):
        super().__init__()
        self._key = key

    def __missing__(self, name: str) -> str:
        return self._key(name)


def _heading(text: str) -> Row:
    return Row("", Content.styled(text, "dim"))


def _recent_row(found: ConversationSummary) -> Row:
    title = one_line(found.title) or "Untitled"
    moment = Content.styled(when(found.updated, time.time()), "dim")
    return Row(f"c{found.id}", Content.assemble(("→ ", "$primary"), title), moment)
