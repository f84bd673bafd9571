"""Anthropic's `/v1/messages`: its JSON to a request, events to its JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen35_mlx.errors import shown
from qwen35_mlx.server import history
from qwen35_mlx.server.chat_completions import function_choice
from qwen35_mlx.server.errors import ApiError, anthropic_error
from qwen35_mlx.server.fields import SESSION, RequestFields, shared_options
from qwen35_mlx.server.replies import (
    ClientCall,
    Frame,
    Interface,
    new_id,
    reasoning_tokens,
    stripped,
    to_json,
)
from qwen35_mlx.session.events import Done, PrefillProgress
from qwen35_mlx.session.reply_options import EFFORT
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.text.reply import Answer, ReplyEvent, Thinking, ToolCall

# Clients send thinking back as it is. Nothing is concluded from it, so that nothing is signed.
SIGNATURE = "unsigned"
_UNSUPPORTED = ("mcp_servers", "container", "compaction")


def read(values: Mapping[str, Any]) -> ClientCall:
    """The call in a request.

    Raises:
        ApiError: a field does not fit, or asks for what the server does not have.
    """
    fields = RequestFields(values)
    fields.refuse(_UNSUPPORTED)
    if fields.get("thread"):
        # Of a thread, clients send the newest messages only; this code makes them send all.
        line = "thread is not supported, since messages are not kept: send all of them"
        raise ApiError(line, code="thread_unsupported_request", param="thread")
    session = fields.text(SESSION) or None
    messages = history.in_call_order(_messages(fields), session=session is not None)
    options = shared_options(fields)
    options |= _thinking_options(fields, options)
    if (limit := fields.limit("max_tokens")) is not None:
        options["max_tokens"] = limit
    if stop := fields.texts("stop_sequences"):
        options["stop"] = stop
    wanted = fields.section("output_config")
    options |= _format_option(fields.section("output_format"))  # its name while it was in beta
    options |= _format_option(wanted.section("format")) | _effort_option(wanted.text("effort"))
    options |= _tool_options(fields)
    return ClientCall(
        ReplyRequest(messages=messages, options=options, session=session),
        stream=bool(fields.flag("stream")),
        model=fields.text("model"),
        user=fields.section("metadata").text("user_id"),
        writer=MessageWriter,
    )


def _messages(fields: RequestFields) -> list[dict[str, Any]]:
    sent = fields.sections("messages")
    if not sent:
        raise fields.error("messages", "is empty: give at least one message")
    if sent[-1].get("role") == "assistant":
        raise sent[-1].error(
            "role", "is assistant: a reply cannot be continued; end with a user message"
        )
    messages: list[dict[str, Any]] = []
    if system := history.paragraphs_of(fields, "system"):
        messages.append({"role": "system", "content": system})
    for one in sent:
        role = one.required_text("role")
        if role == "assistant":
            messages.append(_assistant(one))
        elif role == "user":
            messages += _user(one)
        elif role == "system":
            messages.append({"role": role, "content": history.paragraphs_of(one, "content")})
        else:
            raise one.error("role", f"is {shown(role)}: give user or assistant")
    return messages


def _blocks(fields: RequestFields) -> list[RequestFields]:
    """The blocks of a message; a string is one block of text."""
    content = fields.get("content")
    if isinstance(content, str):
        return [RequestFields({"type": "text", "text": content}, fields.where("content"))]
    if content is None:
        raise fields.error("content", "is missing: give a string or a list of blocks")
    return fields.sections("content")


def _user(fields: RequestFields) -> list[dict[str, Any]]:
    """A user message: results of tools first, which the model sees as messages of their own."""
    results: list[dict[str, Any]] = []
    texts: list[str] = []
    for block in _blocks(fields):
        if block.get("type") == "tool_result":
            text, name = history.text_of(block, "content"), "tool_use_id"
            results.append(history.tool_result(text, block.text(name), block.where(name)))
        else:
            texts.append(history.part_text(block))
    message = {"role": "user", "content": "".join(texts)}
    return [*results, message] if texts else results


def _assistant(fields: RequestFields) -> dict[str, Any]:
    texts: list[str] = []
    thinking: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in _blocks(fields):
        match block.get("type"):
            case "text":
                texts.append(block.text("text") or "")
            case "thinking":
                thinking.append(block.text("thinking") or "")
            case "redacted_thinking":
                pass
            case "tool_use":
                name, given = block.required_text("name"), dict(block.section("input").values)
                calls.append(history.call(name, given, block.text("id"), block))
            case _:
                raise history.not_text(block)
    return history.assistant("".join(texts), "\n".join(thinking), calls)


def _effort_option(effort: str | None) -> dict[str, Any]:
    return {EFFORT: effort} if effort else {}


def _thinking_options(fields: RequestFields, shared: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the field `thinking` gives.

    Without it there is no thinking, as in the interface: content[0] is the text. Fields that other
    servers have for it count, too.
    """
    wanted = fields.section("thinking")
    kind = wanted.text("type")
    if kind is None and not shared.keys().isdisjoint(("thinking", "thinking_budget")):
        return {} if "thinking" in shared else {"thinking": True}
    if kind == "adaptive":
        return {}
    if kind != "enabled":
        return {"thinking": False}
    budget = wanted.limit("budget_tokens", of="thinking_budget")
    return {"thinking": True} | ({} if budget is None else {"thinking_budget": budget})


