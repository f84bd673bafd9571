"""A conversation: a tree of messages with one selected path.

Nothing is overwritten. An edited question is a new child of the same parent, a retried reply is a
new child of the question, and any message can be selected to continue from there. The old path
stays in the tree.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text.tool_call import rendered_calls

Role = Literal["system", "user", "assistant", "tool"]
# Begins the summary in the system message of a compacted path.
SUMMARY_HEADING = "Summary of the conversation so far:"
Shelf = Literal["pinned", "listed", "archived"]
MessageState = Literal["complete", "partial", "cancelled", "failed"]
FinishReason = Literal["stop", "length", "tool_calls", "repetition"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts, times and peak memory of one turn.

    Attributes:
        prompt_tokens: tokens of the rendered conversation.
        cached_tokens: prompt tokens that were restored from the prompt cache.
        reply_tokens: generated tokens, including the one that ended the reply.
        prefill_seconds, decode_seconds: wall-clock time before and after the first reply token.
        peak_memory: the most bytes held by MLX arrays during the turn.
        reasoning_tokens: reply tokens of thinking; None of a stored reply, since it is not stored.
    """

    prompt_tokens: int
    cached_tokens: int
    reply_tokens: int
    prefill_seconds: float
    decode_seconds: float
    peak_memory: int
    reasoning_tokens: int | None = field(default=None, compare=False)

    @property
    def prefill_rate(self) -> float:
        """Prefilled tokens per second, without the cached ones."""
        return (self.prompt_tokens - self.cached_tokens) / max(self.prefill_seconds, 1e-9)

    @property
    def seconds(self) -> float:
        """Wall-clock time of the whole turn."""
        return self.prefill_seconds + self.decode_seconds

    @property
    def decode_rate(self) -> float:
        """Reply tokens per second, without the first."""
        return max(self.reply_tokens - 1, 0) / max(self.decode_seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """Settings of the next turns. None means the model's default.

    Attributes:
        system: the system prompt.
        sampling: `temperature`, `top_p` and so on; they override the model's defaults.
        template_arguments: further variables of the model's template.
        thinking_budget: tokens of thinking after which the model is made to answer.
        repetition_guard: whether a reply that repeats itself without end is ended.
    """

    system: str | None = None
    thinking: bool | None = None
    max_tokens: int | None = None
    seed: int | None = None
    sampling: Mapping[str, float | None] = field(default_factory=dict)
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    thinking_budget: int | None = None
    repetition_guard: bool | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        id: positive and unique in the library; later messages have greater ids.
        parent: the id of the message that this one follows; None for a first message.
        tool_calls: in the form of chat templates: {"type": "function", "function": {...}}.
        state: "partial" while a reply is being written; it stays so if the process is killed.
        error: one line if the state is "failed", otherwise "".
        model: the name of the model that wrote it; "" if unknown or written by the user.
        thinking_seconds: wall-clock time of the thinking; None if there is none.
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
        """Whether it has no content, thinking or tool calls."""
        return not (self.content or self.thinking or self.tool_calls)

    @property
    def abandoned(self) -> bool:
        """Whether it is a reply that was interrupted before its first token."""
        return self.role == "assistant" and self.state != "complete" and self.empty

    @property
    def summary(self) -> str | None:
        """The summary of earlier turns that a system message holds; None without one."""
        if self.role != "system" or SUMMARY_HEADING not in self.content:
            return None
        return self.content.partition(SUMMARY_HEADING)[2].strip()

    def for_template(self) -> dict[str, Any]:
        """The message as a chat template takes it.

        Tool calls that are nested too deep to be rendered as such are part of the content.
        """
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.role == "assistant":
            message["reasoning_content"] = self.thinking
            if (text := rendered_calls(self.tool_calls)) is not None:
                message["content"] = f"{self.content}\n\n{text}".strip()
            elif self.tool_calls:
                message["tool_calls"] = list(self.tool_calls)
        return message


@dataclass(frozen=True, slots=True)
class Conversation:
    """A tree of messages and its selected path. Immutable: `with_message` and `with_leaf` copy it.

    Attributes:
        id: positive and unique in the library; never reused. 0 if it is not stored.
        messages: all messages in order of id; every parent comes before its children.
        leaf: the id of the last message of the selected path; None if no path is selected.
        settings: the settings of its next turns.
        model: the name of the model it was last used with; "" before the first use.
        draft: text that was typed but not sent.
        created, updated: seconds since 1970, UTC; `updated` is when a message last changed.
        shelf: where lists have it: "pinned" first, "archived" not at all.

    Raises:
        Qwen35Error: a message comes before its parent, or a parent or the leaf is missing.
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
    shelf: Shelf = "listed"
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
        """The message of this id.

        Raises:
            Qwen35Error: the conversation has no such message.
        """
        if message not in self._by_id:
            raise Qwen35Error(f"conversation {self.id} has no message {message}: open it again")
        return self._by_id[message]

    def path(self, to: int | None = None) -> tuple[Message, ...]:
        """The messages from the root to message `to`; by default, the selected path."""
        at = self.leaf if to is None else to
        path: list[Message] = []
        while at is not None:
            path.append(self.message(at))
            at = path[-1].parent
        return tuple(reversed(path))

    def children(self, message: int | None) -> tuple[int, ...]:
        """Ids of the replies to a message, oldest first; for None, of the first messages."""
        if message is not None:
            self.message(message)
        return tuple(self._children[message])

    def siblings(self, message: int) -> tuple[int, ...]:
        """Ids of all versions of a message, including itself, oldest first.

        A summary of earlier turns is no version of another message.
        """
        found = self.message(message)
        if found.summary is not None or len(self._children[found.parent]) == 1:
            return (message,)
        return tuple(i for i in self._children[found.parent] if self._by_id[i].summary is None)

    def position(self, message: int) -> tuple[int, int]:
        """A message's place among its versions: (2, 3) for the second of three."""
        siblings = self.siblings(message)
        return siblings.index(message) + 1, len(siblings)

    def newest_leaf(self, message: int) -> int:
        """The id of the newest message in the subtree of a message. It is always a leaf."""
        newest = message
        waiting = [message]
        while waiting:
            at = waiting.pop()
            newest = max(newest, at)
            waiting.extend(self.children(at))
        return newest

    def for_template(self, to: int | None = None) -> list[dict[str, Any]]:
        """The path to message `to` as a chat template takes it; by default, the selected path.

        The system prompt of the settings comes first, unless the path begins with a message of
        role "system". Replies that were interrupted before their first token are left out; an
        empty reply that is complete stays.
        """
        path = [message for message in self.path(to) if not message.abandoned]
        messages = [message.for_template() for message in path]
        if self.settings.system is not None and (not path or path[0].role != "system"):
            messages.insert(0, {"role": "system", "content": self.settings.system})
        return messages

    def with_message(self, message: Message) -> "Conversation":
        """A copy with the message replaced if its id exists, otherwise added and selected."""
        if message.id in self._by_id:
            messages = tuple(message if m.id == message.id else m for m in self.messages)
            return replace(self, messages=messages)
        return replace(self, messages=(*self.messages, message), leaf=message.id)

    def with_leaf(self, leaf: int | None) -> "Conversation":
        """A copy with the path to `leaf` selected."""
        return replace(self, leaf=leaf)


def reattached(
    messages: Iterable[Message], lost: Mapping[int, int | None] | None = None
) -> tuple[Message, ...]:
    """Messages with those whose parent is missing put after what came before that parent.

    Versions of one message stay versions of one message.

    Args:
        messages: in order of id.
        lost: the parents of missing messages, where they are known; each less than its message.
    """
    found: list[Message] = []
    ids: list[int] = []
    present: set[int] = set()
    lost = lost or {}
    for message in messages:
        parent = message.parent
        while parent is not None and parent not in present:
            before = bisect_left(ids, parent)
            parent = lost[parent] if parent in lost else ids[before - 1] if before else None
        found.append(message if parent == message.parent else replace(message, parent=parent))
        ids.append(message.id)
        present.add(message.id)
    return tuple(found)


def title_from(text: str, width: int = 60) -> str:
    """A title of at most `width` characters: the first line with text, cut between words."""
    line = next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
    if len(line) <= width:
        return line
    cut = line[: width - 1]
    if line[width - 1] != " " and " " in cut[width // 2 :]:
        cut = cut[: cut.rindex(" ")]
    return cut.rstrip(" ,;:.-") + "…"
