"""What Python users do that they should not: each gets one line, and nothing is lost."""

import gc
import inspect
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

import qwen35_mlx
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.library.conversation_store import ConversationStore
from qwen35_mlx.library.home import STATES
from qwen35_mlx.library.library import Library
from qwen35_mlx.prompt_cache.snapshots import SnapshotCache
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Answer, Done
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.reply_options import ReplyOptions
from qwen35_mlx.session.turn import Turn
from tests.library.messages import add_message

HI: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
GREEDY: dict[str, Any] = {"temperature": 0.0, "presence_penalty": 0.5}


class HostileError(Exception):
    """What a `Hostile` raises."""


class Hostile:
    def __repr__(self) -> str:
        raise HostileError


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    return value


ODD: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 5, 2**63, 2**70, -(2**70), 10**5000, 1e300),
    *(math.nan, math.inf, Fraction(1, 2), Fraction(10**400), 1j, np.int64(5), np.float32(0.5)),
    *("", " ", "x", "5", "٣", "two\nlines", "a\0b", "\ud800", "x" * 300, b"x", bytearray(b"x")),
    *([], [5], [1.5], [None], [""], ["x"], ["a", 5], [[]], [{}], [{"role": "x"}], (), {}),
    *({"x": 1}, {1: 2, "x": 3}, {None: None}, set(), {5}, range(3), np.array([1, 2]), np.eye(2)),
    *([{"role": "user"}], [{"role": "user", "content": 5}], [{"role": "tool", "content": [5]}]),
    *([{"role": [], "content": "x"}], [{"name": []}], [{"function": {"name": {}}}], cyclic()),
    *(deep(), [{"role": "user", "content": deep()}], [{"name": "f", "parameters": cyclic()}]),
    *(object(), Hostile(), [Hostile()], object, len, (i for i in HI), Path(), Path("x"), Ellipsis),
]


def outcome(call: Callable[[], Any]) -> str:
    """The one line of the error; "" if the call works. A turn is not run."""
    try:
        call()
    except Qwen35Error as error:
        line = str(error)
        assert line
        assert "\n" not in line
        assert len(line) < 1500
        return line
    return ""


def odd_values_for(
    function: Callable[..., Any],
    base: dict[str, Any],
    given: dict[str, Any],
    values: Sequence[Any] = ODD,
) -> None:
    """Call `function` with each odd value in place of each of its arguments."""
    names = inspect.signature(function).parameters.keys() - {"notice"}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            (declared,) = get_args(parameter.annotation)
            names = names - {parameter.name} | get_type_hints(declared).keys() | {"heat"}
    for name in sorted(names):
        for value in values:
            arguments = {**base, **given, name: value}
            try:
                outcome(lambda arguments=arguments: function(**arguments))
            except BaseException as error:
                error.add_note(f"{function.__qualname__}: {name}={type(value).__name__}")
                raise


def test_no_argument_of_a_model_ends_in_a_traceback(model, monkeypatch):
    done = Done("stop", qwen35_mlx.Usage(1, 0, 1, 0.0, 0.0, 0), HI[0])
    monkeypatch.setattr(Turn, "run", lambda turn: iter([done]))
    short = {"max_tokens": 1}
    for function, base in [
        (model.logits, {"ids": [1]}),
        (model.render, {"messages": HI}),
        (model.ids, {"messages": HI}),
        (model.count, {"messages": HI}),
        (model.stream, {"messages": HI, **short}),
        (model.generate, {"messages": HI, **short}),
        (model.complete, {"prompt": [1], **short}),
        (
            model.turn,
            {"messages": HI, "cache": model.make_cache(), "options": ReplyOptions(max_tokens=1)},
        ),
    ]:
        odd_values_for(function, base, {})
    for value in ODD:
        outcome(lambda value=value: model.generate([{"role": "user", "content": value}], **short))


def test_no_argument_of_a_chat_ends_in_a_traceback(model, tmp_path):
    with Library(tmp_path) as library:
        number = library.create(title="Old")
        add_message(library, number, None, "user", "Hello")
        for base in ({}, {"library": library}):
            odd_values_for(Chat, {"model": model}, base)
        odd_values_for(Chat.open, {"model": model}, {"library": library})
        chat = Chat(model, library=library, **GREEDY)
        list(chat.send("Hello", max_tokens=1))
        asked = chat.messages[0].id
        short = {"max_tokens": 1}
        for function, base in [
            (chat.send, {"content": "Hello", **short}),
            (chat.retry, short),
            (chat.edit, {"message": asked, "text": "Hello", **short}),
            (chat.branch, {"message": asked}),
            (chat.select, {"message": asked}),
            (chat.configure, {"settings": ChatSettings()}),
        ]:
            odd_values_for(function, base, {})
        for field in ChatSettings.__slots__:
            for value in ODD:
                settings = ChatSettings(**{field: value})
                outcome(lambda settings=settings: chat.configure(settings))
        chat.configure(ChatSettings(sampling=GREEDY))
        assert not outcome(lambda: chat.send("Hello", max_tokens=1))
        stored = library.conversation(chat.conversation.id)
        assert stored.messages == chat.conversation.messages
        assert stored.settings == chat.settings


