"""OpenAI's `/v1/chat/completions`: its JSON to a request, events to its JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from qwen35_mlx.errors import shown
from qwen35_mlx.server import history
from qwen35_mlx.server.errors import ApiError, openai_error
from qwen35_mlx.server.fields import SESSION, RequestFields, effort_options, shared_options
from qwen35_mlx.server.replies import (
    ClientCall,
    Frame,
    Interface,
    arguments_json,
    new_id,
    reasoning_tokens,
)
from qwen35_mlx.session.events import Done, PrefillProgress
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.text.reply import Answer, ReplyEvent, Thinking, ToolCall, join_events

DONE = Frame("[DONE]")
_UNSUPPORTED = (
    *("logprobs", "top_logprobs", "logit_bias", "frequency_penalty", "audio", "prediction"),
    *("web_search_options", "functions", "function_call"),
)
_CHOICES = ("auto", "none", "required")


def read(values: Mapping[str, Any]) -> ClientCall:
    """The call in a request.

    Raises:
        ApiError: a field does not fit, or asks for what the server does not have.
    """
    fields = RequestFields(values)
    fields.refuse_copies("n")
    fields.refuse(_UNSUPPORTED)
    if "audio" in fields.texts("modalities"):
        raise fields.error("modalities", "asks for audio: the model writes text only")
    session = fields.text(SESSION) or None
    sent = [_message(one) for one in fields.sections("messages")]
    messages = history.in_call_order(sent, session=session is not None)
    if not messages:
        raise fields.error("messages", "is empty: give at least one message")
    options = shared_options(fields)
    options |= effort_options(fields.text("reasoning_effort"), options)
    limit = fields.limit("max_completion_tokens") or fields.limit("max_tokens")
    if limit is not None:
        options["max_tokens"] = limit
    if stop := fields.texts("stop"):
        options["stop"] = stop
    options |= _format_option(fields) | _tool_options(fields)
    include_usage = bool(fields.section("stream_options").flag("include_usage"))
    return ClientCall(
        ReplyRequest(messages=messages, options=options, session=session),
        stream=bool(fields.flag("stream")),
        model=fields.text("model"),
        user=fields.text("user"),
        writer=partial(ChatWriter, include_usage=include_usage),
    )


def _message(fields: RequestFields) -> dict[str, Any]:
    role = fields.required_text("role")
    text = history.text_of(fields, "content")
    if role in ("system", "developer", "user"):
        if fields.get("content") is None:
            raise fields.error("content", "is missing: give a string")
        return {"role": role, "content": text}
    if role == "tool":
        name = "tool_call_id"
        return history.tool_result(text, fields.text(name), fields.where(name))
    if role == "assistant":
        fields.refuse(["function_call"], "use tool_calls")
        reasoning = fields.text("reasoning_content") or fields.text("reasoning") or ""
        calls = [_call(one) for one in fields.sections("tool_calls")]
        return history.assistant(text or fields.text("refusal") or "", reasoning, calls)
    raise fields.error("role", f"is {shown(role)}: give system, developer, user, assistant or tool")


def _call(fields: RequestFields) -> dict[str, Any]:
    function = fields.section("function")
    name = function.required_text("name")
    return history.call(name, function.get("arguments"), fields.text("id"), function)


def _format_option(fields: RequestFields) -> dict[str, Any]:
    wanted = fields.section("response_format")
    kind = wanted.text("type")
    return {} if kind in (None, "text") else {"response_format": dict(wanted.values)}


def _tool_options(fields: RequestFields) -> dict[str, Any]:
    tools = [function_tool(tool, tool.section("function")) for tool in fields.sections("tools")]
    options: dict[str, Any] = {"tools": tools} if tools else {}
    choice = fields.get("tool_choice")
    if isinstance(choice, Mapping):
        named = fields.section("tool_choice")
        if named.get("type") != "function":
            raise named.error("type", f"is {shown(named.get('type'))}: give function")
        choice = function_choice(named.section("function").required_text("name"))
    elif choice is not None and choice not in _CHOICES:
        raise fields.error("tool_choice", f"is {shown(choice)}: give one of {', '.join(_CHOICES)}")
    return options | choice_options(fields, choice, bool(tools))


def choice_options(fields: RequestFields, choice: Any, has_tools: bool) -> dict[str, Any]:
    """The options for a choice of tools and for `parallel_tool_calls`; none for the defaults.

    Raises:
        ApiError: a call is required, and there are no tools.
    """
    options: dict[str, Any] = {}
    if choice not in (None, "auto"):
        if not has_tools and choice != "none":
            raise fields.error("tool_choice", "requires a call, and there are no tools: add tools")
        if has_tools:
            options["tool_choice"] = choice
    if has_tools and fields.flag("parallel_tool_calls") is False:
        options["parallel_tool_calls"] = False
    return options


def function_choice(name: str) -> dict[str, Any]:
    """The choice of one function."""
    return {"type": "function", "function": {"name": name}}


def function_tool(tool: RequestFields, function: RequestFields) -> dict[str, Any]:
    """A tool as templates take it.

    Args:
        function: the object with the name and the schema, which may be the tool itself.
    """
    kind = tool.text("type")
    if kind != "function":
        raise tool.error("type", f"is {shown(kind)}: tools of type function are supported")
    described = {"name": function.required_text("name")}
    if (description := function.text("description")) is not None:
        described["description"] = description
    parameters = function.section("parameters").values
    empty = {"type": "object", "properties": {}}
    return {"type": "function", "function": {**described, "parameters": parameters or empty}}


def finish_reason(done: Done) -> str:
    """The reason in OpenAI's words. A reply that was cut for repeating itself is "length"."""
    known = {"stop": "stop", "tool_calls": "tool_calls"}
    return known.get(done.finish_reason, "length")


