"""A child process with a request engine whose clients ask in sessions, until done or killed.

python -m tests.session.request_engine_child MODEL FOLDER NAME SESSIONS QUESTIONS TOKENS

Each session has a client that sends questions one after the other. Events are written to standard
output, one JSON line each; the test compares the library with them.
"""

import json
import os
import sys
import threading
from pathlib import Path

from qwen35_mlx.library.library import Library
from qwen35_mlx.session import recorder
from qwen35_mlx.session.events import Answer, Cancelled, Done, Event, Failed, Thinking, TurnStarted
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.session.request_engine import RequestEngine


def report(event: str, **values: object) -> None:
    os.write(1, json.dumps({"event": event, **values}).encode() + b"\n")


def ask(engine: RequestEngine, session: str, text: str, tokens: int) -> None:
    """Send a question, and report what comes of it."""
    ended = threading.Event()

    def deliver(event: Event) -> None:
        match event:
            case TurnStarted(_, user, reply):
                report("started", session=session, text=text, user=user, reply=reply)
            case Thinking() | Answer():
                report("token")
            case Done(message=message):
                report("done", session=session, text=text, content=message["content"])
            case Failed(message):
                report("failed", line=message)
        if isinstance(event, Done | Failed | Cancelled):
            ended.set()

    message = {"role": "user", "content": text}
    options = {"max_tokens": tokens, "temperature": 0.0, "presence_penalty": 0.5}
    engine.submit(
        ReplyRequest((message,), options=options, session=session, client=session), deliver
    )
    ended.wait()


def main(model: str, folder: str, name: str, sessions: str, questions: str, tokens: str) -> None:
    recorder.SAVE_SECONDS = 0.0
    with Library(Path(folder)) as library:
        engine = RequestEngine(
            model, library=library, notice=lambda line: report("notice", line=line)
        )
        engine.start()

        def client(session: str) -> None:
            for number in range(int(questions)):
                ask(engine, session, f"{name} {session} {number}", int(tokens))

        clients = [threading.Thread(target=client, args=(one,)) for one in sessions.split(",")]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
