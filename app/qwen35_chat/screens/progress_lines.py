"""The lines around the composer, as they follow from the controller."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textual.widgets import Static

from qwen35_chat.attachments import as_typed
from qwen35_chat.controller import Controller
from qwen35_chat.progress import model_state, modes, turn_parts
from qwen35_chat.running_turn import RunningTurn
from qwen35_chat.widgets.status import Activity, Status
from qwen35_mlx.terminal import visible

MESSAGE_SECONDS = 6.0  # for which a message to the user stays
WAIT_SECONDS = 1.0  # from which a wait for the library is shown
# Commands whose keys the status line names, and what these do; the last is the most useful one.
KEYS = (
    ("palette", "commands"),
    ("new", "new"),
    ("sessions", "conversations"),
    ("help", "help"),
)
WAITING = "Waiting for another window or the disk to save …"
WENT_THROUGH = "What waited is saved"


@dataclass(frozen=True, slots=True)
class Note:
    """A message to the user.

    Attributes:
        until: seconds on the clock at which it ends.
        turn, typed: that it is about; it ends with them. None for none.
    """

    text: str
    error: bool
    until: float
    turn: RunningTurn | None
    typed: str | None

    def holds(self, now: float, turn: RunningTurn | None, typed: str) -> bool:
        """Whether it is still to be shown."""
        return now < self.until and self.turn in (None, turn) and self.typed in (None, typed)


class ProgressLines:
    """What waits, what the turn is doing, a message to the user, and the status.

    Args:
        key: returns the first key of a command, for people.
        clock: seconds, the same clock as the controller's.
    """

    def __init__(
        self, controller: Controller, key: Callable[[str], str], clock: Callable[[], float]
    ):
        self.queue = Static("", id="queue", markup=False)
        self.activity = Activity()
        self.status = Status()
        self._controller = controller
        self._key = key
        self._clock = clock
        self._message: Note | None = None
        self._failures_before: int | None = None  # the wait that is shown; None for none

    def show_message(self, text: str, *, error: bool = False, typed: str | None = None) -> None:
        """Show one line to the user, for some seconds. An error during a turn ends with that.

        Args:
            typed: the text that it is about; it ends with that. None for no text.
        """
        until = self._clock() + MESSAGE_SECONDS
        turn = self._controller.turn if error else None
        self._message = Note(visible(text), error, until, turn, typed)

    def show_queue(self, unsent: Sequence[str]) -> None:
        """Show the messages that wait, those with files to be read last."""
        texts = [*self._controller.queue, *unsent]
        waiting = [f"Next: {' '.join(visible(as_typed(text)).split())}" for text in texts]
        self.queue.update("\n".join(waiting))
        self.queue.display = bool(waiting)

    def update(self, typed: str, *, editing: tuple[list[str], str], mode: str = "") -> None:
        """Bring the turn and the status up to date.

        Args:
            typed: the text in the composer.
            editing: as `WritingHandler.edit_line`.
            mode: of the composer; "" if it has none.
        """
        controller = self._controller
        turn = controller.turn
        note = self._message
        if note is not None and not note.holds(self._clock(), turn, typed):
            note = self._message = None
        waiting = self._watch_library()
        text, error = (note.text, note.error) if note else (waiting, False)
        self.activity.show(*self._doing(turn, editing), text, error=error)
        self.status.update(
            used=controller.used,
            usage=controller.usage,
            accepted=controller.accepted,
            live_rate=round(turn.rate()) if turn is not None else 0,
            state=model_state(controller, self._key),
            mode=mode,
            modes=modes(controller),
            keys=[f"{self._key(name)} {title}" for name, title in KEYS],
        )

    def _doing(
        self, turn: RunningTurn | None, editing: tuple[list[str], str]
    ) -> tuple[list[str], str]:
        """What goes on, and the keys that matter."""
        if turn is not None and turn.stopping:
            return ["Stopping"], ""
        if turn is not None:
            parts = turn_parts(turn, self._clock(), loaded=self._controller.loaded)
            return parts, f"{self._key('stop')} stops"
        parts, sends = editing
        return parts, f"{self._key('send')} {sends}, {self._key('stop')} leaves" if parts else ""

    def _watch_library(self) -> str:
        """The line about a wait for the library, "" without one; its end is a message."""
        calls = self._controller.calls
        if calls.library_seconds >= WAIT_SECONDS:
            if self._failures_before is None:
                self._failures_before = calls.library_failures
            return WAITING
        before, self._failures_before = self._failures_before, None
        if before is not None and before == calls.library_failures:
            self.show_message(WENT_THROUGH)
        return ""
