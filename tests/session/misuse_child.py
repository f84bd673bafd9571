"""Processes that use a model as one should not; the test looks at what they print and leave behind.

python -m tests.session.misuse_child FOLDER CASE
"""

import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import qwen35_mlx
from qwen35_mlx.library.library import Library
from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.session.engine import EngineThread
from qwen35_mlx.session.requests import Send

HI: list[Any] = [{"role": "user", "content": "Hi"}]


def refusals(*calls: Callable[[], Any]) -> None:
    """Print the error of each call."""
    for call in calls:
        try:
            print("no error:", call())
        except qwen35_mlx.Qwen35Error as error:
            print("refused:", error)


def slow_disk() -> None:
    """Let every write of a state take a while, so that some are pending."""
    write = snapshot_file.write

    def slow(*arguments: Any) -> int:
        time.sleep(0.5)
        return write(*arguments)

    snapshot_file.write = slow


def open_turn(folder: str) -> tuple[qwen35_mlx.Chat, Any]:
    """A chat in a library, and the events of a turn whose reply has begun."""
    chat = qwen35_mlx.Chat(qwen35_mlx.load("demo"), library=Library(folder), temperature=0.0)
    events = chat.send("What is 17 + 25? " * 20, max_tokens=40, seed=1)
    for event in events:
        if isinstance(event, qwen35_mlx.Thinking | qwen35_mlx.Answer):
            break
    return chat, events


def thread(folder: str) -> None:
    """Another thread uses the model, the chat and the open turn, and drops the last reference."""
    chat, events = open_turn(folder)
    waiting = [events]
    del events

    def other() -> None:
        refusals(
            lambda: next(waiting[0]),
            lambda: waiting[0].close(),
            lambda: chat.send("Hi"),
            lambda: chat.messages and chat.context_used,
            lambda: chat.model.generate(HI),
            lambda: chat.model.logits([1]),
            lambda: qwen35_mlx.Chat(chat.model),
        )
        waiting.clear()

    worker = threading.Thread(target=other)
    worker.start()
    worker.join()
    print(chat.messages[-1].state)
    *_, done = chat.send("And 1 + 1?", max_tokens=5)
    print(done.finish_reason)


def forgotten(folder: str) -> None:
    """A function that closes nothing: the model, the chat and the library are dropped."""
    slow_disk()
    chat = qwen35_mlx.Chat(qwen35_mlx.load("demo"), library=Library(folder))
    list(chat.send("What is 17 + 25? " * 20, max_tokens=5))
    del chat
    gc.collect()


def abandoned(folder: str) -> None:
    """A turn is open when the process ends by an error."""
    chat, _ = globals()["kept"] = open_turn(folder)
    library = chat._library
    assert library is not None
    library.delete(library.create(title="deleted"))
    raise SystemExit(3)


def engine(folder: str) -> None:
    """An engine is in a turn when the process ends."""
    running = EngineThread("demo", library=Library(folder))
    running.start()
    running.submit(Send("What is 17 + 25? " * 20))
    while not any(isinstance(event, qwen35_mlx.Answer) for event in running.poll()):
        pass
    globals()["kept"] = running


def fork(folder: str) -> None:
    """A forked process uses and closes everything, and ends; then the turn goes on."""
    slow_disk()
    chat, events = open_turn(folder)
    chat._snapshots.write()  # pending when the process forks
    library = chat._library
    assert library is not None
    running = EngineThread("demo", library=library)
    running.start()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        refusals(
            lambda: next(events),
            lambda: chat.send("Hi"),
            lambda: chat.model.count(HI),
            lambda: library.count(),
            lambda: library.claim(chat.conversation.id),
            lambda: running.submit(Send("Hi")),
        )
        for opened in (running, chat, chat.model, library):
            opened.close()
        print(bool(library._connections))  # SQLite's are not closed: they are the parent's
        sys.exit(7)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
    *_, done = events
    print(done.finish_reason)
    with Library(folder) as other:
        print(other.claim(chat.conversation.id))
    running.close()


if __name__ == "__main__":
    home, case = sys.argv[1:]
    globals()[case](home)
