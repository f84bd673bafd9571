"""A fault of the app itself, in a real terminal: one line, and no private text."""

import os
import sys
import time
from pathlib import Path

import pytest

from qwen35_mlx import exit_codes
from qwen35_mlx.crash import FILE
from qwen35_mlx.library.conversation import Message
from qwen35_mlx.library.library import Library
from scripts.support.terminal import Terminal

SAID, TYPED, RAISED = "a-secret-that-was-said", "a-secret-typed", "a-secret-raised"
FAULTS = {
    "a widget": "Status.render = broken",
    "a key": "ChatScreen.complete = broken",
    "a timer": "ChatScreen.show_progress = broken",
    "a worker": "app.chat.run_worker(broken, thread=True)",
    "a task": "keep.append(asyncio.get_running_loop().create_task(task()))",
    "a thread": "threading.Thread(target=broken).start()",
}
CODE = """
import asyncio, gc, sys, threading
from qwen35_chat.main import main
from qwen35_chat.app import ChatApp
from qwen35_chat.screens.chat import ChatScreen
from qwen35_chat.widgets.status import Status

keep = []

def broken(*_, **__):
    text = {raised!r}
    raise KeyError(text)

async def task():
    broken()

def inject(self):
    app = self.app
    if {typed!r} in self.composer.text and not keep:
        keep.append(1)
        {fault}
        app.chat.refresh(layout=True)
        app.chat.transcript.refresh()
    elif keep:
        del keep[1:]
        gc.collect()

poll = ChatScreen._drain
async def drain(self):
    await poll(self)
    inject(self)
ChatScreen._drain = drain
sys.exit(main(["--continue"]))
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_no_private_text_is_left_behind(home: Path, fault: str) -> None:
    with Library(home) as library:
        conversation = library.create(model="demo")
        library.add_message(conversation, Message(0, None, "user", SAID))
    kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"QWEN35_HOME": str(home), "HOME": str(home), "LC_ALL": "C.UTF-8"}
    raw = bytearray()
    code = CODE.format(raised=RAISED, typed=TYPED, fault=FAULTS[fault])
    with Terminal(
        [sys.executable, "-c", code], environment=environment, folder=home, size=(120, 30),
        on_output=raw.extend,
    ) as terminal:  # fmt: skip
        terminal.until(lambda: SAID in terminal.text)
        terminal.write(TYPED)
        if fault == "a key":
            terminal.until(lambda: TYPED in terminal.text)
            time.sleep(0.5)  # a frame later, keys fail
            terminal.write("!")
        if fault in ("a task", "a thread"):  # the app goes on
            terminal.until(lambda: (home / FILE).exists())
            terminal.until(lambda: TYPED in terminal.text)
            terminal.write("\x11")
            assert terminal.wait() == 0
        else:
            assert terminal.wait() == exit_codes.CRASHED
            assert "qwen35-chat hit an error of its own (KeyError in " in terminal.text
            assert str(home / FILE) in "".join(terminal.text.split("\n"))
        left = terminal.text
    assert not {SAID, TYPED, RAISED} & set(left.split())
    assert "secret" not in left
    assert "Traceback" not in left
    assert RAISED.encode() not in bytes(raw)
    report = (home / FILE).read_text()
    assert "KeyError" in report
    assert "secret" not in report
    with Library(home) as library:  # what was typed is kept
        assert library.draft(conversation).startswith(TYPED)
