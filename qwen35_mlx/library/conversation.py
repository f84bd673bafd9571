"""A conversation as a tree of messages, of which one path is selected.

Nothing is ever overwritten. Another version of a question is one more child of the same parent
(`edit`), another reply one more child of the question (`retry`), and a message in the middle can
be selected to go on from there (`branch`): the old path stays where it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from qwen35_mlx.errors import Qwen35Error

Role = Literal["system", "user", "assistant", "tool"]
MessageState = Literal["complete", "partial", "cancelled", "failed"]
FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a turn cost.

    Attributes:
        prompt_tokens: length of the rendered conversation.
        cached_tokens: how many of them needed no prefill.
        reply_tokens: generated, the token that ended the reply included.
        prefill_seconds, decode_seconds: wall-clock time up to the first token, and after it.
        peak_memory: bytes of MLX arrays at the worst moment of the turn.
    """

    prompt_tokens: int
    cached_tokens: int
    reply_tokens: int
    prefill_seconds: float
    decode_seconds: float
    peak_memory: int

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens computed per second; cached ones do not count."""
        return (self.prompt_tokens - self.cached_tokens) / max(self.prefill_seconds, 1e-9)

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first."""
        return max(self.reply_tokens - 1, 0) / max(self.decode_seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """How the next turns are answered; None leaves it to the model.

    Attributes:
        sampling: `temperature`, `top_p`, ... over the model's defaults.
    """

    system: str | None = None
    thinking: bool | None = None
    max_tokens: int | None = None
    seed: int | None = None
    sampling: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a tree.

    Attributes:
        id: positive, unique in the library; a later message has a greater one.
        parent: the message it follows; None for a first one.
        tool_calls: as chat templates take them: {"type": "function", "function": {...}}.
        state: "partial" while a reply is being written, and for good if the writer was killed.
        error: one line, if the state is "failed".
        model: that wrote it; "" if nobody knows, or no model did.
        thinking_seconds: wall-clock time of the thinking; None if there was none.
        created: seconds since 1970, UTC.
    """

    id: int
    parent: int | None
    role: Role
    content: str
    thinking: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    state: MessageState = "complete"
    finish_reason: FinishReason | None = None
    error: str = ""
    model: str = ""
    usage: Usage | None = None
    thinking_seconds: float | None = None
    created: float = 0.0

    @property
    def empty(self) -> bool:
        """Whether it says nothing at all, as a reply does that was stopped before its start."""
        return not (self.content or self.thinking or self.tool_calls)

    @property
    def abandoned(self) -> bool:
        """Whether it is a reply that did not come to say anything."""
        return self.role == "assistant" and self.state != "complete" and self.empty

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates take it: the inverse of what the recorder stores."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.role == "assistant":
            message["reasoning_content"] = self.thinking
            if self.tool_calls:
                message["tool_calls"] = list(self.tool_calls)
        return message


@dataclass(frozen=True, slots=True)
class Conversation:
    """A tree of messages and the path through it that is selected. A value: changes make copies.

    Attributes:
        id: positive, unique in the library, never used again.
        messages: all of them, by id; every parent comes before its children.
        leaf: the last message of the selected path; None where nothing is selected.
        settings: how its turns are answered.
        model: the one it was last used with; "" for none yet.
        draft: what the user has typed and not sent.
        created, updated: seconds since 1970, UTC; `updated` is when its messages last changed.

    Raises:
        Qwen35Error: a parent or the leaf is not among the messages before it.
    """

    id: int
    title: str
    messages: tuple[Message, ...] = ()
    leaf: int | None = None
    settings: ChatSettings = field(default_factory=ChatSettings)
    model: str = ""
    draft: str = ""
    created: float = 0.0
    updated: float = 0.0
    _by_id: dict[int, Message] = field(init=False, repr=False, compare=False)
    _children: dict[int | None, list[int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_id: dict[int, Message] = {}
        children: dict[int | None, list[int]] = {None: []}
        for message in self.messages:
            if message.parent not in children:
                raise Qwen35Error(
                    f"message {message.id} follows message {message.parent}, which does not come"
                    " before it: the conversation is not a tree"
                )
            by_id[message.id] = message
            children[message.parent].append(message.id)
            children[message.id] = []
        if self.leaf is not None and self.leaf not in by_id:
            raise Qwen35Error(f"message {self.leaf} is selected, but not in the conversation")
        object.__setattr__(self, "_by_id", by_id)
        object.__setattr__(self, "_children", children)

    def message(self, message: int) -> Message:
        """A message by its id.

        Raises:
            Qwen35Error: the conversation has no such message.
        """
        if message not in self._by_id:
            raise Qwen35Error(f"conversation {self.id} has no message {message}: open it again")
        return self._by_id[message]

    def path(self, to: int | None = None) -> tuple[Message, ...]:
        """The messages from a first one to `to`; without it, the selected path."""
        at = self.leaf if to is None else to
        path: list[Message] = []
        while at is not None:
            path.append(self.message(at))
            at = path[-1].parent
        return tuple(reversed(path))

    def children(self, message: int | None) -> tuple[int, ...]:
        """What follows a message, oldest first; of None: the first messages."""
        if message is not None:
            self.message(message)
        return tuple(self._children[message])

    def siblings(self, message: int) -> tuple[int, ...]:
        """The versions of a message, itself included, oldest first."""
        return tuple(self._children[self.message(message).parent])

    def position(self, message: int) -> tuple[int, int]:
        """Which version of how many a message is: (2, 3) for the second of three."""
        siblings = self.siblings(message)
        return siblings.index(message) + 1, len(siblings)

    def newest_leaf(self, message: int) -> int:
        """The newest message among a message and all that follow it; always a leaf."""
        newest = message
        waiting = [message]
        while waiting:
            at = waiting.pop()
            newest = max(newest, at)
            waiting.extend(self.children(at))
        return newest

    def for_template(self, to: int | None = None) -> list[dict[str, Any]]:
        """The path as chat templates take it.

        The system prompt of the settings comes first, unless the path begins with a message of
        role "system", which then stands in its place. Replies that were stopped before they said
        anything are left out; one that ended by itself stays, said it nothing.
        """
        path = [message for message in self.path(to) if not message.abandoned]
        messages = [message.for_template() for message in path]
        if self.settings.system is not None and (not path or path[0].role != "system"):
            messages.insert(0, {"role": "system", "content": self.settings.system})
        return messages

    def with_message(self, message: Message) -> "Conversation":
        """With one more message, selected; or with a new version of the one of that id."""
        if message.id in self._by_id:
            messages = tuple(message if m.id == message.id else m for m in self.messages)
            return replace(self, messages=messages)
        return replace(self, messages=(*self.messages, message), leaf=message.id)

    def with_leaf(self, leaf: int | None) -> "Conversation":
        """With the path to `leaf` selected."""
        return replace(self, leaf=leaf)


def title_from(text: str, width: int = 60) -> str:
    """A title of at most `width` characters: the first line that says something, cut at a word."""
    line = next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
    if len(line) <= width:
        return line
    cut = line[: width - 1]
    if line[width - 1] != " " and " " in cut[width // 2 :]:
        cut = cut[: cut.rindex(" ")]
    return cut.rstrip(" ,;:.-") + "…"
