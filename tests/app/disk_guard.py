"""Fails a test in which the app waits for the disk on the thread of its event loop."""

import asyncio
import builtins
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from qwen35_mlx.library.database import Database

# Functions through which Python's own modules reach the file system.
SYSTEM_CALLS: tuple[tuple[Any, str], ...] = (
    (builtins, "open"),
    (io, "open"),
    *((os, name) for name in ("open", "stat", "lstat", "scandir", "listdir", "mkdir", "unlink")),
    *((os, name) for name in ("rename", "replace")),
    (subprocess.Popen, "__init__"),
    (Database, "_connection"),
)
# The scripted engine stands for one with a thread of its own; the editor has the whole terminal.
APART = ("/qwen35_chat/fake.py", "/qwen35_chat/editor.py")
# What is imported at its first use is read once, from the installation.
IMPORTS = "<frozen importlib"
# The thread of the event loop that waits for servers.
SERVERS = "mcp"
# A library that an earlier test forgot is closed by the garbage collector, at any call.
FINALIZERS = "/weakref.py"


def caller_in_app(frame: FrameType | None) -> str:
    """Where the app, run by the event loop, makes the call of this frame; "" for any other call."""
    found = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(IMPORTS) or file.endswith(APART) or "/tests/" in file:
            return ""
        if file.endswith(FINALIZERS):
            return ""
        if "/qwen35_chat/" in file:
            found = found or f"{file}:{frame.f_lineno}"
        elif found and ("/textual/" in file or "/asyncio/" in file):
            return found
        frame = frame.f_back
    return found


def guarded(name: str, function: Callable[..., Any], found: list[str]) -> Callable[..., Any]:
    """The function, which notes in `found` where it is called from the app's event loop."""

    def call(*arguments: Any, **named: Any) -> Any:
        on_screen = threading.current_thread().name != SERVERS
        if (
            on_screen
            and asyncio._get_running_loop()
            and (caller := caller_in_app(sys._getframe(1)))
        ):
            found.append(f"{caller} calls {name}")
        return function(*arguments, **named)

    return call


def guard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Watch the disk until the patches are undone; returns a list of what was found."""
    found: list[str] = []
    for owner, name in SYSTEM_CALLS:
        function = guarded(name, getattr(owner, name), found)
        monkeypatch.setattr(owner, name, function)
    return found
