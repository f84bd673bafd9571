"""Settings of one reply, as they are written behind /retry: `temperature 1.2 thinking off`."""

from typing import Any

from qwen35_chat.settings import PRESET_THINKING, PRESETS, SAMPLING, parse_value, setting_problem
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.terminal import visible_line

OTHERS = ("thinking", "preset", "max_tokens", "thinking_budget")
LONGEST_SHOWN = 40  # characters of a name in an error


def reply_options(text: str) -> dict[str, Any]:
    """The options of a reply, as `Chat.retry` takes them.

    Args:
        text: names of settings, each followed by its value. Values of a preset come before those
            that are named.

    Raises:
        Qwen35Error: a name is no setting of a reply, has no value or one that it cannot have.
    """
    words = text.replace("=", " ").split()
    given: dict[str, Any] = {}
    for name, value in zip(words[::2], [*words[1::2], ""], strict=False):
        _check_name(name)
        if not value:
            raise Qwen35Error(f"{name} has no value: write /retry {name} and one")
        setting = f"sampling.{name}" if name in SAMPLING else name
        parsed = parse_value(setting, value)
        if problem := setting_problem(setting, parsed):
            raise Qwen35Error(f"{name} {problem}")
        if name in given:
            raise Qwen35Error(f"{name} is there twice: leave one out")
        given[name] = parsed
    preset = given.pop("preset", "model")
    thinking = given.pop("thinking", PRESET_THINKING.get(preset, "auto"))
    if thinking != "auto":
        given["thinking"] = thinking == "on"
    return {**PRESETS[preset], **given}


def _check_name(name: str) -> None:
    if name not in (*SAMPLING, *OTHERS):
        known = ", ".join((*SAMPLING, *OTHERS))
        shown = visible_line(name[:LONGEST_SHOWN])
        raise Qwen35Error(f"{shown} is no setting of a reply; these are: {known}")
