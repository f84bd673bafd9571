"""Messages that could not be stored, such as a reply that met a full disk."""

import threading
from contextlib import suppress
from typing import Protocol

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Message

RETRY_SECONDS = 2.0


class Store(Protocol):
    """What stores them: the library."""

    def save(self, message: Message, *, durable: bool = True) -> None: ...

    def has_message(self, message: int) -> bool: ...


class UnsavedMessages:
    """Keeps messages and saves them again until that succeeds, in a thread of its own.

    The thread runs only while there are messages. The store drops a message that it has saved.
    """

    def __init__(self, store: Store):
        self._store = store
        self._messages: dict[int, Message] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, message: Message) -> None:
        """Keep a message, in place of an earlier state of it."""
        with self._lock:
            self._messages[message.id] = message
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._retry, name="unsaved", daemon=True)
                self._thread.start()

    def drop(self, message: int) -> bool:
        """Forget a message, because it is stored or deleted; False if it is not here."""
        with self._lock:
            return self._messages.pop(message, None) is not None

    def close(self) -> None:
        """Try a last time.

        Raises:
            Qwen35Error: a message still cannot be stored.
        """
        self._closed.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
        for message in self._waiting():
            try:
                self._save(message)
            except Qwen35Error as error:
                raise Qwen35Error(
                    f"the end of a reply (message {message.id}) could not be stored and is lost:"
                    f" {error}"
                ) from None

    def _waiting(self) -> list[Message]:
        with self._lock:
            return list(self._messages.values())

    def _retry(self) -> None:
        while not self._closed.wait(RETRY_SECONDS):
            for message in self._waiting():
                with suppress(Qwen35Error):
                    self._save(message)
            with self._lock:
                if not self._messages:
                    self._thread = None
                    return

    def _save(self, message: Message) -> None:
        """Save a message, or forget it if it was deleted."""
        if self._store.has_message(message.id):
            self._store.save(message)
        else:
            self.drop(message.id)
