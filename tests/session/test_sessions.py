"""Sessions of a request engine: conversations of the library that clients go on with."""

import threading
import time
from pathlib import Path

import pytest

from qwen35_mlx.library.conversation import Message
from qwen35_mlx.library.home import STATES
from qwen35_mlx.library.library import Library
from qwen35_mlx.session import job
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Answer, Cancelled, Queued, Thinking, Titled, TurnStarted
from qwen35_mlx.session.load import load
from qwen35_mlx.session.replies import Replies
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.session.request_engine import RequestEngine
from tests.session.clients import Clients
from tests.session.scripted import reply_with


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "library"


@pytest.fixture
def library(folder):
    with Library(folder) as library:
        yield library


@pytest.fixture
def clients(model_folder, library):
    engine = RequestEngine(str(model_folder), library=library)
    engine.start()
    yield Clients(engine)
    engine.close()


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


ASSISTANT = {"role": "assistant", "content": "Hello"}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def stored(library: Library, session: str):
    number = library.titled(session)
    assert number is not None
    return library.conversation(number)


def test_a_session_is_a_conversation_that_later_messages_follow(clients, library):
    first = clients.ask([system("Be brief."), user("One")], session=" my  notes ")
    done = first.done()
    started = next(event for event in first.events if isinstance(event, TurnStarted))
    assert not any(isinstance(event, Titled) for event in first.events)
    clients.ask("Two", session="my notes").done()
    tree = stored(library, "my notes")
    assert [m.content for m in tree.path()][::2] == ["One", "Two"]
    assert tree.path()[1].id == started.reply
    assert tree.path()[1].content == done.message["content"]
    assert tree.settings.system == "Be brief."
    assert [(row.id, row.title) for row in library.list()] == [(tree.id, "my notes")]
    assert library.claim(tree.id)  # free between replies


def test_it_goes_on_in_a_chat_and_back(clients, library, model_folder):
    clients.ask("One", session="notes").done()
    model = load(model_folder)
    with Chat.open(model, "notes", library=library) as chat:
        *_, done = chat.send("Two", max_tokens=4)
        assert done.usage.cached_tokens
    model.close()
    clients.ask("Three", session="notes").done()
    assert [m.content for m in stored(library, "notes").path()][::2] == ["One", "Two", "Three"]


def test_a_history_is_matched_and_branches_where_it_differs(clients, library, model, monkeypatch):
    """Its thinking is dropped, as clients do."""
    reply_with(monkeypatch, model, "Hm.</think>\n\nFine.")
    history = [system("Be brief."), user("One")]
    for question in ("Two", "Three"):
        done = clients.ask(history, session="notes", thinking=True, max_tokens=60).done()
        history += [{"role": "assistant", "content": done.message["content"]}, user(question)]
    whole = clients.ask(history, session="notes", thinking=True, max_tokens=60).done()
    tree = stored(library, "notes")
    assert [m.content for m in tree.path()][::2] == ["One", "Two", "Three"]
    assert len(tree.messages) == 6
    assert (tree.path()[1].thinking, tree.path()[1].content) == ("Hm.", "Fine.")
    edited = [*history[:3], user("Another")]
    clients.ask(edited, session="notes", thinking=True, max_tokens=60).done()
    tree = stored(library, "notes")
    assert [m.content for m in tree.path()][::2] == ["One", "Another"]
    assert len(tree.messages) == 8
    # Its last question is there already.
    again = clients.ask(history, session="notes", thinking=True, max_tokens=60).done()
    tree = stored(library, "notes")
    assert len(tree.messages) == 9
    assert tree.position(tree.leaf) == (2, 2)
    assert again.message == whole.message


