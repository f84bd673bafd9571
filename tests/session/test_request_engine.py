"""The request engine: replies of many clients at once, fair, and each on its own."""

import queue
import shutil
import threading
import time

import mlx.core as mx
import pytest

from qwen35_mlx.model.memory import estimate
from qwen35_mlx.session import memory
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Done,
    Event,
    Failed,
    Loading,
    Measured,
    PrefillProgress,
    Queued,
    Thinking,
    Written,
)
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.session.request_engine import RequestEngine
from tests.session.clients import GREEDY, Asked, Clients
from tests.session.scripted import reply_with

TOKENS = Thinking | Answer | Written


@pytest.fixture
def clients(model_folder):
    engine = RequestEngine(str(model_folder), library=None)
    engine.start()
    yield Clients(engine)
    engine.close()


def test_the_first_request_loads_the_model_and_equals_a_stream(clients, model):
    asked = clients.ask("Hello")
    done = asked.done()
    kinds = [type(event) for event in asked.events]
    assert kinds[0] is Loading
    assert kinds.index(PrefillProgress) < min(
        kinds.index(k) for k in (Thinking, Answer) if k in kinds
    )
    *_, expected = model.stream([{"role": "user", "content": "Hello"}], max_tokens=12, **GREEDY)
    assert done.message == expected.message


def test_many_at_once_reply_as_each_alone(clients, model):
    asked = {f"Question {n}": clients.ask(f"Question {n}", client=f"{n}") for n in range(9)}
    for text, one in asked.items():
        *_, expected = model.stream([{"role": "user", "content": text}], max_tokens=12, **GREEDY)
        assert one.done().message == expected.message
    assert any(isinstance(event, Queued) for _, event in clients.order)


@pytest.fixture
def one_at_a_time(model_folder):
    engine = RequestEngine(str(model_folder), library=None, parallel=1)
    engine.start()
    yield Clients(engine)
    engine.close()


def held(clients: Clients) -> tuple[Asked, threading.Event]:
    """A reply that the engine's thread waits in, with all that is asked meanwhile behind it."""
    go_on, inside = threading.Event(), threading.Event()

    def hold(event: Event) -> None:
        if isinstance(event, PrefillProgress) and not inside.is_set():
            inside.set()
            assert go_on.wait(60)

    asked = clients.ask("First", client="held", seen=hold)
    assert inside.wait(60)
    return asked, go_on


def test_clients_take_turns_however_many_requests_one_of_them_has(one_at_a_time):
    clients = one_at_a_time
    _, go_on = held(clients)
    asked = [clients.ask("Question", client=client) for client in "aaaabbc"]
    go_on.set()
    for one in asked:
        one.done()
    finished = [client for client, event in clients.order if isinstance(event, Done)]
    assert "".join(finished[1:]) == "abcabaa"


def test_a_place_in_the_queue_is_told_when_it_changes(one_at_a_time):
    clients = one_at_a_time
    _, go_on = held(clients)
    first, second = clients.ask("Question", client="a"), clients.ask("Question", client="a")
    other = clients.ask("Question", client="b")
    go_on.set()
    for one in (first, second, other):
        one.done()
    places = [
        [event.place for event in one.events if isinstance(event, Queued)]
        for one in (first, second, other)
    ]
    assert places == [[1], [3, 2, 1], [2, 1]]


def test_cancel_ends_waiting_and_running_requests_and_no_others(one_at_a_time):
    clients = one_at_a_time
    running, go_on = held(clients)
    waiting, other = clients.ask("Question"), clients.ask("Question")
    waiting.ticket.cancel()
    running.ticket.cancel()
    go_on.set()
    assert running.end() == Cancelled()
    assert waiting.end() == Cancelled()
    assert not any(isinstance(event, Done | PrefillProgress) for event in waiting.events)
    other.done()
    other.ticket.cancel()  # too late: nothing happens
    clients.ask("Question").done()
    totals = clients.engine.status().totals
    assert (totals.requests, totals.completed, totals.cancelled) == (4, 2, 2)


