"""What the screen costs: `python -m scripts.bench_ui`.

1. While a block of 300 lines of code streams in at 150 tokens/s below 200 messages: how late the
   event loop is.
2. The demo model's decoding under the app, beside the same engine whose events a bare loop takes:
   in one reply, by turns, so that neither what else runs nor the conversation's length counts in.
3. Opening a conversation of 2,000 messages, from Enter in the list of conversations.
4. A key during 1, from its byte to the terminal until its character comes out of it; beside it a
   program that echoes bytes, so what the system takes of it.
5. A start: from the new process until the first whole frame, and beside it Python's and Textual's.

The app runs on a pseudo-terminal of 120x40, whose output is read and thrown away. All bars are for
two CPU cores; what else runs on them counts in, so runs alternate and are repeated. Prints a table
and ends in one JSON line.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwen35_mlx.library.conversation import Conversation, Message
from qwen35_mlx.library.library import Library
from scripts import timing, ui_window
from scripts.terminal import Terminal
from scripts.ui_window import STEPS

SIZE = (120, 40)
HISTORY, LONG = 200, 2_000  # messages
LAST = "This is the last line of it."
# Of which each is typed once, so that it can be found in what the terminal is sent.
KEYS = [chr(code) for code in range(0x0391, 0x0530) if chr(code).isalpha()]
QUIT, NEW, SESSIONS = "\x11", "\x0e", "/sessions"
ECHO = "import os, tty; tty.setraw(0)\nwhile data := os.read(0, 99): os.write(1, data)"
WELCOME, CUE = "Enter sends", "F1 help"
BARS = {
    "loop's lag p99 ms": 50.0,
    "decode lost to the screen": 0.12,
    "open 2,000 messages ms": 300.0,
    "key to character p99 ms": 30.0,
    "start to first frame s": 0.7,
}


def message(number: int) -> str:
    """Something like what is said in a chat."""
    if number % 2 == 0:
        return f"How would I write step {number} so that it can be tested?"
    text = (
        f"Give **step {number}** what it needs as arguments, and have it *return* what it finds "
        "instead of printing it. Then a test calls it, and looks at `result`:\n\n"
        "- it reads no file,\n- it asks no clock,\n- it changes nothing it was given.\n\n"
    )
    if number % 10 == 1:
        text += "```python\n" + "".join(f"value_{n} = step({n}, {number})\n" for n in range(12))
        text += "```\n"
    return text


def conversation(count: int, title: str) -> Conversation:
    messages = [
        Message(
            id=n + 1,
            parent=n or None,
            role="assistant" if n % 2 else "user",
            content=LAST if n == count - 1 else message(n),
            created=time.time(),
        )
        for n in range(count)
    ]
    now = time.time()
    return Conversation(
        id=1, title=title, messages=tuple(messages), leaf=count, created=now, updated=now
    )


def environment(home: Path) -> dict[str, str]:
    """Of a process as a user starts it: compiled files are kept."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "QWEN35_HOME": str(home), "TERM": "xterm-256color"}


@contextmanager
def chat(home: Path, *options: str) -> Iterator[Terminal]:
    """The command in a terminal, its model loaded."""
    command = [str(Path(sys.executable).with_name("qwen35-chat")), *options]
    with Terminal(command, environment=environment(home), size=SIZE) as terminal:
        terminal.until(lambda: CUE in terminal.text)
        yield terminal
        terminal.write(QUIT)
        terminal.wait()


def step(name: str, home: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "scripts.bench_ui", "--step", name, "--folder", str(home), *more]


def found(home: Path) -> dict[str, Any]:
    return json.loads((home / "found.json").read_text())


def p99(values: Sequence[float]) -> float:
    return sorted(values)[min(int(len(values) * 0.99), len(values) - 1)]


def streaming(home: Path) -> dict[str, Any]:
    """1 and 4."""
    with Library(home) as library:
        number = library.add_conversation(conversation(HISTORY, "History"))
    command = step("stream", home, "--conversation", str(number))
    with (
        Terminal([sys.executable, "-c", ECHO], environment=environment(home)) as echo,
        Terminal(command, environment=environment(home), size=SIZE) as terminal,
    ):
        terminal.until(lambda: LAST in terminal.text and CUE in terminal.text)
        terminal.write("Write it\r")
        terminal.until(lambda: "Writing" in terminal.text)
        echoes: list[float] = []

        def writing() -> bool:
            echoes.append(delay(echo, "x"))
            return "Writing" in terminal.text

        delays = typed(terminal, writing)
        after = typed(terminal, lambda: True, KEYS[len(delays) :][:20])
        terminal.write(QUIT)
        terminal.wait()
    seen = found(home)
    assert seen["lags"], "nothing was looked at"
    return {
        "tok/s": seen["tok/s"],
        "loop's lag p99 ms": 1e3 * p99(seen["lags"]),
        "loop's lag max ms": 1e3 * max(seen["lags"]),
        "keys": len(delays),
        "key to character p50 ms": 1e3 * statistics.median(delays),
        "key to character p99 ms": 1e3 * p99(delays),
        "of it a bare echo p50 ms": 1e3 * statistics.median(echoes),
        "of it a bare echo p99 ms": 1e3 * p99(echoes),
        "key to character max ms": 1e3 * max(delays),
        "the same after the reply's end": 1e3 * max(after),
        "cpu s": seen["cpu s"],
    }


