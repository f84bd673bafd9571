"""Settings of a chat: checked, merged with stored ones, and as the options of a turn."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from qwen35_mlx.arguments import ARGUMENTS
from qwen35_mlx.errors import shown
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.session.reply_options import ReplyOptions, Tools
from qwen35_mlx.text.template import THINKING_ARGUMENT

if TYPE_CHECKING:
    from qwen35_mlx.session.model import Model

_Value = TypeVar("_Value")


def settings_of(options: ReplyOptions, system: str | None) -> ChatSettings:
    """The settings that the options of a chat and a system prompt make."""
    return ChatSettings(
        system=system,
        thinking=options.thinking,
        sampling=options.sampling,
        template_arguments=options.template_arguments,
        thinking_budget=options.thinking_budget,
        repetition_guard=options.repetition_guard,
    )


def checked_settings(settings: ChatSettings, defaults: Sampling) -> ChatSettings:
    """A copy of the settings in plain types, which the library can store.

    Raises:
        Qwen35Error: a value does not fit.
    """
    names = ("system", "thinking", "max_tokens", "seed", "thinking_budget", "repetition_guard")
    values = {n: ARGUMENTS[n].check(n, getattr(settings, n), optional=True) for n in names}
    values["template_arguments"] = ARGUMENTS["template_arguments"].check(
        "template_arguments", settings.template_arguments
    )
    given = ARGUMENTS["sampling"].check("sampling", settings.sampling)
    sampling = defaults.updated(given)
    known = {name: getattr(sampling, name) for name, value in given.items() if value is not None}
    return replace(settings, **values, sampling=known)


def merged_settings(stored: ChatSettings, given: ChatSettings) -> ChatSettings:
    """The stored settings, replaced by the given ones that are not None."""
    thinking, arguments = _merged_arguments(stored, given)
    return ChatSettings(
        system=_first(given.system, stored.system),
        thinking=thinking,
        max_tokens=_first(given.max_tokens, stored.max_tokens),
        seed=_first(given.seed, stored.seed),
        sampling={**stored.sampling, **{n: v for n, v in given.sampling.items() if v is not None}},
        template_arguments=arguments,
        thinking_budget=_first(given.thinking_budget, stored.thinking_budget),
        repetition_guard=_first(given.repetition_guard, stored.repetition_guard),
    )


def readable_settings(settings: ChatSettings, model: "Model") -> tuple[ChatSettings, list[str]]:
    """The settings without the template arguments that the model's template does not read.

    Settings outlive a model: what one template reads, another may not.

    Returns:
        the settings, and lines for the user on what is left out; one for each argument and model.
    """
    read = model.template_arguments
    unread = [name for name in settings.template_arguments if name not in read]
    if not unread:
        return settings, []
    known = {n: v for n, v in settings.template_arguments.items() if n in read}
    lines = [
        f"the settings have the template argument {shown(name)}, which {model.name} does not read:"
        " it is left out"
        for name in unread
        if name not in model.arguments_left_out
    ]
    model.arguments_left_out.update(unread)
    return replace(settings, template_arguments=known), lines


def turn_options(settings: ChatSettings, tools: Tools | None, given: ReplyOptions) -> ReplyOptions:
    """The options of a turn: those given for it, and for the rest those of its chat."""
    thinking, arguments = _merged_arguments(settings, given)
    return replace(
        given,
        max_tokens=_first(given.max_tokens, settings.max_tokens),
        seed=_first(given.seed, settings.seed),
        thinking=thinking,
        tools=_first(given.tools, tools),
        template_arguments=arguments,
        thinking_budget=_first(given.thinking_budget, settings.thinking_budget),
        repetition_guard=_first(given.repetition_guard, settings.repetition_guard),
        sampling={**settings.sampling, **given.sampling},
    )


def _merged_arguments(
    kept: ChatSettings, given: ChatSettings | ReplyOptions
) -> tuple[bool | None, dict[str, Any]]:
    """Whether to think, and the arguments of the template: those given replace those kept.

    The template argument `enable_thinking` and `thinking` mean the same, so one replaces the other.
    """
    arguments = dict(kept.template_arguments)
    thinking = _first(given.thinking, kept.thinking)
    if given.thinking is not None:
        arguments.pop(THINKING_ARGUMENT, None)
    elif THINKING_ARGUMENT in given.template_arguments:
        thinking = None
    return thinking, {**arguments, **given.template_arguments}


def _first(given: _Value | None, kept: _Value | None) -> _Value | None:
    return kept if given is None else given