def test_a_long_prompt_is_read_in_small_pieces_between_the_tokens_of_others(clients, monkeypatch):
    monkeypatch.setattr("qwen35_mlx.session.prefill_pace.CHUNK_SECONDS", 1e-9)
    writer = clients.ask("Question", client="writer", max_tokens=60)
    writer.wait_for(Thinking, Answer)
    reader = clients.ask("word " * 170, client="reader", max_tokens=1)
    reader.done()
    writer.done()
    order = [
        client
        for client, event in clients.order
        if isinstance(event, PrefillProgress if client == "reader" else TOKENS)
    ]
    first = order.index("reader")
    pieces = "".join(c[0] for c in order[first:]).strip("w").split("w")
    assert pieces.count("") == 0
    assert all(piece == "r" for piece in pieces)  # a token of the other after every piece
    assert len(pieces) > 5


def test_short_prompts_are_read_together_between_two_tokens_of_others(clients, monkeypatch):
    monkeypatch.setattr("qwen35_mlx.session.prefill_pace.CHUNK_SECONDS", 60)
    readers: list[Asked] = []

    def begin(event: Event) -> None:
        if isinstance(event, TOKENS) and not readers:
            for name in ("red", "green", "blue"):
                readers.append(clients.ask(f"Short {name}", client=name, max_tokens=1))

    clients.ask("Question", client="writer", max_tokens=20, seen=begin).done()
    for one in readers:
        one.done()
    order = [
        client
        for client, event in clients.order
        if isinstance(event, TOKENS if client == "writer" else PrefillProgress)
    ]
    reading = [index for index, client in enumerate(order) if client != "writer"]
    assert reading == [*range(reading[0], reading[0] + len(reading))]
    assert 0 < reading[0] < reading[-1] < len(order) - 1


def test_what_does_not_fit_into_the_memory_together_runs_one_after_the_other(clients, monkeypatch):
    clients.ask("Question").done()
    loop = clients.engine._loop
    model = loop._loaded.model
    need = estimate(model.network.config, 4, 40, 512, None, unpacks=mx.default_device() == mx.cpu)
    enough_for_one = model.weight_bytes + need.total + (need.kv + need.states) // 2
    monkeypatch.setattr(memory, "limit", lambda: enough_for_one)
    clients.order.clear()
    asked = [clients.ask("Question", client=client) for client in "ab"]
    for one in asked:
        one.done()
    begun = [type(event) for client, event in clients.order if client == "b"]
    assert begun[0] is Queued
    last = max(i for i, (client, _) in enumerate(clients.order) if client == "a")
    started = [i for i, (_, event) in enumerate(clients.order) if isinstance(event, TOKENS)]
    assert not any(clients.order[i][0] == "b" for i in started if i < last)


def test_replies_are_as_each_alone_while_others_come_and_go(clients, model):
    """One begins later, one is cancelled, and one's client goes away, all amid shared passes."""
    asked: dict[str, Asked] = {}

    def late(event: Event) -> None:
        if isinstance(event, TOKENS) and "Late" not in asked:
            asked["Late"] = clients.ask("Late", client="late", max_tokens=20)

    def gone(event: Event) -> None:
        if isinstance(event, TOKENS):
            raise ConnectionError

    def cancel(event: Event) -> None:
        if isinstance(event, TOKENS):
            cancelled.ticket.cancel()

    asked["First"] = clients.ask("First", client="first", max_tokens=40, seen=late)
    cancelled = clients.ask("Cancelled", client="cancelled", max_tokens=40, seen=cancel)
    left = clients.ask("Left", client="left", max_tokens=40, seen=gone)
    asked["First"].done()
    for text, one in asked.items():
        length = one.done().usage.reply_tokens
        message = [{"role": "user", "content": text}]
        *_, expected = model.stream(message, max_tokens=length, **GREEDY)
        assert one.done().message == expected.message
    assert cancelled.end() == left.end() == Cancelled()


