"""Summing up the oldest turns takes as long as a reply, and is shown and stopped like one."""

from pathlib import Path

import pytest

from qwen35_mlx.session.events import Cancelled, Failed, Measured, Opened, PrefillProgress
from qwen35_mlx.session.requests import Compact
from tests.app.drive import Driver, chat, reply


async def begun(at: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a summary."""
    await at.turn("one", "an answer")
    take = at.engine._take
    monkeypatch.setattr(at.engine, "_take", lambda r: None if r == Compact() else take(r))
    await at.send("/compact")
    await at.until(lambda: at.controller.compacting)


async def test_a_summary_is_shown_until_it_ends(home: Path, monkeypatch) -> None:
    async with chat(home) as at:
        await begun(at, monkeypatch)
        assert "Summing up the oldest turns" in at.text
        assert "Esc stops" in at.text
        await at.shown([PrefillProgress(512, 2_048, 0)])
        assert "Summing up the oldest turns · read 25%" in at.text
        await at.shown([Opened(1, "one"), Measured(1, 50, 0)])
        assert "Summing up" not in at.text
        assert "an answer" in at.text
        assert " 1%" in at.text


async def test_a_message_sent_during_a_summary_follows_it(home: Path, monkeypatch) -> None:
    async with chat(home) as at:
        await begun(at, monkeypatch)
        await at.send("two")
        assert at.sent == ["one"]
        assert "Next: two" in at.text
        await at.press("ctrl+n")
        assert "a reply is being written" in at.text
        await at.shown([Opened(1, "one"), Measured(1, 50, 0)])
        assert at.sent == ["one", "two"]
        await at.shown(reply("so"))
        assert "so" in at.text
        assert "Next" not in at.text


@pytest.mark.parametrize("end", [Cancelled(), Failed("there is nothing to summarise")])
async def test_a_stopped_or_failed_summary_returns_the_queue(home: Path, monkeypatch, end) -> None:
    async with chat(home) as at:
        await begun(at, monkeypatch)
        await at.send("two")
        await at.press("escape")
        assert "cancel" in at.engine.calls
        await at.shown([end])
        assert at.typed == "two"
        assert at.sent == ["one"]
        assert not at.controller.busy
        assert ("there is nothing to summarise" in at.text) == isinstance(end, Failed)
        assert "an answer" in at.text
