"""Two servers and the chat in a terminal, all real processes, on one library at the same time.

The number of questions is small here. More of them:

    QWEN35_QUESTIONS=20 scripts/test tests/server/test_with_the_app.py -s
"""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import pytest

from qwen35_mlx.library.library import Library
from tests.app.real_terminal import QUIT, chat
from tests.server.serving import ServerProcess, start_server
from tests.server.test_sessions import ask, connect
from tests.session.test_engine_kills import check_stored_files

QUESTIONS = int(os.environ.get("QWEN35_QUESTIONS", "0"))
SESSIONS = ("Trip", "Garden")
# What a lock or a save that failed would be called, on the screen or by a server.
TROUBLE = re.compile(r"lock|busy|not saved|try again|error|Traceback", re.IGNORECASE)

pytestmark = pytest.mark.skipif(not QUESTIONS, reason="takes long: set QWEN35_QUESTIONS")


def talk(server: ServerProcess, name: str, session: str) -> dict[str, str]:
    """Ask all questions in a session, one after the other; the replies by question."""
    client, replies = connect(server), {}
    for number in range(QUESTIONS):
        question = f"{name} {session} {number}"
        found = ask(client, [{"role": "user", "content": question}], session=session)
        replies[question] = found.choices[0].message.content
    return replies


def pairs(library: Library, title: str) -> dict[str, str]:
    """The questions of a conversation and their replies, as stored."""
    number = library.titled(title)
    assert number is not None
    path = library.conversation(number).path()
    assert [message.role for message in path] == ["user", "assistant"] * (len(path) // 2)
    assert {message.state for message in path[1::2]} <= {"complete"}
    return {one.content: two.content for one, two in zip(path[::2], path[1::2], strict=True)}


def test_two_servers_and_the_app_lose_nothing_and_show_no_lock(tmp_path: Path):
    started = time.monotonic()
    output = bytearray()
    servers = {"one": start_server(tmp_path), "two": start_server(tmp_path)}
    with (
        ThreadPoolExecutor(len(servers) * len(SESSIONS)) as pool,
        chat(tmp_path, "--no-thinking", on_output=output.extend) as terminal,
    ):
        terminal.until(lambda: "0 / 8,192" in terminal.text)  # the model is loaded
        work = [
            pool.submit(talk, server, name, session)
            for name, server in servers.items()
            for session in SESSIONS
        ]
        asked = []
        while not all(one.done() for one in work) or len(asked) < QUESTIONS:
            asked.append(f"app {len(asked)}")
            terminal.write(f"{asked[-1]}\r")
            with Library(tmp_path) as library:
                terminal.until(lambda: replied(library, asked))
        terminal.write(QUIT)
        assert terminal.wait() == 0
    shown = [one.result() for one in work]
    for server in servers.values():
        assert server.stop() == 0
        assert not any(map(TROUBLE.search, server.lines)), server.lines
    assert not TROUBLE.search(output.decode(errors="replace"))
    with Library(tmp_path) as library:
        assert len(library.list()) == len(SESSIONS) + 1
        for session in SESSIONS:
            want = {q: a for replies in shown for q, a in replies.items() if session in q}
            found = pairs(library, session)
            assert {question: answer.strip() for question, answer in found.items()} == want
            assert len(found) == len(servers) * QUESTIONS
            assert longest_run(found) <= 2  # they take turns
    files = check_stored_files(tmp_path)
    seconds = time.monotonic() - started
    print(f"\n{sum(map(len, shown))} + {len(asked)} questions, {files} states, {seconds:.0f} s")


def longest_run(found: dict[str, str]) -> int:
    """The most questions that a server answered in a row while the other one had some, too."""
    runs = [len(list(run)) for _, run in groupby(question.split()[0] for question in found)]
    return max(runs[1:-1], default=0)


def replied(library: Library, asked: list[str]) -> bool:
    """Whether the newest question of the app has its whole reply."""
    path = next(
        (
            library.conversation(one.id).path()
            for one in library.list()
            if one.title not in SESSIONS
        ),
        (),
    )
    return [m.content for m in path[::2]] == asked and path[-1].state == "complete"