def test_no_argument_of_a_library_ends_in_a_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path / "home"))
    for value in ODD:
        outcome(lambda value=value: Library(value).close())
    with Library() as library:
        number = library.create(title="Old")
        message = add_message(library, number, None, "user", "Hello")
        base: dict[str, Any] = {"conversation": number, "message": message, "text": "x"}
        base |= {"title": "x", "leaf": message.id, "model": "x", "name": "Old"}
        base |= {"settings": ChatSettings(), "files": ["model/0-1-a-b"], "shelf": "pinned"}
        for kind in (ConversationStore, Library):
            for name, function in vars(kind).items():
                if name.startswith("_") or name in ("close", "set_columns"):
                    continue
                bound = getattr(library, name)
                own = {n: v for n, v in base.items() if n in inspect.signature(function).parameters}
                if name in ("message", "position", "has_message"):
                    own["message"] = message.id
                if name == "add_conversation":
                    own["conversation"] = library.conversation(number)
                odd_values_for(bound, own, {})
        assert library.conversation(number).messages == (message,)


@pytest.mark.parametrize("function", ["load", "convert"])
def test_no_argument_of_load_and_convert_ends_in_a_traceback(
    model_folder, tmp_path, monkeypatch, function
):
    monkeypatch.chdir(tmp_path)
    base = {"name": model_folder}
    if function == "convert":  # without what takes long
        base = {"hf_path": model_folder, "verify": False}
    odd_values_for(getattr(qwen35_mlx, function), base, {})
    for dtype in ("int4", 5, [], "float32"):
        outcome(lambda dtype=dtype: load(model_folder, dtype=dtype))


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("max_tokens is 0: give -1 \\(no limit\\) or a whole number", {"max_tokens": 0}),
    ("max_tokens is 1.5", {"max_tokens": 1.5}),
    ("max_tokens is nan", {"max_tokens": math.nan}),
    ("max_tokens is True", {"max_tokens": True}),
    ("max_tokens is '5'", {"max_tokens": "5"}),
    ("seed is -1: give a whole number of 0 or more or None", {"seed": -1}),
    ("seed is 1180591620717411303424", {"seed": 2**70}),
    ("seed is 'a'", {"seed": "a"}),
    (r"stop is \[5\]: give a string or a list of strings", {"stop": [5]}),
    ("stop is 5", {"stop": 5}),
    ("stop is None", {"stop": None}),
    ("a stop string is empty", {"stop": ""}),
]


@pytest.mark.parametrize(("words", "options"), REFUSED, ids=lambda value: str(value)[:20])
def test_arguments_that_meant_no_limit_are_refused(model, words, options):
    chat = Chat(model, **GREEDY)
    for call in (model.stream, model.generate):
        with pytest.raises(Qwen35Error, match=words):
            call(HI, **options)
    with pytest.raises(Qwen35Error, match=words):
        chat.send("Hi", **options)
    assert chat.messages == ()


def test_a_conversation_needs_its_library(model):
    with pytest.raises(Qwen35Error, match="conversation 5 is in a library"):
        Chat(model, conversation=5)


def test_numbers_of_numpy_are_stored_as_plain_ones(model, tmp_path):
    half: Any = np.float32(0.5)
    seed: Any = np.int64(5)
    with Library(tmp_path) as library, Chat(model, library=library, top_p=half) as chat:
        chat.configure(ChatSettings(seed=seed, sampling=chat.settings.sampling))
        list(chat.send("Hi", max_tokens=seed))
        stored = library.conversation(chat.conversation.id).settings
        assert stored == chat.settings == ChatSettings(seed=5, sampling={"top_p": 0.5})


@pytest.mark.parametrize("kind", [Model, Chat, Library, ConversationStore])
def test_every_public_method_checks_its_arguments(kind):
    for name, member in vars(kind).items():
        function = member.__func__ if isinstance(member, classmethod) else member
        if inspect.isfunction(function) and not name.startswith("_"):
            assert hasattr(function, "__wrapped__"), name


def test_a_second_turn_is_refused_while_one_is_open(model):
    chat = Chat(model, **GREEDY)
    first = chat.send("Question 1", max_tokens=5)
    for begun in (False, True):
        if begun:
            next(first)
        for again in (
            lambda: chat.send("Question 2"),
            lambda: chat.retry(),
            lambda: chat.edit(1, "Question 2"),
            lambda: chat.branch(None),
            lambda: chat.select(1),
            lambda: chat.compact(),
        ):
            with pytest.raises(Qwen35Error, match="still being written"):
                again()
    assert isinstance(list(first)[-1], Done)
    list(chat.send("Question 2", max_tokens=5))
    assert [m.parent for m in chat.messages] == [None, 1, 2, 3]
    chat.send("Question 3")  # dropped before it began
    broken = chat.send("Question 3", max_tokens=9)
    next(broken)
    broken.close()
    broken.close()
    third = chat.send("Question 3", max_tokens=9)
    del third
    gc.collect()
    list(chat.send("Question 4", max_tokens=5))
    assert chat.messages[4].content == "Question 4"