def typed(
    terminal: Terminal, going_on: Callable[[], bool], keys: Sequence[str] = KEYS
) -> list[float]:
    """Type while something goes on; seconds until each character came out of the terminal."""
    delays: list[float] = []
    gaps = random.Random(0)
    for number, key in enumerate(keys):
        # Now and then a pause, in which the draft is saved.
        pause = gaps.uniform(0.6, 0.9) if number % 12 == 11 else gaps.uniform(0.02, 0.2)
        end = time.perf_counter() + pause
        while (left := end - time.perf_counter()) > 0:
            terminal.pump(left)
        if not going_on():
            break
        delays.append(delay(terminal, key))
    return delays


def delay(terminal: Terminal, key: str) -> float:
    """Seconds from a key until its character comes."""
    wanted, seen = key.encode(), b""
    started = now = time.perf_counter()
    terminal.write(key)
    while wanted not in seen:
        if now - started > 5.0:
            raise TimeoutError(f"{key} never came; the screen:\n{terminal.text}")
        seen = seen[-4:] + terminal.pump(5.0)
        now = time.perf_counter()
    return now - started


def decoding(home: Path, windows: int) -> dict[str, Any]:
    """2."""
    (home / "settings.toml").write_text('thinking_view = "open"\n')  # all of it is drawn
    command = step("decode", home, "--windows", str(windows))
    with Terminal(command, environment=environment(home), size=SIZE) as terminal:
        if terminal.wait(600):
            raise SystemExit(terminal.text)
    seen = found(home)
    on, off = seen["on"], seen["off"]
    assert min(on + off) > 0, "the reply was too short"
    # Beside each stretch with the screen, those without before and after it.
    lost = [1 - 2 * on[n] / (off[n - 1] + off[n]) for n in range(1, len(off))]
    return {
        "windows": windows,
        "tok/s with the screen": statistics.median(on),
        "tok/s without": statistics.median(off),
        "lost quartiles": statistics.quantiles(lost, n=4),
        "decode lost to the screen": statistics.median(lost),
    }


def opening(home: Path, runs: int) -> dict[str, Any]:
    """3. Each time from a new conversation, in a process whose model is loaded."""
    with Library(home) as library:
        library.add_conversation(conversation(LONG, "The long one"))
    seconds: list[float] = []
    with chat(home) as terminal:
        for _ in range(runs):
            terminal.write(f"{SESSIONS}\r")
            terminal.until(lambda: "The long one" in terminal.text and "goes back" in terminal.text)
            while terminal.pump(0.3):
                pass
            started = time.perf_counter()
            terminal.write("\r")
            terminal.until(lambda: LAST in terminal.text and "goes back" not in terminal.text)
            seconds.append(time.perf_counter() - started)
            terminal.write(NEW)
            terminal.until(lambda: WELCOME in terminal.text and LAST not in terminal.text)
    return {
        "open 2,000 messages ms": 1e3 * min(seconds),
        "first time ms": 1e3 * seconds[0],
        "median ms": 1e3 * statistics.median(seconds),
    }


def starting(home: Path, runs: int) -> dict[str, Any]:
    """5."""
    chat_s: list[float] = []
    others: dict[str, list[float]] = {"python": [], "import textual": []}
    code = {"python": "pass", "import textual": "import textual.app, textual.widgets._text_area"}
    command = [str(Path(sys.executable).with_name("qwen35-chat"))]
    for _ in range(runs + 1):  # the first one may have to compile
        started = time.perf_counter()
        with Terminal(command, environment=environment(home), size=SIZE) as terminal:
            terminal.until(lambda: WELCOME in terminal.text and "loading" in terminal.text)
            chat_s.append(time.perf_counter() - started)
            terminal.until(lambda: CUE in terminal.text)
            terminal.write(QUIT)
            terminal.wait()
        for name, program in code.items():
            started = time.perf_counter()
            run = [sys.executable, "-c", program]
            with Terminal(run, environment=environment(home), size=SIZE) as terminal:
                terminal.wait()
            others[name].append(time.perf_counter() - started)
    return {
        "start to first frame s": min(chat_s[1:]),
        "median s": statistics.median(chat_s[1:]),
        **{f"{name} s": min(seconds[1:]) for name, seconds in others.items()},
        "over import textual": min(chat_s[1:]) / min(others["import textual"][1:]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", help="the number of one measurement; 1 and 4 are one")
    parser.add_argument("--runs", type=int, default=5, help="of 3 and 5")
    parser.add_argument("--windows", type=int, default=41, help="stretches of time in 2")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--conversation", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        ui_window.run(args)
        return 0
    measurements: dict[str, Callable[[Path], dict[str, Any]]] = {
        "14": streaming,
        "2": lambda home: decoding(home, args.windows),
        "3": lambda home: opening(home, args.runs),
        "5": lambda home: starting(home, args.runs),
    }
    rows: list[dict[str, Any]] = []
    everything: dict[str, Any] = {}
    for numbers, measure in measurements.items():
        if args.only is not None and args.only not in numbers:
            continue
        home = Path(tempfile.mkdtemp(prefix="bench-ui-"))
        try:
            result = measure(home)
        finally:
            shutil.rmtree(home, ignore_errors=True)
        print(json.dumps(result), flush=True)
        everything[measure.__name__ if numbers == "14" else numbers] = result
        rows += [
            {"what": name, "value": result[name], "bar": bar, "met": result[name] <= bar}
            for name, bar in BARS.items()
            if name in result
        ]
    timing.table(rows)
    timing.json_line("ui", rows, cores=len(os.sched_getaffinity(0)), details=everything)
    return 0


if __name__ == "__main__":
    sys.exit(main())
