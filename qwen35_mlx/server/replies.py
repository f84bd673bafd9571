"""What the interfaces share in writing replies: frames of a stream, ids, JSON."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qwen35_mlx.server.errors import ApiError
from qwen35_mlx.session.events import Done, PrefillProgress
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.text.reply import Answer, ReplyEvent, Thinking

# Some clients take these for the end of a line. JSON has them in strings only.
_BREAKS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event.

    Attributes:
        data: JSON, or a text such as "[DONE]".
        event: its name; "" for none.
    """

    data: Mapping[str, Any] | str
    event: str = ""

    def encode(self) -> bytes:
        data = self.data if isinstance(self.data, str) else to_json(self.data).translate(_BREAKS)
        name = f"event: {self.event}\n" if self.event else ""
        return f"{name}data: {data}\n\n".encode()


def comment(text: str) -> bytes:
    """A line of a stream that clients skip. It keeps the connection in use."""
    return f": {' '.join(text.split())}\n\n".encode()


class ReplyWriter(Protocol):
    """One reply in the form of an interface: as a stream of frames, or whole."""

    def start(self, prompt: PrefillProgress | None) -> list[Frame]:
        """The first frames. `prompt` has the number of its tokens, if that is known."""
        ...

    def add(self, event: ReplyEvent) -> list[Frame]: ...

    def end(self, done: Done) -> list[Frame]: ...

    def fail(self, error: ApiError) -> list[Frame]:
        """The last frames of a stream that has begun and cannot go on."""
        ...

    def whole(self, events: Sequence[ReplyEvent], done: Done) -> dict[str, Any]:
        """The reply as one object. Neighbours among the events are of different kinds."""
        ...


@dataclass(frozen=True, slots=True)
class ClientCall:
    """What a client wants: read from its JSON.

    Attributes:
        request: for the engine.
        stream: whether the reply is a stream.
        model: that the client names; None for any.
        user: who asks, if the client says so.
        writer: makes the writer of the reply, from the name of the model and a time in seconds.
    """

    request: ReplyRequest
    stream: bool
    model: str | None
    user: str | None
    writer: Callable[[str, int], ReplyWriter]


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of the server: how it reads requests and writes errors."""

    read: Callable[[Mapping[str, Any]], ClientCall]
    error: Callable[[ApiError], dict[str, Any]]


def new_id(prefix: str) -> str:
    """A new id: a prefix, such as "call_", and 24 digits."""
    return f"{prefix}{secrets.token_hex(12)}"


def to_json(value: Any) -> str:
    """Compact JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def arguments_json(arguments: Mapping[str, Any]) -> str:
    """The arguments of a call as clients take them: JSON in a string."""
    return json.dumps(dict(arguments), ensure_ascii=False)


def stripped(events: Sequence[ReplyEvent]) -> list[ReplyEvent]:
    """The events of a whole reply without whitespace at the ends of texts; none is blank."""
    found: list[ReplyEvent] = []
    for event in events:
        if isinstance(event, Answer | Thinking):
            if text := event.text.strip():
                found.append(type(event)(text))
        else:
            found.append(event)
    return found


def reasoning_tokens(done: Done) -> int:
    """Tokens of the thinking, which count as tokens of the reply, too."""
    return done.usage.reasoning_tokens or 0
