"""One conversation's tree of messages: in memory, and in a library if there is one."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message, title_from
from qwen35_mlx.library.library import Library


class Transcript:
    """The messages of one conversation and the selected path. Errors are the library's.

    Args:
        library: None for a conversation that ends with the process.
        conversation: its id in the library; None for a new one, which is stored with its first
            message.
        settings: of a new conversation; a stored one has its own.

    Attributes:
        tree: the conversation now; its id is 0 while it is in no library.
    """

    def __init__(
        self, library: Library | None, conversation: int | None, settings: ChatSettings
    ) -> None:
        self._library = library
        if library is not None and conversation is not None:
            self.tree = library.conversation(conversation)
        else:
            self.tree = Conversation(id=0, title="", settings=settings)

    @property
    def id(self) -> int | None:
        """The conversation's id in the library; None if it is not stored."""
        return self.tree.id or None

    @property
    def durable(self) -> bool:
        """Whether there is a library."""
        return self._library is not None

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
                new = library.create(settings=self.tree.settings)
                library.claim(new)  # before another window can see it
            self.tree = replace(self.tree, id=new)

    def save(self, message: Message, *, durable: bool = True) -> None:
        """Replace the message of this id, in memory even if the library fails.

        Args:
            durable: see `Library.save`.
        """
        self.tree = self.tree.with_message(message)
        if self._library is not None:
            self._library.save(message, durable=durable)

    @contextmanager
    def all_or_nothing(self) -> Generator[None]:
        """Several changes as one; an error undoes all of them."""
        before = self.tree
        try:
            if self._library is None:
                yield
            else:
                with self._library.transaction():
                    yield
        except BaseException:
            if self._library is not None and self.tree.id and not before.id:
                self._library.release(self.tree.id)  # it was rolled back
            self.tree = before
            raise

    def add_all(self, messages: Sequence[Message]) -> None:
        """Add a path that begins with a first message: all of it or nothing."""
        with self.all_or_nothing():
            parent: int | None = None
            for message in messages:
                # What a turn cost stays with the message that it belongs to.
                copy = Message(
                    id=0,
                    parent=parent,
                    role=message.role,
                    content=message.content,
                    thinking=message.thinking,
                    tool_calls=message.tool_calls,
                    state=message.state,
                    model=message.model,
                )
                parent = self.add(copy).id

    def select(self, leaf: int | None) -> None:
        """Select the path to `leaf`."""
        if self._library is not None and self.tree.id:
            self._library.select(self.tree.id, leaf)
        self.tree = self.tree.with_leaf(leaf)

    def configure(self, settings: ChatSettings) -> None:
        """Change the settings of the next turns."""
        if self._library is not None and self.tree.id:
            self._library.configure(self.tree.id, settings)
        self.tree = replace(self.tree, settings=settings)

    def use_model(self, model: str) -> None:
        """Record which model replies."""
        if self._library is not None and self.tree.id and self.tree.model != model:
            self._library.use_model(self.tree.id, model)
        self.tree = replace(self.tree, model=model)

    def close(self) -> None:
        """Let other windows write to the conversation."""
        if self._library is not None and self.tree.id:
            self._library.release(self.tree.id)
