"""A conversation in use: its tree in memory, written through to a library if there is one."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message, title_from
from qwen35_mlx.library.library import Library


class Transcript:
    """One conversation, kept equal in memory and in the library.

    Args:
        library: None for a conversation in memory only.
        conversation: the id in the library; None for a new conversation, which is stored with its
            first message.
        settings: the settings of a new conversation; ignored for a stored one.
        title: of a new conversation; "" for one from its first question.

    Attributes:
        tree: the current conversation; its id is 0 until it is stored.
        read_only: another window has claimed it. If none has, this one does, until `close`.

    Raises:
        Qwen35Error: from every method: see `Library`.
    """

    def __init__(
        self,
        library: Library | None,
        conversation: int | None,
        settings: ChatSettings,
        title: str = "",
    ) -> None:
        if conversation is not None and library is None:
            raise Qwen35Error(f"conversation {conversation} is in a library: give that, too")
        self._library = library
        self._kept_states: set[str] = set()
        self.read_only = False
        if library is None or conversation is None:
            self.tree = Conversation(id=0, title=title, settings=settings)
            return
        # Claimed before it is read: another window may have finished a turn of it just now.
        self.read_only = not library.claim(conversation)
        try:
            self.tree = library.conversation(conversation)
        except BaseException:
            if not self.read_only:
                library.release(conversation)
            raise

    @property
    def id(self) -> int | None:
        """The conversation's id in the library; None if it is not stored."""
        return self.tree.id or None

    @property
    def has_library(self) -> bool:
        """Whether messages are stored in a library."""
        return self._library is not None

    def check_writable(self) -> None:
        """Refuse a conversation that cannot be changed here.

        Raises:
            Qwen35Error: it is read-only, or the library is.
        """
        if self._library is not None and self._library.read_only:
            raise Qwen35Error(
                f"{self._library.file} cannot be written: make room, or set QWEN35_HOME"
            )
        if self.read_only:
            raise Qwen35Error(
                "this conversation is open in another window: close it there, or start a new one"
            )

    def add(self, message: Message) -> Message:
        """Add a message after its parent and select it.

        Returns:
            the message with its id and time.
        """
        library = self._library
        if library is not None:
            self._store(library)
            new = library.add_message(self.tree.id, message)
        else:
            last = max((m.id for m in self.tree.messages), default=0)
            new = replace(message, id=last + 1, created=time.time())
        self.tree = self.tree.with_message(new)
        if new.role == "user" and not self.tree.title:
            self.tree = replace(self.tree, title=title_from(new.content))
        return new

    def _store(self, library: Library) -> None:
        """Create a new conversation in the library, claimed for this window."""
        if not self.tree.id:
            with library.transaction():
                new = library.create(title=self.tree.title, settings=self.tree.settings)
                library.claim(new)  # before other windows can see it
            self.tree = replace(self.tree, id=new)

    def save(self, message: Message, *, durable: bool = True) -> None:
        """Update a message. In memory it is updated even if the library raises an error.

        Args:
            durable: see `Library.save`. Such a message is saved later if the library raises an
                error now.
        """
        self.tree = self.tree.with_message(message)
        if self._library is None:
            return
        try:
            self._library.save(message, durable=durable)
        except Qwen35Error:
            if durable:
                self._library.save_later(message)
            raise

    def keep_states(self, files: Sequence[str]) -> None:
        """Note which files of model states hold tokens of this conversation.

        An error is ignored: the states are then deleted with the next conversation that is.
        """
        new = [file for file in files if file not in self._kept_states]
        if self._library is not None and self.tree.id and new:
            with suppress(Qwen35Error):
                self._library.keep_states(self.tree.id, new)
                self._kept_states.update(new)

    def notices(self) -> list[str]:
        """Lines of the library for the user."""
        return [] if self._library is None else self._library.notices()

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Several changes as one; an exception undoes all of them."""
        before = self.tree
        try:
            if self._library is None:
                yield
            else:
                with self._library.transaction():
                    yield
        except BaseException:
            if self._library is not None and self.tree.id and not before.id:
                self._library.release(self.tree.id)  # its row was rolled back
            self.tree = before
            raise

    def add_all(self, messages: Sequence[Message]) -> None:
        """Add copies of messages as a new path from the root, all of them or none."""
        with self.transaction():
            parent: int | None = None
            for message in messages:
                # Without the usage, which counts only for the original.
                copy = Message(
                    id=0,
                    parent=parent,
                    role=message.role,
                    content=message.content,
                    thinking=message.thinking,
                    tool_calls=message.tool_calls,
                    state=message.state,
                    model=message.model,
                    thinking_seconds=message.thinking_seconds,
                )
                parent = self.add(copy).id

    def select(self, leaf: int | None) -> None:
        """Select the path to `leaf`; of a conversation that is read-only, in memory alone."""
        if self._library is not None and self.tree.id and not self.read_only:
            self._library.select(self.tree.id, leaf)
        self.tree = self.tree.with_leaf(leaf)

    def configure(self, settings: ChatSettings) -> None:
        """Change the settings of the next turns."""
        if self._library is not None and self.tree.id:
            self._library.configure(self.tree.id, settings)
        self.tree = replace(self.tree, settings=settings)

    def use_model(self, model: str) -> None:
        """Store the name of the model that is used now."""
        if self._library is not None and self.tree.id and self.tree.model != model:
            self._library.use_model(self.tree.id, model)
        self.tree = replace(self.tree, model=model)

    def close(self) -> None:
        """Give up the claim on the conversation."""
        if self._library is not None and self.tree.id and not self.read_only:
            self._library.release(self.tree.id)
