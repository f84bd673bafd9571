"""An engine killed amid replies in sessions loses none that it acknowledged; two lose nothing.

The number of kills is small here. The full count:

    QWEN35_KILLS=50 scripts/test tests/session/test_session_kills.py -s
"""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.request_engine import RequestEngine
from tests.session.clients import Clients
from tests.session.durable_child import done_of
from tests.session.test_engine_kills import check_stored_files, killed

KILLS = int(os.environ.get("QWEN35_KILLS", "2"))
# Sessions at the same time, and kills after which others begin: the context of the model is small.
SESSIONS, KILLS_EACH = 6, 3


def start(
    model: Path, folder: Path, name: str, sessions: list[str], questions: int, tokens: int
) -> subprocess.Popen[str]:
    words = [str(model), str(folder), name, ",".join(sessions), str(questions), str(tokens)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.session.request_engine_child", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def check_acknowledged(library: Library, events: list[dict[str, Any]]) -> None:
    """Every question that was acknowledged is stored, and every whole reply is as it was shown."""
    replies: dict[str, int] = {}
    for event in events:
        match event["event"]:
            case "started":
                assert library.message(event["user"]).content == event["text"]
                assert library.message(event["reply"]).parent == event["user"]
                replies[event["text"]] = event["reply"]
            case "done":
                reply = library.message(replies[event["text"]])
                assert (reply.state, reply.content) == ("complete", event["content"])
            case "failed" | "notice":
                raise AssertionError(event["line"])


def test_every_session_that_was_acknowledged_goes_on_after_a_kill(model_folder, tmp_path):
    rng = random.Random(KILLS)
    seen: Counter[str] = Counter()
    asked: set[str] = set()
    for number in range(KILLS):
        sessions = [f"{number // KILLS_EACH}.{one}" for one in range(SESSIONS)]
        process = start(model_folder, tmp_path, f"k{number}", sessions, 1000, 30)
        kind, most = rng.choice([("started", 12), ("token", 120), ("done", 6)])
        events, _ = killed(process, kind, rng.randint(1, most), rng.uniform(0, 0.02))
        seen.update(event["event"] for event in events)
        asked |= {event["session"] for event in events if event["event"] == "started"}
        with Library(tmp_path) as library:
            check_acknowledged(library, events)
        check_stored_files(tmp_path)
    print(f"\n{KILLS} kills: {dict(seen)}")
    with Library(tmp_path) as library:
        engine = RequestEngine(str(model_folder), library=library)
        engine.start()
        clients = Clients(engine)
        after = {session: clients.ask("And now?", session=session) for session in sorted(asked)}
        for session, one in after.items():
            assert one.done().usage.cached_tokens >= 0
            path = library.conversation(library.titled(session) or 0).path()
            assert path[-2].content == "And now?"
        engine.close()


def test_two_engines_and_a_chat_on_one_library_lose_nothing(model_folder, model, tmp_path):
    """Both engines reply in the same sessions, and the chat writes beside them."""
    questions, names = 3, ["a", "b"]
    Library(tmp_path).close()
    processes = [
        start(model_folder, tmp_path, name, names, questions, 6) for name in ("one", "two")
    ]
    with Library(tmp_path) as library:
        with Chat(model, library=library) as chat:
            while any(process.poll() is None for process in processes):
                done_of(chat.send("Question", max_tokens=2))
                if len(chat.messages) > 8:
                    chat.branch(None)
        for process in processes:
            lines, errors = process.communicate()
            assert errors == ""
            events = [json.loads(line) for line in lines.splitlines()]
            assert Counter(event["event"] for event in events)["done"] == questions * len(names)
            check_acknowledged(library, events)
        for name in names:
            number = library.titled(name)
            assert number is not None
            path = library.conversation(number).path()
            expected = [f"{who} {name} {n}" for who in ("one", "two") for n in range(questions)]
            assert sorted(m.content for m in path if m.role == "user") == expected
    model.close()
    check_stored_files(tmp_path)
