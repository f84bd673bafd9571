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
        # Textual would close what is open now.
        return AwaitComplete() if self.left else super().dismiss(result)
