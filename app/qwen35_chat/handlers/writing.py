"""What the user writes: sending it, editing earlier messages, the history, pastes."""

from pathlib import Path

from qwen35_chat.attachments import Attachments, attached, taken_apart
from qwen35_chat.controller import Controller
from qwen35_chat.editor import edited
from qwen35_chat.file_groups import names_file
from qwen35_chat.file_question import ask_about, may_need_question
from qwen35_chat.graphemes import cut
from qwen35_chat.handlers.shell import ShellHandler
from qwen35_chat.handlers.view import ScreenView
from qwen35_chat.mentions import AT_SIGNS, mentions
from qwen35_chat.slash import parse_slash
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Message
from qwen35_mlx.terminal import visible

QUOTED_CELLS = 24  # of a message that is written anew
MOST_LOOKED_AT = 200  # characters of it


class WritingHandler:
    """Commands about the text in the composer.

    Attributes:
        greeting: what Enter sends while nothing is typed; "" for nothing.
        editing: the message that the composer has another version of, or the reply of which it has
            another start; None for a new message.
        branch_after: the reply that a new message is to follow beside `editing`; None for none.
        unsent: messages that wait for their files to be read.
        draft_before_edit: what was in the composer before that, its pastes as chips.
    """

    def __init__(self, controller: Controller, view: ScreenView, greeting: str = ""):
        self._controller = controller
        self._view = view
        self.greeting = greeting
        self.editing: Message | None = None
        self.branch_after: Message | None = None
        self.draft_before_edit = ""
        self.unsent: list[str] = []
        self._shell = ShellHandler(controller, view)

    @property
    def draft(self) -> str:
        """All that is typed and not sent, to be stored."""
        composer = self._view.composer
        parts = [*self.unsent, *map(composer.stored, (composer.text, self.draft_before_edit))]
        return "\n\n".join(part for part in parts if part)

    def send(self) -> None:
        """Send the text, queue it during a turn, or run it if it is a slash command."""
        composer, controller = self._view.composer, self._controller
        text = composer.text.strip() and composer.whole
        if not text:
            if not self.greeting or controller.busy:
                return
            text = self.greeting
        if self.editing is None and (parsed := parse_slash(text)) is not None:
            self._view.run_later(*parsed)
            composer.clear()
            return
        if self.editing is None and self._shell.take(composer.text):
            return
        if controller.failed:
            key = self._view.key("models")
            raise Qwen35Error(f"There is no model to answer: {key} chooses one")
        amends = self.editing is not None and self.editing.role == "assistant"
        if amends or (not any(sign in text for sign in AT_SIGNS) and not self.unsent):
            self._deliver(text, self.editing)
            self._end_edit()
            composer.suggest("")
            if not amends:
                controller.remember(text)
        else:
            editing, typed = self.editing, composer.text
            self._end_edit()
            composer.suggest("")
            self.unsent.append(text)
            self._view.perform_send(self._send_with_files(text, typed, editing))
            self._view.show_queue()
        self._view.save_draft()

    def send_first(self, text: str) -> None:
        """Send a text of the command line; what is typed already stays."""
        composer, typed = self._view.composer, self._view.composer.text
        composer.set_text(text)
        try:
            self.send()
        finally:
            if typed:
                composer.set_text(f"{composer.text}\n{typed}" if composer.text else typed)

    def _deliver(self, text: str, editing: Message | None) -> None:
        """Send a text, or queue it during a turn.

        Args:
            editing: the message that it replaces; None for a new one.
        """
        controller = self._controller
        if editing is not None and editing.role == "assistant":
            self._view.show(controller.amend(editing, text))
        elif editing is not None:
            self._view.show(controller.edit(editing.id, text))
        elif controller.busy:
            controller.enqueue(text)
            self._view.show_queue()
        else:
            self._view.show(controller.send(text))

    async def _send_with_files(self, text: str, typed: str, editing: Message | None) -> None:
        """Send a text with the files that it names; an error puts it back.

        Args:
            typed: the text as it was in the composer, pastes by their short names.
        """
        try:
            calls = self._controller.calls
            found = await calls.run("files", attached, text, Path(), typed or text)
            if not await self._agreed(found, editing):
                self._put_back(typed or text, editing)
                return
            self._deliver(found.text, editing)
            self._controller.remember(text)
            if found.note:
                self._view.show_message(found.note)
        except Qwen35Error:
            self._put_back(typed or text, editing)
            raise
        finally:
            self.unsent.remove(text)
            self._view.show_queue()
            self._view.save_draft()

    async def _agreed(self, found: Attachments, editing: Message | None) -> bool:
        """Whether the user wants to send the files, where there is a question about them."""
        controller = self._controller
        if not may_need_question(found, controller.context):
            return True
        room = controller.room(edit=editing is not None)
        question = await controller.calls.run(
            "models", ask_about, found, controller.tokens, room, controller.context
        )
        return question is None or await self._view.confirm(question)

    def _put_back(self, text: str, editing: Message | None) -> None:
        composer = self._view.composer
        if editing is None or self.editing is not None:
            composer.put_back(text)
            return
        self.draft_before_edit, self.editing = composer.text, editing
        composer.set_text(text)

    def new_line(self) -> None:
        self._view.composer.insert("\n")

    def clear(self) -> bool:
        """Leave the edit, or else put what is typed into the history; whether there was either."""
        if self.editing is not None:
            self._end_edit()
            return True
        if not self._view.composer.text:
            return False
        if (whole := self._view.composer.whole).strip():
            self._controller.remember(whole)
        self._view.composer.set_text("")
        return True

    def stop(self) -> None:
        """Stop the turn; without one, leave the edit."""
        if self._controller.busy:
            self._controller.stop()
        else:
            self.leave_edit()

    # Another version of a message

    def send_edit(self, message: Message, text: str) -> None:
        """Send `text` as another version of a message."""
        if self.editing is None:
            self.draft_before_edit = self._view.composer.text
        self.editing, self.branch_after = message, None
        self._view.composer.set_text(text)
        self.send()

    @property
    def edit_line(self) -> tuple[list[str], str]:
        """What is written in place of a new message at the end, and what sending it does.

        For people; the parts are empty for a new message.
        """
        if self.editing is None:
            return [], ""
        if self.branch_after is not None:
            after = f"A branch after {_beginning(self.branch_after)}"
            return [after, "what followed stays"], "sends"
        if self.editing.role == "assistant":
            return ["The reply as it should begin"], "goes on from it"
        return [f"Another version of {_beginning(self.editing)}", "that one stays"], "sends"

    def begin_edit(self, message: Message, text: str, after: Message | None = None) -> None:
        """Offer a message or a reply in the composer, to be written anew.

        Args:
            after: as `branch_after`.
        """
        self._controller.require_idle()
        composer = self._view.composer
        if self.editing is None:
            self.draft_before_edit = composer.text
        self.editing, self.branch_after = message, after
        written, files = (text, []) if message.role == "assistant" else taken_apart(text)
        # Files are attached again by their names; a file without its name stays in the text.
        names = [name for mention in mentions(written) for name in mention.names]
        named = all(any(names_file(name, file.name) for name in names) for file in files)
        composer.set_text(written if named else text)
        composer.focus()

    def leave_edit(self) -> None:
        if self.editing is not None:
            self._end_edit()

    def _end_edit(self) -> None:
        self.editing = self.branch_after = None
        self._view.composer.set_text(self.draft_before_edit)
        self.draft_before_edit = ""

    # Other ways to write

    def open_editor(self) -> None:
        """Write the text in the user's own editor."""
        with self._view.terminal_released():
            text = edited(self._view.composer.whole)
        self._view.composer.set_text(text)

    def expand_paste(self) -> None:
        composer = self._view.composer
        if composer.whole == composer.text:
            raise Qwen35Error("there is no paste to expand")
        whole = composer.whole
        composer.set_text(whole)
        if composer.text != whole:
            raise Qwen35Error("this text is too long for the screen: open it with /editor")

    def search_history(self) -> None:
        self._view.list_history(list(self._controller.history.texts), self._view.composer.put_back)

    def step_history(self, direction: int) -> None:
        """Go to the message before (-1) or after (1); a queued one comes back first."""
        composer, controller = self._view.composer, self._controller
        if direction < 0 and controller.queue and not composer.text:
            composer.set_text(controller.queue.pop())
            self._view.show_queue()
            return
        if (text := controller.history.step(direction, composer.text)) is not None:
            composer.set_text(text)
            composer.browsing = controller.history.browsing


def _beginning(message: Message) -> str:
    """The first words of a message, quoted."""
    text = " ".join(taken_apart(message.content)[0][:MOST_LOOKED_AT].split())
    return f"“{cut(visible(text), QUOTED_CELLS)}”"