def _format_option(fields: RequestFields) -> dict[str, Any]:
    if fields.text("type") is None:
        return {}
    if fields.get("type") != "json_schema":
        raise fields.error("type", f"is {shown(fields.get('type'))}: give json_schema")
    schema = {"name": "reply", "schema": dict(fields.section("schema").values)}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _tool_options(fields: RequestFields) -> dict[str, Any]:
    tools = [_tool(tool) for tool in fields.sections("tools")]
    choice = fields.section("tool_choice")
    kind = choice.text("type") or "auto"
    options: dict[str, Any] = {"tools": tools} if tools else {}
    if kind not in ("auto", "any", "tool", "none"):
        raise choice.error("type", f"is {shown(kind)}: give auto, any, tool or none")
    if kind in ("any", "tool") and not tools:
        raise fields.error("tool_choice", "requires a call, and there are no tools: add tools")
    if kind == "tool":
        options["tool_choice"] = function_choice(choice.required_text("name"))
    elif kind != "auto" and tools:
        options["tool_choice"] = "required" if kind == "any" else "none"
    if tools and choice.flag("disable_parallel_tool_use"):
        options["parallel_tool_calls"] = False
    return options


def _tool(fields: RequestFields) -> dict[str, Any]:
    if fields.text("type") not in (None, "custom"):
        raise fields.error("type", f"is {shown(fields.get('type'))}: only tools of yours work here")
    described = {"name": fields.required_text("name")}
    if (description := fields.text("description")) is not None:
        described["description"] = description
    parameters = fields.section("input_schema").values or {"type": "object", "properties": {}}
    return {"type": "function", "function": {**described, "parameters": parameters}}


@dataclass(slots=True)
class MessageWriter:
    """A reply as a message of content blocks."""

    model: str
    created: int
    id: str = field(default_factory=lambda: new_id("msg_"))
    _index: int = -1
    _open: type[Answer | Thinking] | None = None  # the kind of the open block

    def start(self, prompt: PrefillProgress | None) -> list[Frame]:
        counted = _usage(prompt.total, prompt.cached, 0) if prompt else _usage(0, 0, 0)
        return [_frame("message_start", message=self._message([], None, None, counted))]

    def add(self, event: ReplyEvent) -> list[Frame]:
        if isinstance(event, ToolCall):
            block = _block(event) | {"input": {}}
            part = {"type": "input_json_delta", "partial_json": to_json(dict(event.arguments))}
            return [*self._close(), self._begin(block), self._delta(part), self._stop()]
        frames = []
        if self._open is not type(event):
            frames = [*self._close(), self._begin(_empty_block(event))]
            self._open = type(event)
        kind = "text" if isinstance(event, Answer) else "thinking"
        return [*frames, self._delta({"type": f"{kind}_delta", kind: event.text})]

    def end(self, done: Done) -> list[Frame]:
        reason, sequence = stop_reason(done)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        ended = _frame("message_delta", delta=delta, usage=usage(done))
        return [*self._close(), ended, _frame("message_stop")]

    def fail(self, error: ApiError) -> list[Frame]:
        return [Frame(anthropic_error(error), "error")]

    def whole(self, events: Sequence[ReplyEvent], done: Done) -> dict[str, Any]:
        content = [_block(event) for event in stripped(events)]
        return self._message(content, *stop_reason(done), usage(done))

    def _message(
        self, content: list[Any], reason: str | None, sequence: str | None, counted: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": counted,
        }

    def _begin(self, block: Mapping[str, Any]) -> Frame:
        self._index += 1
        return _frame("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: Mapping[str, Any]) -> Frame:
        return _frame("content_block_delta", index=self._index, delta=delta)

    def _stop(self) -> Frame:
        return _frame("content_block_stop", index=self._index)

    def _close(self) -> list[Frame]:
        """The end of the open block."""
        frames = []
        if self._open is Thinking:
            frames = [self._delta({"type": "signature_delta", "signature": SIGNATURE})]
        if self._open is not None:
            frames.append(self._stop())
        self._open = None
        return frames


def _frame(kind: str, **values: Any) -> Frame:
    return Frame({"type": kind, **values}, kind)


def _block(event: ReplyEvent) -> dict[str, Any]:
    match event:
        case Answer(text):
            return {"type": "text", "text": text}
        case Thinking(text):
            return {"type": "thinking", "thinking": text, "signature": SIGNATURE}
        case ToolCall(name, arguments):
            return {
                "type": "tool_use",
                "id": new_id("toolu_"),
                "name": name,
                "input": dict(arguments),
            }


def _empty_block(event: Answer | Thinking) -> dict[str, Any]:
    if isinstance(event, Answer):
        return {"type": "text", "text": ""}
    return {"type": "thinking", "thinking": "", "signature": ""}


def stop_reason(done: Done) -> tuple[str, str | None]:
    """Why the reply has ended, and the stop string that ended it."""
    match done.finish_reason:
        case "tool_calls":
            return "tool_use", None
        case "stop":
            return ("end_turn" if done.stop is None else "stop_sequence"), done.stop
        case _:
            return "max_tokens", None


def usage(done: Done) -> dict[str, Any]:
    """The numbers of tokens. Those that were in the cache are apart from the others."""
    counted = done.usage
    shared = _usage(counted.prompt_tokens, counted.cached_tokens, counted.reply_tokens)
    return shared | {"output_tokens_details": {"thinking_tokens": reasoning_tokens(done)}}


def _usage(prompt: int, cached: int, written: int) -> dict[str, Any]:
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": written,
    }


INTERFACE = Interface(read, anthropic_error)
