"""OpenAI's older `/v1/completions`: what follows a raw text, without a chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from qwen35_mlx.errors import shown
from qwen35_mlx.server.chat_completions import DONE, finish_reason, usage
from qwen35_mlx.server.errors import ApiError, openai_error
from qwen35_mlx.server.fields import SESSION, RequestFields, shared_options
from qwen35_mlx.server.replies import ClientCall, Frame, Interface, new_id
from qwen35_mlx.session.events import Done, PrefillProgress
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.text.reply import Answer, ReplyEvent

DEFAULT_MAX_TOKENS = 16  # of the interface
_UNSUPPORTED = ("echo", "suffix", "logprobs", "logit_bias", "frequency_penalty", SESSION)
# A raw text has no chat template that would read these.
_OF_CHATS = ("thinking", "template_arguments", "thinking_budget")


def read(values: Mapping[str, Any]) -> ClientCall:
    """The call in a request.

    Raises:
        ApiError: a field does not fit, or asks for what the server does not have.
    """
    fields = RequestFields(values)
    fields.refuse_copies("n")
    fields.refuse_copies("best_of")
    fields.refuse(_UNSUPPORTED)
    options = shared_options(fields)
    options = {name: value for name, value in options.items() if name not in _OF_CHATS}
    options["max_tokens"] = fields.limit("max_tokens") or DEFAULT_MAX_TOKENS
    if stop := fields.texts("stop"):
        options["stop"] = stop
    if fields.section("response_format").text("type") not in (None, "text"):
        options["response_format"] = dict(fields.section("response_format").values)
    include_usage = bool(fields.section("stream_options").flag("include_usage"))
    return ClientCall(
        ReplyRequest(prompt=_prompt(fields), options=options),
        stream=bool(fields.flag("stream")),
        model=fields.text("model"),
        user=fields.text("user"),
        writer=partial(CompletionWriter, include_usage=include_usage),
    )


def _prompt(fields: RequestFields) -> str | tuple[int, ...]:
    """A text or token ids, which may be the only item of a list."""
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list) or not prompt:
        raise fields.error("prompt", f"is {shown(prompt)}: give a string or a list of token ids")
    if len(prompt) > 1 and isinstance(prompt[0], str | list):
        raise fields.error("prompt", f"is a list of {len(prompt)}: send one prompt a request")
    for place, one in enumerate(prompt):
        if type(one) is not int or not 0 <= one < 2**63:
            raise fields.error("prompt", f"has {shown(one)} at place {place}: give token ids")
    return tuple(prompt)


@dataclass(slots=True)
class CompletionWriter:
    """A reply as a text completion."""

    model: str
    created: int
    include_usage: bool = False
    id: str = field(default_factory=lambda: new_id("cmpl-"))

    def start(self, prompt: PrefillProgress | None) -> list[Frame]:
        return []

    def add(self, event: ReplyEvent) -> list[Frame]:
        return [self._chunk(event.text)] if isinstance(event, Answer) else []

    def end(self, done: Done) -> list[Frame]:
        frames = [self._chunk("", _reason(done))]
        if self.include_usage:
            frames.append(Frame(self._object([], usage=usage(done))))
        return [*frames, DONE]

    def fail(self, error: ApiError) -> list[Frame]:
        return [Frame(openai_error(error))]

    def whole(self, events: Sequence[ReplyEvent], done: Done) -> dict[str, Any]:
        text = "".join(event.text for event in events if isinstance(event, Answer))
        return self._object([_choice(text, _reason(done))], usage=usage(done))

    def _chunk(self, text: str, reason: str | None = None) -> Frame:
        more = {"usage": None} if self.include_usage else {}
        return Frame(self._object([_choice(text, reason)], **more))

    def _object(self, choices: list[Any], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }


def _choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


def _reason(done: Done) -> str:
    return "length" if finish_reason(done) == "length" else "stop"


INTERFACE = Interface(read, openai_error)
