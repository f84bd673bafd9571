"""What every part of the chat screen needs: its widgets, its lines, its keys."""

from collections.abc import Callable

from textual.screen import Screen
from textual.widgets import Static

from qwen35_chat.commands import in_scope, keys_of, parse_slash, run_command
from qwen35_chat.controller import Controller
from qwen35_chat.drawing.entries import ThinkingView
from qwen35_chat.keys import shown_keys
from qwen35_chat.plain import visible
from qwen35_chat.widgets.completions import Completions
from qwen35_chat.widgets.composer import Composer
from qwen35_chat.widgets.status import Activity, Status
from qwen35_chat.widgets.transcript import TranscriptView

SAYING_SECONDS = 6.0


class ChatBase(Screen[None]):
    """The widgets, and the lines about how it goes.

    Attributes:
        hello: what Enter sends while nothing is typed; "" for nothing.
        editing: the message that the composer holds another version of.
        aside: what was in the composer before that.
        loading_cue: how far the model is.
        mark_next: the message to mark once another path is there.
    """

    # A low terminal has no room to spare around the composer.
    VERTICAL_BREAKPOINTS = [(0, "-low"), (12, "-high")]  # noqa: RUF012

    def __init__(self, controller: Controller, clock: Callable[[], float]):
        super().__init__()
        self.controller = controller
        self.clock = clock
        self.transcript = TranscriptView()
        self.queue_line = Static("", id="queue", markup=False)
        self.completions = Completions()
        self.activity = Activity()
        self.composer = Composer(self.completions, self.complete)
        self.status = Status()
        self.hello = ""
        self.editing: int | None = None
        self.aside = ""
        self.mark_next: int | None = None
        self.loading_cue = "loading"
        self._saying: tuple[str, bool, float] | None = None

    @property
    def view_now(self) -> ThinkingView:
        """How thinking is shown."""
        return self.controller.settings.thinking_view  # pyright: ignore[reportReturnType]

    def turn_parts(self) -> list[str]:
        """What the turn is doing."""
        raise NotImplementedError

    def complete(self) -> None:
        """List what may follow what is typed."""
        raise NotImplementedError

    def save_draft(self) -> None:
        """Keep what is typed."""
        raise NotImplementedError

    def settings_changed(self) -> None:
        """Show the settings that hold now."""
        raise NotImplementedError

    def live_rate(self) -> float:
        """Tokens a second, about; 0 if no reply is being written."""
        raise NotImplementedError

    def say(self, text: str, *, error: bool = False) -> None:
        """One line for the user, for some seconds."""
        self._saying = (visible(text), error, self.clock() + SAYING_SECONDS)
        self.show_cue()

    def show_cue(self) -> None:
        """The lines about how it goes, as they are now."""
        if self._saying and self.clock() >= self._saying[2]:
            self._saying = None
        if self._saying:
            text, error, _ = self._saying
            self.activity.set_class(error, "error")
            self.activity.show([], said=text)
        else:
            self.activity.set_class(False, "error")
            if self.controller.stopping:
                self.activity.show(["Stopping"])
            elif self.controller.busy:
                self.activity.show(self.turn_parts(), f"{self.key('stop')} stops")
            elif self.editing is not None:
                self.activity.show(["Another version of your message"], "Enter sends, Esc leaves")
            else:
                self.activity.show([])
        self.status.update(
            used=self.controller.used,
            usage=self.controller.usage,
            live_rate=self.live_rate(),
            cue=self._cue(),
        )

    def _cue(self) -> str:
        if self.controller.failed:
            return f"no model, {self.key('models')} chooses one"
        if self.loading_cue:
            return self.loading_cue
        if (download := self.controller.download) is not None and download.running:
            return f"downloading {short_name(download.name)} {download.fraction:.0%}"
        if self.controller.read_only:
            return "read only"
        settings = self.controller.settings
        thinking = {"on": "thinking on", "off": "thinking off"}.get(settings.thinking, "")
        preset = "" if settings.preset == "model" else settings.preset
        shown = ", ".join(part for part in (preset, thinking) if part)
        return shown or f"{self.key('help')} help"

    def key(self, name: str, most: int = 1) -> str:
        """The first keys of a command, for people."""
        command = next(command for command in in_scope("chat") if command.name == name)
        keys = shown_keys(keys_of(command, self.controller.settings.keys)).split(", ")
        return " or ".join(keys[:most]) or (f"/{command.slash}" if command.slash else command.title)

    async def action_command(self, name: str) -> None:
        await run_command(name, self)

    def slash(self, text: str) -> bool:
        """Run a slash command, if `text` is one. Errors: `parse_slash`."""
        parsed = parse_slash(text)
        if parsed is None:
            return False
        command, argument = parsed
        self.call_later(run_command, command.name, self, argument)
        return True

    def show_queue(self) -> None:
        """The messages that wait, above the composer."""
        waiting = [f"Next: {' '.join(visible(text).split())}" for text in self.controller.queue]
        self.queue_line.update("\n".join(waiting))
        self.queue_line.display = bool(waiting)


def short_name(model: str) -> str:
    """A model's name without its folder or owner."""
    return visible(model.rstrip("/").rpartition("/")[2])
