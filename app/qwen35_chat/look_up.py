"""What the library has on an event of the engine."""

from dataclasses import dataclass
from pathlib import Path

from qwen35_chat.personas import Persona, read_personas
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import Event, Opened, TurnStarted


@dataclass(frozen=True, slots=True)
class Found:
    """What was found.

    Attributes:
        stored: the conversation; None for a new one.
        user_version, reply_version: which of how many versions the messages of a turn are.
        persona: that has the system prompt of a conversation that was opened; None for none.
        thinking_seconds: of a reply that has ended; None if it had no thinking.
        error: why something was not found; "" if all was.
    """

    stored: Conversation | None = None
    user_version: tuple[int, int] = (1, 1)
    reply_version: tuple[int, int] = (1, 1)
    persona: Persona | None = None
    thinking_seconds: float | None = None
    error: str = ""


def look_up(
    library: Library, event: Event, conversation: int | None, personas: Path | None
) -> Found:
    """What the library has on an event.

    Args:
        conversation: the one that the event is about; None for a new one.
        personas: their folder; None for none.
    """
    try:
        if isinstance(event, TurnStarted):
            versions = library.position(event.user), library.position(event.reply)
            return Found(user_version=versions[0], reply_version=versions[1])
        stored = event.stored if isinstance(event, Opened) else None
        if stored is None and conversation is not None:
            stored = library.conversation(conversation)
        system = stored.settings.system if stored and isinstance(event, Opened) else None
        if not system or personas is None:
            return Found(stored)
        return Found(stored, persona=read_personas(personas).with_system(system))
    except Qwen35Error as error:
        # An empty conversation is shown, since None would stand for a new one.
        opened = isinstance(event, Opened) and conversation
        return Found(Conversation(opened, "") if opened else None, error=str(error))


def look_up_thinking(library: Library, reply: int) -> Found:
    """How long the thinking of a reply took, as it is shown from now on; nothing if that fails."""
    try:
        return Found(thinking_seconds=library.message(reply).thinking_seconds)
    except Qwen35Error:
        return Found()