def usage(done: Done) -> dict[str, Any]:
    """The numbers of tokens."""
    counted = done.usage
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.reply_tokens,
        "total_tokens": counted.prompt_tokens + counted.reply_tokens,
        "prompt_tokens_details": {"cached_tokens": counted.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens(done)},
    }


@dataclass(slots=True)
class ChatWriter:
    """A reply as a chat completion.

    Thinking is `reasoning_content`, as DeepSeek, vLLM and llama.cpp name it. A tool call is one
    piece.
    """

    model: str
    created: int
    include_usage: bool = False
    id: str = field(default_factory=lambda: new_id("chatcmpl-"))
    _calls: int = 0

    def start(self, prompt: PrefillProgress | None) -> list[Frame]:
        return [self._chunk({"role": "assistant", "content": ""})]

    def add(self, event: ReplyEvent) -> list[Frame]:
        match event:
            case Thinking(text):
                return [self._chunk({"reasoning_content": text})]
            case Answer(text):
                return [self._chunk({"content": text})]
            case ToolCall():
                self._calls += 1
                call = {"index": self._calls - 1, **_written_call(event)}
                return [self._chunk({"tool_calls": [call]})]

    def end(self, done: Done) -> list[Frame]:
        frames = [self._chunk({}, finish_reason(done))]
        if self.include_usage:
            frames.append(Frame(self._object("chat.completion.chunk", [], usage=usage(done))))
        return [*frames, DONE]

    def fail(self, error: ApiError) -> list[Frame]:
        return [Frame(openai_error(error))]

    def whole(self, events: Sequence[ReplyEvent], done: Done) -> dict[str, Any]:
        content = join_events(events)
        calls = [_written_call(call) for call in content.tool_calls]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content.text if content.text or not calls else None,
            "refusal": None,
        }
        if content.thinking:
            message["reasoning_content"] = content.thinking
        if calls:
            message["tool_calls"] = calls
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason(done),
        }
        return self._object("chat.completion", [choice], usage=usage(done))

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> Frame:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        more = {"usage": None} if self.include_usage else {}
        return Frame(self._object("chat.completion.chunk", [choice], **more))

    def _object(self, kind: str, choices: list[Any], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }


def _written_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments_json(call.arguments)}
    return {"id": new_id("call_"), "type": "function", "function": function}


INTERFACE = Interface(read, openai_error)
