"""A history in parts that each fit into a prompt."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen35_mlx.json_text import write_json

# Beyond its text, what a template writes around a message.
MESSAGE_TOKENS = 8


@dataclass(frozen=True, slots=True)
class CountedMessage:
    """A message as a chat template takes it, and about how many tokens of a prompt it is."""

    message: Mapping[str, Any] = field(repr=False)
    tokens: int

    @property
    def begins_turn(self) -> bool:
        return self.message["role"] == "user"


def counted(message: Mapping[str, Any], encode: Callable[[str], Sequence[int]]) -> CountedMessage:
    """A message and its tokens, without its thinking: that of earlier turns is not in a prompt."""
    return CountedMessage(message, len(encode(_whole_text(message))) + MESSAGE_TOKENS)


def _whole_text(message: Mapping[str, Any]) -> str:
    """All of a message in one text, its calls too."""
    calls = [write_json(call, separators=(", ", ": ")) for call in message.get("tool_calls") or ()]
    return "\n".join([message["content"], *calls])


class HistoryParts:
    """Messages that wait to be taken, the oldest first."""

    def __init__(self, messages: Iterable[CountedMessage]):
        self._waiting = deque(messages)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self, room: int) -> list[CountedMessage]:
        """Take the next messages, of at most `room` tokens together.

        They end with a turn, unless that is too long by itself; a message that is too long by
        itself is taken in several pieces.
        """
        part: list[CountedMessage] = []
        left = room
        while self._waiting and self._waiting[0].tokens <= left:
            part.append(self._waiting.popleft())
            left -= part[-1].tokens
        if not self._waiting:
            return part
        if not part or (self._waiting[0].tokens > room and 2 * left > room):
            return [*part, self._take_piece(left)]
        turns = [n for n, one in enumerate([*part, self._waiting[0]]) if one.begins_turn]
        whole = turns[-1] if turns else 0
        if whole:
            self.put_back(part[whole:])
            del part[whole:]
        return part

    def put_back(self, part: Sequence[CountedMessage]) -> None:
        """Let what was taken last wait again."""
        self._waiting.extendleft(reversed(part))

    def _take_piece(self, room: int) -> CountedMessage:
        """The beginning of a message that is longer than `room` tokens."""
        long = self._waiting.popleft()
        text = _whole_text(long.message)
        end = max(len(text) * room // long.tokens, 1)
        # At a line break in the second half, or else where the room ends.
        end = text.rfind("\n", end // 2, end) + 1 or end
        tokens = max(long.tokens * end // len(text), 1)
        role = long.message["role"]
        if end < len(text):
            rest = {"role": role, "content": text[end:]}
            self._waiting.appendleft(CountedMessage(rest, long.tokens - tokens))
        return CountedMessage({"role": role, "content": text[:end]}, tokens)