def test_closing_a_chat_ends_its_open_turn_and_a_closed_one_is_refused(model, tmp_path):
    with Library(tmp_path) as library:
        with Chat(model, library=library, **GREEDY) as chat:
            events = chat.send("Question 1", max_tokens=50)
            while not isinstance(next(events), Answer):
                pass
        assert chat.messages[-1].state == "cancelled"
        assert list(events) == []
        with pytest.raises(Qwen35Error, match="this chat is closed"):
            chat.send("Question 2")
        with Library(tmp_path) as other:
            assert other.claim(chat.conversation.id)


def test_a_closed_model_has_written_its_states_and_still_replies(model_folder, tmp_path):
    with Library(tmp_path) as library:
        with load(model_folder) as model:
            chat = Chat(model, library=library, **GREEDY)
            list(chat.send("Question 1 and some words", max_tokens=5))
        stored = len(list((tmp_path / STATES).glob("*/*")))
        assert stored
        *_, done = chat.send("Question 2", max_tokens=5)
        assert isinstance(done, Done)
        assert done.usage.cached_tokens
        chat.close()
        assert len(list((tmp_path / STATES).glob("*/*"))) == stored
        again = Chat(model, library=library, conversation=chat.conversation.id)
        list(again.send("Question 3", max_tokens=5))
        again.close()
        assert len(list((tmp_path / STATES).glob("*/*"))) > stored
        model.close()


def test_a_turn_dropped_in_another_thread_leaves_the_arrays_alone(model, monkeypatch, tmp_path):
    writers: list[threading.Thread] = []
    monkeypatch.setattr(
        SnapshotCache, "write", lambda _: writers.append(threading.current_thread())
    )
    with Library(tmp_path) as library, Chat(model, library=library, **GREEDY) as chat:
        kept = [chat.send("Hello", max_tokens=50)]
        while not isinstance(next(kept[0]), Answer):
            pass
        worker = threading.Thread(target=kept.clear)
        worker.start()
        worker.join()
        assert chat.messages[-1].state == "cancelled"
        assert chat.messages[-1].content
        assert worker not in writers
        list(chat.send("Hello again", max_tokens=2))
        assert threading.current_thread() in writers


def test_a_dropped_model_ends_its_writer_and_a_dropped_library_its_claims(model_folder, tmp_path):
    library = Library(tmp_path)
    model = load(model_folder)
    writer = model.open_states(tmp_path)._writer
    assert library.claim(number := library.create())
    del model, library
    gc.collect()
    writer.join(30)
    assert not writer.is_alive()
    with Library(tmp_path) as other:
        assert other.claim(number)


# Other threads, forks and the end of the process


def run(folder: Path, case: str, returncode: int = 0) -> list[str]:
    """The lines that a child prints; it must end with this code and print no error."""
    command = [sys.executable, "-m", "tests.session.misuse_child", str(folder), case]
    cwd = Path(__file__).parents[2]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd)
    assert (child.stderr, child.returncode) == ("", returncode)
    return child.stdout.splitlines()


def stored(folder: Path) -> tuple[list[str], int]:
    """The states of the messages of the only conversation, and the number of files of states."""
    with Library(folder) as library:
        (only,) = library.list()
        messages = library.conversation(only.id).messages
    return [m.state for m in messages], len(list((folder / STATES).glob("*/*.state.*")))


def test_another_thread_is_refused_and_its_process_ends_well(tmp_path):
    *refused, state, reason = run(tmp_path, "thread")
    assert len(refused) == 7
    assert all(line.startswith("refused:") and "'MainThread'" in line for line in refused)
    assert (state, reason) == ("cancelled", "length")
    states, files = stored(tmp_path)
    assert states == ["complete", "cancelled", "complete", "complete"]
    assert files


def test_what_is_dropped_without_close_has_its_states_written(tmp_path):
    run(tmp_path, "forgotten")
    states, files = stored(tmp_path)
    assert states == ["complete", "complete"]
    assert files


def test_a_turn_that_is_open_at_the_end_is_saved_with_its_states(tmp_path):
    run(tmp_path, "abandoned", returncode=3)
    with Library(tmp_path) as library:
        assert library.deleted() == []  # purged, as after a close
    states, files = stored(tmp_path)
    assert states == ["complete", "cancelled"]
    assert files


def test_an_engine_that_is_not_closed_ends_its_turn_with_the_process(tmp_path):
    run(tmp_path, "engine")
    assert stored(tmp_path)[0] == ["complete", "cancelled"]


def test_a_forked_process_touches_nothing_of_its_parent(tmp_path):
    *refused, connected, code, reason, claimed = run(tmp_path, "fork")
    assert len(refused) == 6
    assert all(line.startswith("refused:") and "forked" in line for line in refused)
    assert (connected, code, reason, claimed) == ("True", "7", "length", "False")
    states, files = stored(tmp_path)
    assert states == ["complete", "complete"]
    assert files
