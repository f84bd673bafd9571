"""Settings of a chat: checked, merged with stored ones, and as the options of a turn."""

from dataclasses import replace

from qwen35_mlx.arguments import ARGUMENTS
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.session.reply_options import ReplyOptions, Tools


def checked_settings(settings: ChatSettings, defaults: Sampling) -> ChatSettings:
    """A copy of the settings in plain types, which the library can store.

    Raises:
        Qwen35Error: a value does not fit.
    """
    names = ("system", "thinking", "max_tokens", "seed")
    values = {n: ARGUMENTS[n].check(n, getattr(settings, n), optional=True) for n in names}
    given = ARGUMENTS["sampling"].check("sampling", settings.sampling)
    sampling = defaults.updated(given)
    known = {name: getattr(sampling, name) for name, value in given.items() if value is not None}
    return replace(settings, **values, sampling=known)


def merged_settings(stored: ChatSettings, given: ChatSettings) -> ChatSettings:
    """The stored settings, replaced by the given ones that are not None."""
    sampling = {**stored.sampling, **{n: v for n, v in given.sampling.items() if v is not None}}
    return ChatSettings(
        system=stored.system if given.system is None else given.system,
        thinking=stored.thinking if given.thinking is None else given.thinking,
        max_tokens=stored.max_tokens,
        seed=stored.seed,
        sampling=sampling,
    )


def turn_options(settings: ChatSettings, tools: Tools | None, given: ReplyOptions) -> ReplyOptions:
    """The options of a turn: those given for it, and for the rest those of its chat."""
    return replace(
        given,
        max_tokens=settings.max_tokens if given.max_tokens is None else given.max_tokens,
        seed=settings.seed if given.seed is None else given.seed,
        thinking=settings.thinking if given.thinking is None else given.thinking,
        tools=tools if given.tools is None else given.tools,
        sampling={**settings.sampling, **given.sampling},
    )
