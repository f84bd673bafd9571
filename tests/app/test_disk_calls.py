"""Lanes of calls: their order, their errors, and their end."""

import asyncio
import threading
from collections.abc import Iterable

import pytest
from qwen35_chat.disk_calls import InlineCalls, ThreadCalls, finished

from qwen35_mlx.errors import Qwen35Error
from tests.app.drive import Clock


class Gate:
    """A call that waits until the test opens the gate."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.opened.wait(20)


@pytest.fixture
def gate() -> Iterable[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


def refuse() -> None:
    raise Qwen35Error("the disk is full")


async def test_a_lane_keeps_its_order_and_holds_up_no_other(gate: Gate) -> None:
    calls, made = ThreadCalls(), list[str]()
    calls.start("library", gate)
    for name in ("first", "second", "third"):
        calls.start("library", made.append, name)
    assert await calls.run("reads", lambda: 7) == 7
    assert made == []
    gate.opened.set()
    await calls.run("library", made.append, "last")
    assert made == ["first", "second", "third", "last"]


async def test_a_call_that_is_cancelled_before_its_turn_is_not_made(gate: Gate) -> None:
    calls, made = ThreadCalls(), list[str]()
    calls.start("reads", gate)
    search = asyncio.create_task(calls.run("reads", made.append, "appl"))
    await asyncio.sleep(0)
    search.cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    await calls.run("reads", made.append, "apple")
    assert made == ["apple"]


async def test_an_error_goes_to_who_awaits_the_call_or_is_kept_as_a_line() -> None:
    calls = ThreadCalls()
    with pytest.raises(Qwen35Error, match="full"):
        await calls.run("library", refuse)
    assert calls.take_errors() == []
    calls.start("library", refuse)
    await calls.run("library", int)
    assert calls.take_errors() == ["the disk is full"]
    assert calls.take_errors() == []
    assert calls.library_failures == 2
    calls.start("files", lambda: 1 / 0)  # a mistake of the program is not swallowed
    await calls.run("files", int)
    with pytest.raises(ZeroDivisionError):
        calls.take_errors()


async def test_a_wait_for_the_library_is_measured_from_its_oldest_call(gate: Gate) -> None:
    clock = Clock()
    calls = ThreadCalls(clock)
    assert (calls.library_seconds, calls.idle) == (0.0, True)
    calls.start("library", gate)
    clock.now = 3.0
    calls.start("library", int)
    clock.now = 5.0
    assert (calls.library_seconds, calls.idle) == (5.0, False)
    gate.opened.set()
    await calls.run("library", int)
    while not calls.idle:
        await asyncio.sleep(0.001)
    assert calls.library_seconds == 0.0


def test_the_end_waits_for_what_is_saved_within_a_bound(gate: Gate) -> None:
    calls, made = ThreadCalls(), list[str]()
    calls.start("library", gate)
    calls.start("library", made.append, "a draft")
    assert not calls.close(0.01)
    gate.opened.set()
    assert calls.close(20)
    assert made == ["a draft"]


def test_the_end_does_not_wait_for_a_look_at_models(gate: Gate) -> None:
    calls = ThreadCalls()
    calls.start("models", gate)
    assert gate.entered.wait(20)
    assert calls.close(0)


def test_inline_calls_are_made_at_once() -> None:
    calls, made = InlineCalls(), list[str]()
    calls.start("library", made.append, "one")
    calls.start("library", refuse)
    assert finished(calls.run("library", lambda: len(made))) == 1
    assert calls.take_errors() == ["the disk is full"]
    with pytest.raises(RuntimeError, match="waits"):
        finished(asyncio.sleep(0))
