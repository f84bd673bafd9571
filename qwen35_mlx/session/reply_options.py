"""The options of a reply: their names and types for callers, and the checked form.

Every public function that writes a reply takes them as keyword arguments, typed by one of the
dictionaries here. `ReplyOptions.of` checks them and gives the form that turns are made from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from qwen35_mlx.arguments import checked_options
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.generation.sampling_parameters import NO_LIMIT, RANGES

Tools = Sequence[Mapping[str, Any]]
EFFORT = "reasoning_effort"


class SamplingArguments(TypedDict, total=False):
    """How tokens are drawn, in place of the model's defaults. `Sampling` says what each means."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    presence_penalty: float | None
    repetition_penalty: float | None


class PromptArguments(TypedDict, total=False):
    """What the template renders besides the messages.

    - `thinking`: whether the model thinks first; None leaves it to the template.
    - `tools`: function descriptions in JSON schema.
    - `template_arguments`: values of variables that the template reads, of which
      `model.template.arguments` is the list. A name that it does not read is refused.
    - `reasoning_effort`: the template argument of that name.
    """

    thinking: bool | None
    tools: Tools | None
    template_arguments: Mapping[str, Any] | None
    reasoning_effort: str | None


class CompletionArguments(SamplingArguments, total=False):
    """The options of a reply of any kind.

    - `max_tokens`: the most tokens of the reply; None or -1 for all that the context leaves. In a
      chat None keeps its limit, and -1 lifts it.
    - `seed`: the same seed gives the same reply again, on the same device.
    - `stop`: strings that end the answer; they do not appear in it. In thinking and in tool calls
      they end nothing.
    - `repetition_guard`: whether a reply that repeats itself without end is ended; None for yes.
    - `response_format`: what an answer may be, in OpenAI's form: `{"type": "text"}` for anything,
      `{"type": "json_object"}`, or `{"type": "json_schema", "json_schema": {"schema": {...}}}`.
      Beyond that, `{"type": "regex", "pattern": ...}` and, in Lark's form,
      `{"type": "grammar", "grammar": ...}`. An answer that `max_tokens` or `stop` cuts is not
      complete.
    """

    max_tokens: int | None
    seed: int | None
    stop: str | Sequence[str]
    response_format: Mapping[str, Any] | None
    repetition_guard: bool | None


class ThinkingArguments(TypedDict, total=False):
    """How much a reply may think.

    - `thinking_budget`: tokens of thinking after which the model is made to answer; 0 lets it
      answer at once, None or -1 think as long as it likes. In a chat None keeps its budget, and -1
      lifts it.
    """

    thinking_budget: int | None


class ReplyArguments(PromptArguments, CompletionArguments, ThinkingArguments, total=False):
    """The options of a reply to messages: those of its prompt and of its text, and these.

    - `tool_choice`: "auto" leaves it to the model whether it calls a tool; with a
      `response_format`, it then answers in that. "none" keeps it from calling one, although the
      prompt describes them. "required" makes it call one or more, and
      `{"type": "function", "function": {"name": ...}}` that one, once. Calls that are forced have
      arguments that the tool's schema allows.
    - `parallel_tool_calls`: False ends the reply after one call.
    """

    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None


class ChatArguments(PromptArguments, SamplingArguments, ThinkingArguments, total=False):
    """The options that a chat keeps for all of its replies."""

    repetition_guard: bool | None


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """The options of one reply, checked.

    Attributes:
        max_tokens, seed, thinking, tools, thinking_budget, repetition_guard, response_format,
            tool_choice, parallel_tool_calls: as in `ReplyArguments`.
        template_arguments: with `reasoning_effort`, if that is given.
        stop: strings that end the reply.
        sampling: the `SamplingArguments` that are given.
    """

    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    thinking: bool | None = None
    tools: Tools | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    thinking_budget: int | None = None
    repetition_guard: bool | None = None
    response_format: Mapping[str, Any] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    sampling: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, arguments: Mapping[str, Any], allowed: type = ReplyArguments) -> "ReplyOptions":
        """The options that keyword arguments give.

        Args:
            allowed: the dictionary type that declares them.

        Raises:
            Qwen35Error: a name is unknown, a value does not fit, or two contradict each other.
        """
        given = checked_options(arguments, allowed)
        kept = given.pop("template_arguments", None) or {}
        if (effort := given.pop(EFFORT, None)) is not None:
            if kept.get(EFFORT, effort) != effort:
                raise Qwen35Error(
                    f"{EFFORT} is {shown(effort)}, and the template argument of that name is"
                    f" {shown(kept[EFFORT])}: give one of them"
                )
            kept = {**kept, EFFORT: effort}
        sampling = {name: given.pop(name) for name in RANGES if name in given}
        given["stop"] = tuple(given.get("stop", ()))
        return cls(**given, template_arguments=kept, sampling=sampling)

    def length(self, room: int) -> int:
        """The most tokens of the reply, where there is room for so many."""
        limit = self.max_tokens
        return room if limit is None or limit == NO_LIMIT else min(limit, room)
