"""OpenAI's `/v1/responses`: its JSON to a request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from qwen35_mlx.errors import shown
from qwen35_mlx.server import history
from qwen35_mlx.server.chat_completions import choice_options, function_choice, function_tool
from qwen35_mlx.server.errors import openai_error
from qwen35_mlx.server.fields import SESSION, RequestFields, effort_options, shared_options
from qwen35_mlx.server.replies import ClientCall, Interface
from qwen35_mlx.server.response_output import Echo, ResponseWriter
from qwen35_mlx.session.reply_requests import ReplyRequest

_STORED = ("previous_response_id", "conversation", "prompt")
_UNSUPPORTED = ("background", "top_logprobs")
# Agents offer it unasked; without it they work, so it is left out.
_WEB_SEARCH = "web_search"
_CHOICES = ("auto", "none", "required")


def read(values: Mapping[str, Any]) -> ClientCall:
    """The call in a request.

    Raises:
        ApiError: a field does not fit, or asks for what the server does not have.
    """
    fields = RequestFields(values)
    fields.refuse(_STORED, "responses are not stored; send the history in input, or name a session")
    fields.refuse(_UNSUPPORTED)
    options = shared_options(fields)
    options |= effort_options(fields.section("reasoning").text("effort"), options)
    if (limit := fields.limit("max_output_tokens")) is not None:
        options["max_tokens"] = limit
    options |= _format_option(fields.section("text").section("format"))
    tools = [function_tool(tool, tool) for tool in _tools(fields)]
    options |= {"tools": tools} if tools else {}
    options |= choice_options(fields, _choice(fields), bool(tools))
    session = fields.text(SESSION) or None
    sent = [*_instructions(fields), *_messages(fields)]
    messages = history.in_call_order(sent, session=session is not None)
    return ClientCall(
        ReplyRequest(messages=messages, options=options, session=session),
        stream=bool(fields.flag("stream")),
        model=fields.text("model"),
        user=fields.text("user"),
        writer=partial(ResponseWriter, echo=_echo(fields)),
    )


def _tools(fields: RequestFields) -> list[RequestFields]:
    """The tools but for the search of the web."""
    return [
        tool
        for tool in fields.sections("tools")
        if not (tool.text("type") or "").startswith(_WEB_SEARCH)
    ]


def _instructions(fields: RequestFields) -> list[dict[str, Any]]:
    text = fields.text("instructions")
    return [{"role": "system", "content": text}] if text else []


def _messages(fields: RequestFields) -> list[dict[str, Any]]:
    given = fields.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages = _Messages()
    for item in fields.sections("input"):
        messages.add(item)
    if not messages.found:
        raise fields.error("input", "is empty: give a string or a list of items")
    return messages.found


@dataclass(slots=True)
class _Messages:
    """Collects items. Reasoning, a text and calls of one reply become one assistant message."""

    found: list[dict[str, Any]] = field(default_factory=list)
    _open: dict[str, Any] | None = None  # the assistant message that may still grow

    def add(self, item: RequestFields) -> None:
        kind = item.text("type") or "message"
        match kind:
            case "message":
                self._add_message(item)
            case "reasoning":
                text = history.text_of_reasoning(item)
                if self._open is None or self._open["content"] or self._open.get("tool_calls"):
                    self._begin()
                self._extend("reasoning_content", text)
            case "function_call":
                name, call_id = item.required_text("name"), item.required_text("call_id")
                if self._open is None:
                    self._begin()
                call = history.call(name, item.get("arguments"), call_id, item)
                assert self._open is not None
                self._open.setdefault("tool_calls", []).append(call)
            case "function_call_output":
                text, call_id = history.text_of(item, "output"), item.required_text("call_id")
                self._close(history.tool_result(text, call_id, item.where("call_id")))
            case _:
                raise item.error("type", f"is {shown(kind)}, which is not supported: leave it out")

    def _add_message(self, item: RequestFields) -> None:
        role = item.required_text("role")
        text = history.text_of(item, "content")
        if role in ("system", "developer", "user"):
            self._close({"role": role, "content": text})
        elif role == "assistant":
            if self._open is None or self._open["content"] or self._open.get("tool_calls"):
                self._begin()
            self._extend("content", text)
        else:
            raise item.error("role", f"is {shown(role)}: give system, developer, user or assistant")

    def _begin(self) -> None:
        self._open = history.assistant()
        self.found.append(self._open)

    def _extend(self, name: str, text: str) -> None:
        assert self._open is not None
        self._open[name] = "\n".join(filter(None, [self._open[name], text]))

    def _close(self, message: dict[str, Any]) -> None:
        self._open = None
        self.found.append(message)


def _format_option(fields: RequestFields) -> dict[str, Any]:
    """The format, nested as in chat completions."""
    kind = fields.text("type")
    if kind in (None, "text"):
        return {}
    if kind != "json_schema":
        return {"response_format": dict(fields.values)}
    schema = {name: value for name, value in fields.values.items() if name != "type"}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _choice(fields: RequestFields) -> Any:
    choice = fields.get("tool_choice")
    if isinstance(choice, Mapping):
        named = fields.section("tool_choice")
        if named.get("type") != "function":
            raise named.error("type", f"is {shown(named.get('type'))}: give function")
        return function_choice(named.required_text("name"))
    if choice is not None and choice not in _CHOICES:
        raise fields.error("tool_choice", f"is {shown(choice)}: give one of {', '.join(_CHOICES)}")
    return choice


def _echo(fields: RequestFields) -> Echo:
    """The fields that a response repeats."""
    parallel = fields.flag("parallel_tool_calls")
    return Echo(
        instructions=fields.text("instructions"),
        max_output_tokens=fields.limit("max_output_tokens"),
        metadata=fields.section("metadata").values,
        parallel_tool_calls=parallel is not False,
        temperature=fields.get("temperature"),
        top_p=fields.get("top_p"),
        text=fields.section("text").values or {"format": {"type": "text"}},
        reasoning=fields.section("reasoning").values,
        tool_choice=fields.get("tool_choice") or "auto",
        tools=[_full_tool(tool.values) for tool in _tools(fields)],
    )


def _full_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": None, "parameters": None, "strict": None, **tool}


INTERFACE = Interface(read, openai_error)
