"""OpenAI's `/v1/responses`: events to its JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from qwen35_mlx.server.errors import ApiError
from qwen35_mlx.server.replies import (
    Frame,
    arguments_json,
    new_id,
    reasoning_tokens,
    stripped,
)
from qwen35_mlx.session.events import Done, PrefillProgress
from qwen35_mlx.text.reply import Answer, ReplyEvent, Thinking, ToolCall


@dataclass(frozen=True, slots=True)
class Echo:
    """The fields of a request that its response repeats."""

    instructions: str | None
    max_output_tokens: int | None
    metadata: Mapping[str, Any]
    parallel_tool_calls: bool
    temperature: Any
    top_p: Any
    text: Mapping[str, Any]
    reasoning: Mapping[str, Any]
    tool_choice: Any
    tools: Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class ResponseWriter:
    """A reply as a response: reasoning items, messages and function calls, in their order.

    Thinking is `reasoning_text`, the content of a reasoning item; there is no summary.
    """

    model: str
    created: int
    echo: Echo
    id: str = field(default_factory=lambda: new_id("resp_"))
    _sequence: int = 0
    _items: list[dict[str, Any]] = field(default_factory=list)
    _open: type[Answer | Thinking] | None = None  # the kind of the last item, while it grows
    _pieces: list[str] = field(default_factory=list)  # of its text

    def start(self, prompt: PrefillProgress | None) -> list[Frame]:
        response = self._response("in_progress")
        return [
            self._frame("response.created", response=response),
            self._frame("response.in_progress", response=response),
        ]

    def add(self, event: ReplyEvent) -> list[Frame]:
        if isinstance(event, ToolCall):
            return [*self._close("completed"), *self._add_call(event)]
        frames = []
        if self._open is not type(event):
            frames = [*self._close("completed"), *self._begin(event)]
        self._pieces.append(event.text)
        if isinstance(event, Thinking):
            return [*frames, self._part("response.reasoning_text.delta", delta=event.text)]
        delta = self._part("response.output_text.delta", delta=event.text, logprobs=[])
        return [*frames, delta]

    def end(self, done: Done) -> list[Frame]:
        status = _status(done)
        frames = self._close(status)
        response = self._response(status, done)
        return [*frames, self._frame(f"response.{status}", response=response)]

    def fail(self, error: ApiError) -> list[Frame]:
        code = error.code or ("invalid_prompt" if error.status < 500 else "server_error")
        response = self._response("failed") | {"error": {"code": code, "message": str(error)}}
        return [self._frame("response.failed", response=response)]

    def whole(self, events: Sequence[ReplyEvent], done: Done) -> dict[str, Any]:
        for event in stripped(events):
            self.add(event)
        self._close(_status(done))
        return self._response(_status(done), done)

    def _begin(self, event: Answer | Thinking) -> list[Frame]:
        """A new item with one empty part."""
        item = _reasoning() if isinstance(event, Thinking) else _message()
        self._items.append(item)
        self._open, self._pieces = type(event), []
        added = self._frame("response.output_item.added", output_index=self._last, item=dict(item))
        part = _text_part(type(event), "")
        return [added, self._part("response.content_part.added", part=part)]

    def _close(self, status: str) -> list[Frame]:
        """The end of the open item. The last one of a reply that is cut is incomplete."""
        if self._open is None:
            return []
        text, part = "".join(self._pieces), _text_part(self._open, "".join(self._pieces))
        item = self._items[-1]
        item |= {"content": [part], "status": status}
        if self._open is Thinking:
            done = self._part("response.reasoning_text.done", text=text)
        else:
            done = self._part("response.output_text.done", text=text, logprobs=[])
        frames = [
            done,
            self._part("response.content_part.done", part=part),
            self._frame("response.output_item.done", output_index=self._last, item=item),
        ]
        self._open = None
        return frames

    def _add_call(self, call: ToolCall) -> list[Frame]:
        arguments = arguments_json(call.arguments)
        item = {
            "type": "function_call",
            "id": new_id("fc_"),
            "call_id": new_id("call_"),
            "name": call.name,
            "arguments": arguments,
            "status": "completed",
        }
        self._items.append(item)
        where = {"output_index": self._last, "item_id": item["id"]}
        begun = item | {"arguments": "", "status": "in_progress"}
        kind = "response.function_call_arguments"
        return [
            self._frame("response.output_item.added", output_index=self._last, item=begun),
            self._frame(f"{kind}.delta", **where, delta=arguments),
            self._frame(f"{kind}.done", **where, name=call.name, arguments=arguments),
            self._frame("response.output_item.done", output_index=self._last, item=item),
        ]

    @property
    def _last(self) -> int:
        """The index of the last item."""
        return len(self._items) - 1

    def _part(self, kind: str, **values: Any) -> Frame:
        """A frame about the only part of the last item."""
        item_id = self._items[-1]["id"]
        return self._frame(
            kind, item_id=item_id, output_index=self._last, content_index=0, **values
        )

    def _frame(self, kind: str, **values: Any) -> Frame:
        self._sequence += 1
        return Frame({"type": kind, "sequence_number": self._sequence - 1, **values}, kind)

    def _response(self, status: str, done: Done | None = None) -> dict[str, Any]:
        cut = status == "incomplete"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.model,
            "output": list(self._items),
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": None if done is None else usage(done),
            "previous_response_id": None,
            "store": False,
            "background": False,
            "truncation": "disabled",
            **asdict(self.echo),
        }


def _status(done: Done) -> str:
    return "completed" if done.finish_reason in ("stop", "tool_calls") else "incomplete"


def _reasoning() -> dict[str, Any]:
    return {
        "type": "reasoning",
        "id": new_id("rs_"),
        "summary": [],
        "content": [],
        "encrypted_content": None,
        "status": "in_progress",
    }


def _message() -> dict[str, Any]:
    return {
        "type": "message",
        "id": new_id("msg_"),
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }


def _text_part(kind: type[Answer | Thinking], text: str) -> dict[str, Any]:
    if kind is Thinking:
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def usage(done: Done) -> dict[str, Any]:
    """The numbers of tokens."""
    counted = done.usage
    return {
        "input_tokens": counted.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counted.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counted.reply_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens(done)},
        "total_tokens": counted.prompt_tokens + counted.reply_tokens,
    }
