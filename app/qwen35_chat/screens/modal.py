"""A screen that covers another until it is answered or left."""

from typing import TypeVar

from textual.await_complete import AwaitComplete
from textual.screen import ModalScreen

Result = TypeVar("Result")


class Modal(ModalScreen[Result]):
    """A modal screen that keys which come after its end do not disturb."""

    @property
    def left(self) -> bool:
        """It is closed, though keys, rows and answers may still come to it."""
        return self not in self.app.screen_stack

    def dismiss(self, result: Result | None = None) -> AwaitComplete:
        if self.left:  # Textual would close what is open now
            return AwaitComplete()
        if not self.is_mounted:  # its widgets are not there, and would not be found
            self.call_later(self._dismiss_now, result)
            return AwaitComplete()
        return super().dismiss(result)

    def _dismiss_now(self, result: Result | None) -> None:
        self.dismiss(result)  # not awaited, as what a callback returns would be
