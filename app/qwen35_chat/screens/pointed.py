"""What clicks and selections in the conversation do."""

from collections.abc import Callable

from qwen35_chat.controller import Controller
from qwen35_chat.disk_calls import Work
from qwen35_chat.handlers.versions import VersionHandler
from qwen35_chat.screens.covered import CoveredScreen
from qwen35_chat.widgets.composer import Composer
from qwen35_chat.widgets.transcript import OPENS_TEXT, TranscriptView


class PointedScreen(CoveredScreen):
    """A screen with a conversation that the mouse acts on.

    Attributes:
        transcript: the conversation.
        composer: gets the focus after a click that has acted.
        versions: goes to other versions of a message.
    """

    composer: Composer
    versions: VersionHandler

    def __init__(
        self, controller: Controller, transcript: TranscriptView, clock: Callable[[], float]
    ):
        super().__init__(controller, clock)
        self.transcript = transcript
        self._around = ""  # what is selected outside of it, which may show another text since

    def on_transcript_view_clicked(self, event: TranscriptView.Clicked) -> None:
        self.attempt(lambda: self._clicked(event))
        self.composer.focus()

    def _clicked(self, event: TranscriptView.Clicked) -> Work | None:
        if event.name == "link":
            self.app.open_url(str(event.argument))
        elif event.name == "code":
            self.copy(str(event.argument))
        elif event.name == "version" and event.entry is not None:
            return self.versions.select(int(event.argument), event.entry.message)
        return None

    def on_mouse_scroll_up(self) -> None:
        """Scroll the conversation from beside it, where nothing else scrolls."""
        self.transcript.scroll_relative(y=-self.app.scroll_sensitivity_y, animate=False)

    def on_mouse_scroll_down(self) -> None:
        self.transcript.scroll_relative(y=self.app.scroll_sensitivity_y, animate=False)

    def on_transcript_view_command(self, event: TranscriptView.Command) -> None:
        self.action_command(event.name)
        if event.name in OPENS_TEXT:
            self.perform(self._release_keys())  # after the work of the command

    async def _release_keys(self) -> None:
        self.transcript.release_keys()

    def on_transcript_view_left(self) -> None:
        self.composer.focus()

    def on_transcript_view_selected(self, event: TranscriptView.Selected) -> None:
        if event.text.strip() and self.controller.settings.copy_on_select == "on":
            self.copy(event.text)

    def on_text_selected(self) -> None:
        self._around = self.get_selected_text() or ""

    def copy(self, text: str) -> None:
        """Copy text to the clipboard."""
        self.app.copy_to_clipboard(text)

    def copy_selected(self) -> bool:
        """Copy what is selected, and clear the selection; whether something was."""
        selected = self.transcript.selecting.text or (self._around if self.selections else "")
        if selected:
            self.copy(selected)
        return self.clear_selected()

    def clear_selected(self) -> bool:
        """Select nothing; whether something was."""
        around = bool(self.selections)  # by Textual, which selects in other widgets
        self.clear_selection()
        return self.transcript.selecting.clear() or around
