"""A plugin of the command and library `llm`: the models of this machine as `qwen35:NAME`.

`llm` finds it by its entry point, and nothing else imports it. All models share one engine, which
starts with the first reply and keeps one model in memory. Its prompt cache is that of the user's
library: a conversation that is continued, in another process too, costs its new tokens.
"""

import asyncio
import queue
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from typing import Any

import llm
from llm.parts import (
    AttachmentPart,
    Message,
    ReasoningPart,
    StreamEvent,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from pydantic import Field

from qwen35_chat.models import local_models
from qwen35_mlx import demo
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.json_text import write_json
from qwen35_mlx.library.library import Library
from qwen35_mlx.server import history
from qwen35_mlx.session.events import Answer, Cancelled, Done, Event, Failed, Thinking, ToolCall
from qwen35_mlx.session.reply_options import ReplyOptions
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.session.request_engine import RequestEngine, Ticket

PREFIX = "qwen35:"


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Register every Qwen3.5 model on this machine."""
    engine = SharedEngine()
    for entry in local_models().usable:
        register(LocalModel(entry.name, engine), AsyncLocalModel(entry.name, engine))


class SharedEngine:
    """The engine of all models, started for the first reply. It ends with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine: RequestEngine | None = None

    def submit(self, request: ReplyRequest, deliver: Callable[[Event], None]) -> Ticket:
        """As `RequestEngine.submit`."""
        with self._lock:
            if self._engine is None:
                engine = RequestEngine(demo.NAME, library=Library())
                engine.start()
                self._engine = engine
        return self._engine.submit(request, deliver)


class Options(llm.Options):
    """The options of `llm -o`, under the names that they have in Python."""

    temperature: float | None = Field(
        default=None, description="0 always takes the likeliest token"
    )
    top_p: float | None = Field(
        default=None, description="sample among the likeliest tokens of this probability together"
    )
    top_k: int | None = Field(default=None, description="sample among this many likeliest tokens")
    min_p: float | None = Field(
        default=None, description="leave out tokens below this share of the highest probability"
    )
    presence_penalty: float | None = Field(
        default=None, description="taken from the logit of every token in the reply so far"
    )
    repetition_penalty: float | None = Field(
        default=None, description="divides the positive ones of those logits; 1 is off"
    )
    max_tokens: int | None = Field(default=None, description="the longest reply")
    seed: int | None = Field(default=None, description="makes replies reproducible")
    stop: str | None = Field(default=None, description="a string that ends the reply")
    thinking: bool | None = Field(
        default=None, description="whether the model thinks before it answers"
    )
    thinking_budget: int | None = Field(
        default=None, description="tokens of thinking after which the model has to answer"
    )
    reasoning_effort: str | None = Field(
        default=None, description="for templates that read it, such as low or high"
    )


class _Described:
    """What both kinds of models tell `llm` about themselves."""

    can_stream = True
    supports_schema = True
    supports_tools = True
    Options = Options

    def __init__(self, name: str, engine: SharedEngine):
        self.name = name
        self.model_id = f"{PREFIX}{name}"
        self._engine = engine


class LocalModel(_Described, llm.Model):
    """A model on this machine.

    Args:
        name: as for `qwen35_mlx.load`.
    """

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Generator[StreamEvent]:
        arrived: queue.SimpleQueue[Event] = queue.SimpleQueue()
        ticket = _submit(self._engine, reply_request(self.name, prompt), arrived.put)
        try:
            while (event := arrived.get()) and not _ends(event):
                yield from _stream_events(event, response)
        finally:
            ticket.cancel()
        _finish(event, response)


class AsyncLocalModel(_Described, llm.AsyncModel):
    """A model on this machine, for programs with an event loop."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None,
    ) -> AsyncGenerator[StreamEvent]:
        arrived: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(event: Event) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, event)

        ticket = _submit(self._engine, reply_request(self.name, prompt), put)
        try:
            while not _ends(event := await arrived.get()):
                for part in _stream_events(event, response):
                    yield part
        finally:
            ticket.cancel()
        _finish(event, response)


def reply_request(name: str, prompt: llm.Prompt) -> ReplyRequest:
    """What `llm` wants a reply to.

    Raises:
        llm.ModelError: an option, a tool or a message does not fit.
    """
    options: dict[str, Any] = prompt.options.model_dump(exclude_none=True)
    if prompt.schema:
        schema = {"name": "answer", "schema": prompt.schema}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    if prompt.tools:
        options["tools"] = [_tool(tool) for tool in prompt.tools]
    try:
        ReplyOptions.of(options)  # before a model is loaded
        messages = as_messages(prompt.messages)
    except Qwen35Error as error:
        raise llm.ModelError(str(error)) from None
    return ReplyRequest(messages=messages, options=options, model=name)


def as_messages(messages: Sequence[Message]) -> tuple[dict[str, Any], ...]:
    """A conversation as chat templates take it.

    Raises:
        llm.ModelError: there is an attachment.
        Qwen35Error: a result of a tool is of no call.
    """
    found: list[dict[str, Any]] = []
    for message in messages:
        if any(isinstance(part, AttachmentPart) for part in message.parts):
            raise llm.ModelError("a message has an attachment: the model reads text only")
        if message.role == "tool":
            found += [_result(part) for part in message.parts if isinstance(part, ToolResultPart)]
        elif message.role == "assistant":
            calls = [_call(part) for part in message.parts if isinstance(part, ToolCallPart)]
            thinking = _joined(message, ReasoningPart)
            found.append(history.assistant(_joined(message, TextPart), thinking, calls))
        else:
            found.append({"role": message.role, "content": _joined(message, TextPart)})
    return history.in_call_order(found)


def _joined(message: Message, kind: type[TextPart] | type[ReasoningPart]) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, kind))


def _call(part: ToolCallPart) -> dict[str, Any]:
    function = {"name": part.name, "arguments": part.arguments}
    return {"type": "function", "id": part.tool_call_id, "function": function}


def _result(part: ToolResultPart) -> dict[str, Any]:
    if part.attachments:
        raise llm.ModelError(
            f"the tool {part.name} has an attachment as its result: the model reads text only"
        )
    return history.tool_result(part.output, part.tool_call_id, f"the id of {part.name}'s result")


def _tool(tool: object) -> dict[str, Any]:
    if not isinstance(tool, llm.Tool):
        raise llm.ModelError(f"{tool} runs on a server, and the model is on this machine")
    schema = tool.input_schema or {"type": "object", "properties": {}}
    function = {"name": tool.name, "parameters": schema}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _submit(
    engine: SharedEngine, request: ReplyRequest, deliver: Callable[[Event], None]
) -> Ticket:
    try:
        return engine.submit(request, deliver)
    except Qwen35Error as error:
        raise llm.ModelError(str(error)) from None


def _ends(event: Event) -> bool:
    return isinstance(event, Done | Failed | Cancelled)


def _stream_events(
    event: Event, response: llm.Response | llm.AsyncResponse
) -> Generator[StreamEvent]:
    match event:
        case Thinking(text):
            yield StreamEvent(type="reasoning", chunk=text)
        case Answer(text):
            yield StreamEvent(type="text", chunk=text)
        case ToolCall(name, arguments):
            call = llm.ToolCall(name, dict(arguments), f"call_{secrets.token_hex(12)}")
            response.add_tool_call(call)
            written = write_json(call.arguments)
            number = call.tool_call_id
            yield StreamEvent(type="tool_call_name", chunk=name, tool_call_id=number)
            yield StreamEvent(type="tool_call_args", chunk=written, tool_call_id=number)
        case _:
            pass


def _finish(event: Event, response: llm.Response | llm.AsyncResponse) -> None:
    """Note how a reply has ended.

    Raises:
        llm.ModelError: with an error.
    """
    match event:
        case Done(finish_reason, usage):
            counts = {"cached": usage.cached_tokens, "reasoning": usage.reasoning_tokens or 0}
            response.set_usage(
                input=usage.prompt_tokens,
                output=usage.reply_tokens,
                details={name: count for name, count in counts.items() if count},
            )
            response.response_json = {"finish_reason": finish_reason}
        case Failed(message):
            raise llm.ModelError(message)
        case _:
            raise llm.ModelError("the reply was cancelled, since the program ends")
