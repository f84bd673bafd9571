"""What the screen looks like. After a change that is meant: scripts/test --snapshot-update."""

from collections.abc import Callable

import pytest
from qwen35_chat import app
from qwen35_chat.app import ChatApp
from qwen35_chat.widgets.composer import Composer
from textual.pilot import Pilot

from qwen35_mlx.session.events import Answer, Event, Failed, PrefillProgress, Thinking
from tests.app.fake_engine import FakeEngine, done

Compare = Callable[..., bool]

MARKDOWN = """\
A **tree** is a plant with a *trunk*:

1. roots
2. trunk
3. `leaves`, or needles

```python
def grow(tree: Tree) -> Tree:
    return tree.taller()  # every year
```
"""


@pytest.fixture(autouse=True)
def polls_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "POLLS_PER_SECOND", 100)


def still(engine: FakeEngine, *, demo: bool = True, theme: str = "textual-dark") -> ChatApp:
    """An app on which no time passes."""
    chat = ChatApp(engine, model="demo" if demo else "org/model", demo=demo, clock=lambda: 0.0)
    chat.theme = theme
    return chat


def after(engine: FakeEngine, message: str, *events: Event) -> Callable[[Pilot[None]], object]:
    async def run(pilot: Pilot[None]) -> None:
        await engine.shown(pilot)
        if message:
            pilot.app.query_one(Composer).text = message
            await pilot.press("enter")
        await engine.shown(pilot, events)

    return run


def test_first_start(snap_compare: Compare) -> None:
    engine = FakeEngine()
    assert snap_compare(still(engine), terminal_size=(80, 24), run_before=after(engine, ""))


def test_a_whole_turn(snap_compare: Compare) -> None:
    engine = FakeEngine()
    run = after(engine, "What is a tree?", Thinking("A plant."), Answer(MARKDOWN), done())
    assert snap_compare(still(engine), terminal_size=(80, 30), run_before=run)


def test_a_turn_on_a_small_light_terminal(snap_compare: Compare) -> None:
    engine = FakeEngine()
    run = after(engine, "What is a tree?\nBe brief.", PrefillProgress(512, 2048, 128))
    chat = still(engine, theme="textual-light")
    assert snap_compare(chat, terminal_size=(50, 20), run_before=run)


def test_a_model_that_does_not_load(snap_compare: Compare) -> None:
    engine = FakeEngine(loads=False)
    run = after(
        engine,
        "hello",
        Failed("config.json has no 'linear_key_head_dim': is this a Qwen3.5 checkpoint?"),
    )
    assert snap_compare(still(engine, demo=False), terminal_size=(80, 24), run_before=run)
