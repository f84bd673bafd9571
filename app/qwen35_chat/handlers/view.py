"""What command handlers need of a view.

Methods that take a callback may return before it is called. What it returns is run as the rest of
the command.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qwen35_chat.commands import Command
from qwen35_chat.disk_calls import Work
from qwen35_chat.personas import Personas
from qwen35_chat.question import Question
from qwen35_chat.shell_command import Output
from qwen35_chat.stats import Section
from qwen35_chat.tools.toolbox import Toolbox
from qwen35_chat.transitions import Transition
from qwen35_mlx.library.conversation import Message

if TYPE_CHECKING:
    from qwen35_chat.drawing.entries import TranscriptEntry  # plain mode starts without Textual


class ChatView(Protocol):
    """The chat, on the screen or in plain mode."""

    @property
    def marked_message(self) -> int | None:
        """The message that commands act on; None for the last."""
        ...

    def show(self, transition: Transition) -> None:
        """Render a transition."""
        ...

    def show_message(self, text: str, *, error: bool = False) -> None:
        """Show one line to the user."""
        ...

    def offer_edit(self, message: Message) -> None:
        """Let the user write another version of this message, or of the start of this reply."""
        ...

    def send_edit(self, message: Message, text: str) -> None:
        """Send `text` as another version of this message, or of the start of this reply."""
        ...

    def list_conversations(self, words: str, then: Callable[[int, int | None], Work]) -> None:
        """List the conversations that contain `words`.

        Args:
            then: called with the chosen conversation, and the message to show or None.
        """
        ...

    def list_models(self, then: Callable[[str], None]) -> None:
        """List models; `then` gets the chosen one's name."""
        ...

    def list_settings(self, change: Callable[[str, str], Work]) -> None:
        """List the settings; `change` gets the name of one and its new value."""
        ...

    def list_personas(self, folder: Path, personas: Personas, then: Callable[[str], Work]) -> None:
        """List personas.

        Args:
            folder: where their files are.
            then: gets the chosen one's name, or `NO_PERSONA`.
        """
        ...

    def show_stats(self, sections: Sequence[Section]) -> None:
        """Show figures."""
        ...

    def list_tools(self, toolbox: Toolbox) -> None:
        """List servers and tools."""
        ...

    def ask_title(self, title: str, then: Callable[[str], Work]) -> None:
        """Get a title in place of `title`; an empty one stands for an automatic title."""
        ...


class ComposerView(Protocol):
    """Where the user writes."""

    text: str
    browsing: bool
    typed: bool  # key by key, all of it

    @property
    def whole(self) -> str:
        """The text with its pastes in full."""
        ...

    def stored(self, text: str) -> str:
        """A text that was in here, with its pastes, for a draft."""
        ...

    def set_text(self, text: str) -> None: ...

    def suggest(self, text: str) -> None:
        """Show, while nothing is typed, what Enter sends; "" for the usual hint."""
        ...

    def put_back(self, text: str) -> None:
        """Put a text before what is there."""
        ...

    def put_output(self, text: str) -> None:
        """Put the output of a command in place of what is there."""
        ...

    def insert(self, text: str) -> object: ...

    def clear(self) -> object: ...

    def focus(self) -> object: ...


class MessagesView(Protocol):
    """The messages of the conversation, one of which may be marked."""

    @property
    def entries(self) -> "Sequence[TranscriptEntry]": ...

    @property
    def marked(self) -> "TranscriptEntry | None": ...

    def mark(self, step: int) -> None: ...

    def toggle(self, entry: "TranscriptEntry") -> None: ...

    def forget_layout(self) -> None: ...

    def scroll_page(self, direction: int) -> None: ...

    def follow(self) -> None: ...

    def focus(self) -> object: ...


class ScreenView(ChatView, Protocol):
    """The chat on the screen."""

    @property
    def composer(self) -> ComposerView: ...

    @property
    def transcript(self) -> MessagesView: ...

    def key(self, name: str, most: int = 1) -> str:
        """The first keys of a command, for people."""
        ...

    def run_later(self, command: Command, argument: str) -> None:
        """Run a command after the event that is being handled."""
        ...

    def save_draft(self) -> None: ...

    def perform_send(self, work: Work) -> None:
        """Send a message that has to wait, after those that wait already."""
        ...

    def show_queue(self) -> None:
        """Show the messages that wait."""
        ...

    def run_shell(self, command: str, then: Callable[[Output], None]) -> None:
        """Run a command of the shell; `then` gets its output if the user wants to add it."""
        ...

    def list_history(self, texts: Sequence[str], then: Callable[[str], None]) -> None:
        """List messages sent before; `then` gets the chosen one."""
        ...

    def list_themes(self, then: Callable[[str], Work]) -> None:
        """List the themes, and show each while it is marked; `then` gets the chosen one."""
        ...

    async def confirm(self, question: Question) -> bool:
        """Ask the user; whether the answer is yes."""
        ...

    def ask(self, title: str, value: str, then: Callable[[str], Work]) -> None:
        """Ask for a line of text."""
        ...

    def copy(self, text: str) -> None:
        """Copy text to the clipboard."""
        ...

    def terminal_released(self) -> AbstractContextManager[None]:
        """Leave the terminal to another program for a while."""
        ...