def test_an_error_of_one_request_ends_it_alone(clients):
    other = clients.ask("Question", max_tokens=40)
    bad = {
        "temperature is": clients.ask("Question", temperature=-1.0),
        "context": clients.ask("word " * 3000),
        "give at least one": clients.submit(ReplyRequest()),
        "from 1 to": clients.submit(ReplyRequest(prompt="")),
    }
    kinds = {}
    for part, asked in bad.items():
        end = asked.failed()
        assert part in end.message
        kinds[part] = end.kind
    assert kinds == {
        "temperature is": "invalid",
        "context": "too_long",
        "give at least one": "invalid",
        "from 1 to": "invalid",
    }
    other.done()


def test_a_client_that_is_gone_is_cancelled_and_others_go_on(clients):
    def gone(event: Event) -> None:
        raise ConnectionError

    asked = clients.ask("Question", seen=gone)
    clients.ask("Question").done()
    assert asked.end() == Cancelled()


def test_a_model_that_is_not_found_fails_what_waits_for_it_and_others_go_on(clients):
    clients.ask("Question").done()
    asked = [
        clients.submit(
            ReplyRequest(({"role": "user", "content": "Hi"},), model="./nowhere", client=f"{n}")
        )
        for n in range(2)
    ]
    for one in asked:
        end = one.failed()
        assert end.kind == "invalid"
        assert "nowhere" in end.message
    again = clients.ask("Question")
    again.done()
    assert not any(isinstance(event, Loading) for event in again.events)  # it stayed


def test_the_model_is_unloaded_when_idle_and_loaded_again(model_folder):
    engine = RequestEngine(str(model_folder), library=None, idle=0.05)
    engine.start()
    clients = Clients(engine)
    clients.ask("Question").done()
    deadline = time.monotonic() + 60
    while engine.status().model is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    clients.ask("Question").done()
    engine.close()


def test_a_raw_prompt_is_completed_and_its_end_is_in_the_prompt_cache(clients, model):
    first = clients.submit(
        ReplyRequest(prompt="The quick brown fox", options={"max_tokens": 8, **GREEDY})
    )
    expected = model.complete("The quick brown fox", max_tokens=8, **GREEDY)
    text = "".join(e.text for e in (first.done(), *first.events)[1:] if isinstance(e, Answer))
    assert text == expected.text
    ids = (*model.tokenizer.encode("The quick brown fox"), 7, 8, 9)
    second = clients.submit(ReplyRequest(prompt=ids, options={"max_tokens": 2}))
    assert second.done().usage.cached_tokens == len(ids) - 4  # before the last token of the first


def test_a_raw_prompt_goes_on_from_the_end_of_an_earlier_completion(clients, model, monkeypatch):
    reply_with(monkeypatch, model, " jumps over")
    clients.submit(ReplyRequest(prompt="The quick brown fox", options={"max_tokens": 60})).done()
    ids = [
        i for text in ("The quick brown fox", " jumps over") for i in model.tokenizer.encode(text)
    ]
    ids += [model.tokenizer.token_id("<|im_end|>"), 7]
    again = clients.submit(ReplyRequest(prompt=tuple(ids), options={"max_tokens": 2})).done()
    assert again.usage.cached_tokens == len(ids) - 1


def test_closing_cancels_everything_and_refuses_more(model_folder):
    engine = RequestEngine(str(model_folder), library=None, parallel=1)
    with pytest.raises(Exception, match="not started"):
        engine.submit(ReplyRequest(), print)
    engine.start()
    clients = Clients(engine)
    asked = [clients.ask("Question", max_tokens=400) for _ in range(3)]
    asked[0].wait_for(Answer, Thinking)
    engine.close()
    assert [one.end() for one in asked] == [Cancelled()] * 3
    with pytest.raises(Exception, match="closed"):
        engine.submit(ReplyRequest(), print)


