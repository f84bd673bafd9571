"""A conversation's tree of messages, in memory and, for a durable one, in a library too."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from qwen35_mlx.library.conversation import (
    ChatSettings,
    Conversation,
    FinishReason,
    Message,
    Role,
    State,
    Usage,
    title_from,
)
from qwen35_mlx.library.library import Library


class Transcript:
    """What was said, and which path through it is selected.

    Every change reaches the library before it shows here. Errors are the library's.

    Args:
        library: None for a conversation that ends with the process.
        conversation: its id in the library; None for a new one, which is stored with its first
            message.
        settings: of a new conversation; a stored one has its own.

    Attributes:
        tree: the conversation now; its id is 0 as long as it is in no library.
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
        """Of the conversation in the library; None if it is not there."""
        return self.tree.id or None

    @property
    def durable(self) -> bool:
        return self._library is not None

    def add(
        self,
        parent: int | None,
        role: Role,
        content: str,
        *,
        thinking: str = "",
        tool_calls: Sequence[Mapping[str, Any]] = (),
        state: State = "complete",
        model: str = "",
    ) -> Message:
        """Add a message after `parent` and select it."""
        library = self._library
        if library is not None:
            self._store(library)
            new = library.add_message(
                self.tree.id,
                parent,
                role,
                content,
                thinking=thinking,
                tool_calls=tool_calls,
                state=state,
                model=model,
            )
        else:
            new = Message(
                id=max((m.id for m in self.tree.messages), default=0) + 1,
                parent=parent,
                role=role,
                content=content,
                thinking=thinking,
                tool_calls=tuple(tool_calls),
                state=state,
                model=model,
                created=time.time(),
            )
        self.tree = self.tree.with_message(new)
        if role == "user" and not self.tree.title:
            self.tree = replace(self.tree, title=title_from(content))
        return new

    def _store(self, library: Library) -> None:
        """Give a new conversation its place, held against other windows."""
        if not self.tree.id:
            with library.transaction():
                new = library.create(settings=self.tree.settings)
                library.claim(new)  # before another window can see it
            self.tree = replace(self.tree, id=new)

    @contextmanager
    def all_or_nothing(self) -> Generator[None]:
        """Several changes as one: after an error all is as before."""
        before = self.tree
        try:
            if self._library is None:
                yield
            else:
                with self._library.transaction():
                    yield
        except BaseException:
            if self._library is not None and self.tree.id and not before.id:
                self._library.release(self.tree.id)  # of a conversation that is not there
            self.tree = before
            raise

    def add_all(self, messages: Sequence[Message]) -> None:
        """A path of its own, from a first message on; all of it or nothing."""
        with self.all_or_nothing():
            self._add_all(messages)

    def _add_all(self, messages: Sequence[Message]) -> None:
        parent: int | None = None
        for message in messages:
            parent = self.add(
                parent,
                message.role,
                message.content,
                thinking=message.thinking,
                tool_calls=message.tool_calls,
                state=message.state,
                model=message.model,
            ).id

    def update(
        self, reply: int, message: Mapping[str, Any], thinking_seconds: float | None
    ) -> None:
        """Keep how far a reply has come, of which `message` is the whole, for templates."""
        self._replace(reply, message, state="partial", thinking_seconds=thinking_seconds)
        if self._library is not None:
            self._library.update_reply(reply, *_said(message), thinking_seconds)

    def finish(
        self,
        reply: int,
        message: Mapping[str, Any],
        *,
        state: State,
        finish_reason: FinishReason | None,
        error: str,
        usage: Usage | None,
        thinking_seconds: float | None,
    ) -> None:
        """Keep a reply as it is at its end."""
        ended: dict[str, Any] = {
            "state": state,
            "finish_reason": finish_reason,
            "error": error,
            "usage": usage,
            "thinking_seconds": thinking_seconds,
        }
        self._replace(reply, message, **ended)
        if self._library is not None:
            self._library.finish_reply(reply, *_said(message), **ended)

    def _replace(self, reply: int, message: Mapping[str, Any], **changes: Any) -> None:
        content, thinking, calls = _said(message)
        changed = replace(
            self.tree.message(reply),
            content=content,
            thinking=thinking,
            tool_calls=tuple(calls),
            **changes,
        )
        self.tree = self.tree.with_message(changed)

    def select(self, leaf: int | None) -> None:
        """Make the path to `leaf` the selected one."""
        if self._library is not None and self.tree.id:
            self._library.select(self.tree.id, leaf)
        self.tree = self.tree.with_leaf(leaf)

    def configure(self, settings: ChatSettings) -> None:
        """Change how the next turns are answered."""
        if self._library is not None and self.tree.id:
            self._library.configure(self.tree.id, settings)
        self.tree = replace(self.tree, settings=settings)

    def use_model(self, model: str) -> None:
        """Keep which model replies."""
        if self._library is not None and self.tree.id and self.tree.model != model:
            self._library.use_model(self.tree.id, model)
        self.tree = replace(self.tree, model=model)

    def close(self) -> None:
        """Let other windows write to it."""
        if self._library is not None and self.tree.id:
            self._library.release(self.tree.id)


def _said(message: Mapping[str, Any]) -> tuple[str, str, Sequence[Mapping[str, Any]]]:
    return (
        message["content"],
        message.get("reasoning_content", ""),
        message.get("tool_calls", ()),
    )
