"""What is typed and not sent, on its way into the library."""

from threading import Lock

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import Library


class Drafts:
    """The drafts of one window.

    `note` takes the newest text, at once; `write` stores what was noted, and may wait. Texts that
    are noted while a write waits replace each other, so that an old one never overwrites a newer
    one. All methods may be called from any thread, but `write` from one only.
    """

    def __init__(self, library: Library):
        self._library = library
        self._lock = Lock()
        self._noted: dict[int | None, str] = {}  # by conversation, until it is stored
        self._reported = ""  # the last error, which is raised once

    @property
    def waiting(self) -> bool:
        """Something is not stored yet."""
        return bool(self._noted)

    def note(self, conversation: int | None, text: str) -> None:
        """Take the draft of a conversation; None stands for one without a message."""
        with self._lock:
            self._noted.pop(conversation, None)
            self._noted[conversation] = text

    def forget(self, conversation: int) -> None:
        """Leave out what was noted for a conversation that is deleted."""
        with self._lock:
            self._noted.pop(conversation, None)

    def read(self, conversation: int | None) -> str:
        """The draft of a conversation, also if it is not stored yet. It may wait."""
        with self._lock:
            noted = self._noted.get(conversation)
        return self._library.draft(conversation) if noted is None else noted

    def write(self) -> None:
        """Store what was noted.

        Raises:
            Qwen35Error: a draft cannot be stored; the next `write` tries again. An error that
                stays the same is raised only once.
        """
        failure = ""
        with self._lock:
            conversations = list(self._noted)
        for conversation in conversations:
            text = self._noted.get(conversation)
            if text is None:
                continue
            try:
                self._library.save_draft(conversation, text)
            except Qwen35Error as error:
                failure = str(error)
                continue
            with self._lock:
                if self._noted.get(conversation) == text:
                    del self._noted[conversation]
        reported, self._reported = self._reported, failure
        if failure and failure != reported:
            raise Qwen35Error(failure)