def test_calls_and_their_results_are_stored_and_found_again(clients, library):
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": [1]}'}, "id": "7"}
    history = [
        user("Hi"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "yes", "tool_call_id": "7"},
    ]
    done = clients.ask(history, session="notes", thinking=True, max_tokens=60).done()
    tree = stored(library, "notes")
    assert tree.path()[1].tool_calls[0]["function"] == {"name": "f", "arguments": {"x": [1]}}
    reply = {"role": "assistant", "content": done.message["content"]}
    clients.ask([*history, reply, user("Thanks")], session="notes").done()
    roles = [m.role for m in stored(library, "notes").messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant"]


def test_a_result_goes_to_the_call_that_the_session_holds_and_to_nothing_else(clients, library):
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    result = {"role": "tool", "content": "yes"}
    clients.ask("Hi", session="notes").done()
    for sent in ([result], [user("So"), result]):
        failed = clients.ask(sent, session="notes").failed()
        assert failed.kind == "invalid"
        assert failed.message.startswith("there is the result of a tool, and the reply before it")
    number = library.titled("notes")
    leaf = library.conversation(number).leaf
    library.add_message(number, Message(0, leaf, "assistant", "", tool_calls=(call,)))
    clients.ask([result, result], session="notes").done()
    assert [m.role for m in stored(library, "notes").path()[-3:]] == ["tool", "tool", "assistant"]


def test_replies_in_one_session_follow_each_other_and_others_go_on(clients, library):
    asked = [clients.ask(f"Question {n}", session="notes", client="a") for n in range(4)]
    other = clients.ask("Question", client="a")
    for one in (*asked, other):
        one.done()
    assert len(stored(library, "notes").path()) == 8
    ends = [event for _, event in clients.order if event in [one.events[-1] for one in asked]]
    assert ends == [one.events[-1] for one in asked]
    assert any(isinstance(event, Queued) for event in asked[1].events)
    assert not any(isinstance(event, Queued) for event in other.events[1:])


def test_a_session_open_elsewhere_is_waited_for_and_then_refused_by_name(
    clients, library, folder, monkeypatch
):
    clients.ask("One", session="notes").done()
    with Library(folder) as window:
        assert window.claim(stored(library, "notes").id)
        waiting = clients.ask("Two", session="notes")
        waiting.wait_for(Queued)
        clients.ask("Question").done()  # others do not wait for it
    waiting.done()
    monkeypatch.setattr(job, "BUSY_SECONDS", 0.1)
    with Library(folder) as window:
        assert window.titles.claim("new")  # another engine is about to make it
        assert window.claim(stored(library, "notes").id)
        for session in ("notes", "new"):
            failed = clients.ask("Three", session=session).failed()
            assert failed.kind == "busy"
            assert f"'{session}' is open" in failed.message
    clients.ask("Three", session="notes").done()


def test_a_session_that_another_window_takes_again_at_once_is_this_ones_before(clients, folder):
    """A client of the other one asks as soon as it has a reply, long before this one looks."""
    with Library(folder) as window:
        assert window.titles.claim("notes")
        waiting = clients.ask("One", session=" notes ")
        waiting.wait_for(Queued)
        window.titles.release("notes")
        assert not window.titles.claim("notes")
        waiting.done()


def test_a_session_that_nobody_waits_for_any_more_is_free(clients, folder):
    with Library(folder) as window:
        assert window.titles.claim("notes")
        waiting = clients.ask("One", session="notes")
        waiting.wait_for(Queued)
        waiting.ticket.cancel()
        assert waiting.end() == Cancelled()
        window.titles.release("notes")
        assert window.titles.claim("notes")


def test_an_engine_without_room_keeps_no_other_window_waiting(model_folder, library, folder):
    engine = RequestEngine(str(model_folder), library=library, parallel=1)
    engine.start()
    clients = Clients(engine)
    with Library(folder) as window:
        assert window.titles.claim("notes")
        waiting = clients.ask("One", session="notes")
        waiting.wait_for(Queued)
        long = clients.ask("Question", client="another", max_tokens=2000)
        long.wait_for(Answer, Thinking)
        window.titles.release("notes")
        while not window.titles.claim("notes"):
            time.sleep(0.01)
        assert not long.ended.is_set()
        long.ticket.cancel()
        window.titles.release("notes")
        waiting.done()
    engine.close()


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        (ReplyRequest((user("Hi"),), session=" "), "1 to 200"),
        (ReplyRequest((user("Hi"),), session="x" * 201), "1 to 200"),
        (ReplyRequest(prompt="Hi", session="notes"), "give messages"),
        (
            ReplyRequest((user("Hi"), {"role": "assistant", "content": "!"}), session="n"),
            "end with",
        ),
        (ReplyRequest((system("Hi"),), session="n"), "end with"),
        (ReplyRequest((), session="n"), "end with"),
        (ReplyRequest((user("word " * 3000),), session="n"), "context"),
        (ReplyRequest((user("Hi"),), options={"top_p": 7}, session="n"), "top_p"),
    ],
)
def test_a_request_that_is_refused_leaves_nothing_behind(clients, library, request_, part):
    assert part in clients.submit(request_).failed().message
    assert library.count() == 0
    assert library.titles.claim("n")


