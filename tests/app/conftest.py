import asyncio
from collections.abc import Generator, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from qwen35_chat.screens import chat, typing
from textual import app, pilot
from textual.css.model import RuleSet
from textual.css.stylesheet import Stylesheet

from tests.app.disk_guard import guard
from tests.app.plain_drive import PlainChat


@pytest.fixture(scope="session", autouse=True)
def rules_parsed_once() -> Generator[None]:
    """Share parsed style sheets, which are a fifth of an app's start, among all apps."""
    parse_rules = Stylesheet._parse_rules
    parsed: dict[Any, list[RuleSet]] = {}

    @wraps(parse_rules)
    def shared(sheet: Stylesheet, css: str, read_from: Any, *rest: Any, **named: Any) -> Any:
        key = (tuple(sheet._variables.items()), css, read_from, rest, tuple(named.items()))
        if key not in parsed:
            parsed[key] = parse_rules(sheet, css, read_from, *rest, **named)
        return parsed[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stylesheet, "_parse_rules", shared)
        yield


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "POLLS_PER_SECOND", 100)
    monkeypatch.setattr(chat, "DRAWING_SHARE", 1e9)
    monkeypatch.setattr(typing, "DRAFT_SECONDS", 0.01)


@pytest.fixture(autouse=True)
def no_idle_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the wait for an idle process, which an app that polls never is.

    After some rounds of the event loop, everything that was begun is done.
    """

    async def rounds(*_: float) -> None:
        for _ in range(25):
            await asyncio.sleep(0)
        await asyncio.sleep(0.002)

    monkeypatch.setattr(app, "wait_for_idle", rounds)
    monkeypatch.setattr(pilot, "wait_for_idle", rounds)


@pytest.fixture(autouse=True)
def no_disk_on_the_screen(monkeypatch: pytest.MonkeyPatch) -> Iterable[list[str]]:
    """Fail a test in which the app's event loop waits for a file or the library."""
    found = guard(monkeypatch)
    yield found
    assert not found, "\n".join(found)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a working directory for the test, so that nothing of the user's is touched."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("QWEN35_HOME", str(home))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))  # where other programs keep models
    for name in ("LLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))  # for processes that a test starts
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return home


@pytest.fixture
def session(home: Path) -> Iterable[PlainChat]:
    session = PlainChat(home)
    yield session
    session.library.close()