def test_a_thread_that_ended_fails_its_requests_and_the_next_one_starts_another(
    clients, monkeypatch
):
    clients.ask("Question").done()
    monkeypatch.setattr("qwen35_mlx.session.request_loop.RequestLoop._step", lambda self: {}["no"])
    assert "KeyError" in clients.ask("Question").failed().message
    monkeypatch.undo()
    clients.ask("Question").done()
    assert clients.engine.status().totals.requests == 3


def test_a_prompt_is_counted_without_a_reply(clients, model):
    messages = ({"role": "user", "content": "Hello"},)

    def count(options: dict[str, object]) -> Event:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        clients.engine.count(ReplyRequest(messages=messages, options=options), events.put)
        while isinstance(event := events.get(timeout=60), Loading):
            pass
        return event

    expected = model.count(list(messages), thinking=False)
    assert count({"thinking": False}) == Measured(None, expected, 0)
    wrong = count({"wrong": 1})
    assert isinstance(wrong, Failed)
    assert wrong.kind == "invalid"


def test_a_prompt_is_counted_beside_a_reply_and_changes_no_turn_and_no_total(one_at_a_time):
    """Also one whose options do not fit, and one that is cancelled."""
    clients = one_at_a_time
    running, go_on = held(clients)
    ends: queue.SimpleQueue[tuple[str, Event]] = queue.SimpleQueue()
    asked = [clients.ask("Question", client=client) for client in "aab"]
    messages = ({"role": "user", "content": "Hello"},)
    tickets = {}
    for name, options in (("good", {}), ("bad", {"wrong": 1}), ("gone", {})):
        request = ReplyRequest(messages, options=options, client="a")
        tickets[name] = clients.engine.count(request, lambda e, name=name: ends.put((name, e)))
    tickets["gone"].cancel()
    go_on.set()
    found = dict(ends.get(timeout=60) for _ in tickets)
    assert not running.ended.is_set()
    assert [type(found[name]) for name in tickets] == [Measured, Failed, Cancelled]
    for one in asked:
        one.done()
    finished = [client for client, event in clients.order if isinstance(event, Done)]
    assert finished == ["held", "a", "b", "a"]
    totals = clients.engine.status().totals
    assert (totals.requests, totals.completed) == (4, 4)
    assert (totals.failed, totals.cancelled) == (0, 0)


def test_counts_wait_for_the_load_and_fail_with_it(model_folder):
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine = RequestEngine(str(model_folder), library=None)
    engine.start()
    messages = ({"role": "user", "content": "Hello"},)
    engine.count(ReplyRequest(messages, model="./nowhere"), events.put)
    while isinstance(failed := events.get(timeout=60), Loading):
        pass
    assert isinstance(failed, Failed)
    assert "nowhere" in failed.message
    engine.count(ReplyRequest(messages), events.put)
    while isinstance(event := events.get(timeout=60), Loading):
        pass
    assert isinstance(event, Measured)
    engine.close()


def test_an_effort_reaches_a_template_that_reads_it_and_no_other(clients, model_folder, tmp_path):
    """Programs send one to every model."""
    reading = shutil.copytree(model_folder, tmp_path / "reading")
    with (reading / "chat_template.jinja").open("a") as template:
        template.write("{{ reasoning_effort | default('') }}")

    def length(engine: RequestEngine, **options: str) -> int:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        messages = ({"role": "user", "content": "Hello"},)
        engine.count(ReplyRequest(messages=messages, options=options), events.put)
        while not isinstance(event := events.get(timeout=60), Measured | Failed):
            pass
        assert isinstance(event, Measured), event
        return event.used

    plain = length(clients.engine)
    assert length(clients.engine, reasoning_effort="low") == plain
    engine = RequestEngine(str(reading), library=None)
    engine.start()
    assert length(engine, reasoning_effort="low") > length(engine) == plain
    engine.close()