def test_without_a_library_there_are_no_sessions(model_folder):
    engine = RequestEngine(str(model_folder), library=None)
    engine.start()
    assert "not kept here" in Clients(engine).ask("Hi", session="notes").failed().message
    engine.close()


def test_the_length_of_a_prompt_in_a_session_has_what_the_session_holds(clients, library, model):
    clients.ask([system("Be brief."), user("One")], session="notes").done()
    ended, events = threading.Event(), []

    def deliver(event):
        events.append(event)
        ended.set()

    clients.engine.count(ReplyRequest((user("Two"),), session="notes"), deliver)
    assert ended.wait(60)
    messages = stored(library, "notes").for_template()
    assert events[0].used == len(model.ids([*messages, user("Two")]))
    assert 0 < events[0].cached < events[0].used
    assert len(stored(library, "notes").messages) == 2


def test_a_reply_that_is_cancelled_is_kept_so_far(clients, library):
    asked = clients.ask("One", session="notes", max_tokens=400)
    asked.wait_for(Answer, Thinking)
    asked.ticket.cancel()
    assert asked.end() == Cancelled()
    reply = stored(library, "notes").path()[-1]
    assert (reply.role, reply.state) == ("assistant", "cancelled")
    clients.ask("Two", session="notes").done()


def test_a_session_after_a_restart_is_the_same_to_the_bit(model_folder, tmp_path):
    """Its texts, and every byte of its states on disk."""
    turns = [f"Question {n} and some words" for n in range(3)]
    found = []
    for name, restarts in (("one", (3,)), ("two", (1, 3))):
        start = 0
        for end in restarts:
            with Library(tmp_path / name) as library:
                engine = RequestEngine(str(model_folder), library=library)
                engine.start()
                clients = Clients(engine)
                for text in turns[start:end]:
                    clients.ask(text, session="notes", temperature=0.9, seed=7).done()
                engine.close()
                texts = [(m.content, m.thinking) for m in stored(library, "notes").path()]
            start = end
        states = {f.name: f.read_bytes() for f in (tmp_path / name / STATES).glob("*/*")}
        found.append((texts, states))
    assert found[0][0] == found[1][0]
    assert found[0][1].keys() == found[1][1].keys()
    assert len(found[0][1]) > 4
    assert found[0][1] == found[1][1]


def test_a_session_that_waits_for_memory_begins_when_there_is_some(clients, library, monkeypatch):
    monkeypatch.setattr(Replies, "make_room", lambda self, running, reply: not running)
    first = clients.ask("Long", max_tokens=40)
    waiting = clients.ask("One", session="notes")
    assert first.done()
    assert waiting.done()
    assert clients.ask("Two", session="notes").done()
    assert [m.content for m in stored(library, "notes").path()][::2] == ["One", "Two"]
