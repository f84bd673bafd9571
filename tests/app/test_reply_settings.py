"""Settings of one reply, behind /retry."""

from pathlib import Path
from typing import Any

import pytest
from qwen35_chat.reply_settings import reply_options

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.reply_options import ReplyOptions
from qwen35_mlx.session.requests import Configure, Retry
from tests.app.drive import chat


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        ("temperature 1.2", {"temperature": 1.2}),
        ("temperature=1.2  top_k=5", {"temperature": 1.2, "top_k": 5}),
        ("top_p 0.5 min_p 0.1 presence_penalty -1", {
            "top_p": 0.5, "min_p": 0.1, "presence_penalty": -1.0}),
        ("thinking off", {"thinking": False}),
        ("thinking on max_tokens 50", {"thinking": True, "max_tokens": 50}),
        ("thinking auto", {}),
        ("preset not-thinking top_p 0.5", {"temperature": 0.7, "top_p": 0.5, "top_k": 20,
                                           "presence_penalty": 1.5, "thinking": False}),
        ("thinking on preset not-thinking top_p 1", {"temperature": 0.7, "top_p": 1.0, "top_k": 20,
                                                     "presence_penalty": 1.5, "thinking": True}),
        ("preset model", {}),
    ],
)  # fmt: skip
def test_names_and_values_are_options_of_the_reply(text: str, options: dict[str, Any]) -> None:
    assert reply_options(text) == options
    ReplyOptions.of(options)  # as the chat takes them


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hotter", "hotter is no setting of a reply; these are: temperature,"),
        ("sampling.temperature 1", "sampling.temperature is no setting of a reply"),
        ("system Hi", "system is no setting of a reply"),
        ("temperature", "temperature has no value: write /retry temperature and one"),
        ("top_k 5 temperature", "temperature has no value"),
        ("temperature warm", "sampling.temperature must be a number, and 'warm' is none"),
        ("temperature nan", "temperature must be a number from 0"),
        ("top_k 1.5", "sampling.top_k must be a whole number"),
        ("top_p 2", "top_p must be a number"),
        ("thinking maybe", 'thinking must be one of "auto", "on", "off"'),
        ("preset bold", 'preset must be one of "model"'),
        ("top_k 1 top_k 2", "top_k is there twice: leave one out"),
        ("a\x1b[2J 1", "a"),
    ],
)
def test_what_does_not_fit_is_one_line(text: str, line: str) -> None:
    with pytest.raises(Qwen35Error) as raised:
        reply_options(text)
    assert str(raised.value).startswith(line)
    assert str(raised.value).isprintable()


async def test_they_hold_for_one_reply_alone(home: Path) -> None:
    async with chat(home, settings=home / "settings.toml") as at:
        await at.turn("one", "so")
        configured = [call for call in at.engine.calls if isinstance(call, Configure)]
        await at.send("/retry temperature 1.2 thinking off")
        assert at.engine.calls[-1] == Retry(2, {"temperature": 1.2, "thinking": False})
        assert [call for call in at.engine.calls if isinstance(call, Configure)] == configured
        assert not (home / "settings.toml").exists()


async def test_a_wrong_one_asks_for_no_reply(home: Path) -> None:
    async with chat(home) as at:
        await at.turn("one", "so")
        await at.send("/retry temperatur 1.2")
        assert "temperatur is no setting of a reply" in at.text
        assert not any(isinstance(call, Retry) for call in at.engine.calls)
