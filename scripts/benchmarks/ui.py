"""The cost of the terminal interface: `python -m scripts.benchmarks.ui`.

1. Lag of the event loop while a code block of 300 lines streams in at 150 tokens/s below 200
   messages.
2. Decoding speed of the demo model with the screen drawing and with a bare loop that only takes
   the events. Both alternate within one reply, so that other load on the machine and the length of
   the conversation affect both alike.
3. Opening a conversation of 2,000 messages, from Enter in the list of conversations.
4. Latency of a key during 1: from its byte into the terminal to its character out of it. Beside it
   the same for a program that echoes bytes, which is the share of the system.
5. Start-up: from the new process to the first complete frame. Beside it Python, and Python with
   Textual imported.
6. As 1 and 4, while a Chinese reply streams in: paragraphs without spaces, with bold and code.
7. As 1, 3 and 4, below and with a message of 100,000 characters, English and Chinese.

The app runs on a pseudo-terminal of 120x40 whose output is read and discarded. The limits are for
two CPU cores. Prints a table and ends in one JSON line.
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
from scripts.benchmarks import ui_process
from scripts.benchmarks.ui_process import PROCESSES
from scripts.support import report
from scripts.support.terminal import Terminal

SIZE = (120, 40)
HISTORY, LONG = 200, 2_000  # messages
LAST = "This is the last line of it."
LONG_MESSAGE = 100_000  # characters
# Each is typed once, so that its echo is unambiguous in the output.
KEYS = [chr(code) for code in range(0x0391, 0x0530) if chr(code).isalpha()]
QUIT, NEW, SESSIONS = "\x11", "\x0e", "/sessions"
ECHO = "import os, tty; tty.setraw(0)\nwhile data := os.read(0, 99): os.write(1, data)"
WELCOME, CUE = "Enter sends", "F1 help"
LIMITS = {
    "loop's lag p99 ms": 50.0,
    "decode lost to the screen": 0.12,
    "open 2,000 messages ms": 300.0,
    "key to character p99 ms": 30.0,
    "start to first frame s": 0.7,
}
# The same limits for other texts.
CHINESE, WITH_LONG = "Chinese: ", "100,000 characters: "
LIMITS |= {
    f"{text}{name}": LIMITS[name]
    for text in (CHINESE, WITH_LONG)
    for name in ("loop's lag p99 ms", "key to character p99 ms")
}
LIMITS["open 100,000 characters ms"] = LIMITS["open 2,000 messages ms"]


def message(number: int) -> str:
    """Typical chat text: a question if `number` is even, a Markdown answer if odd."""
    if number % 2 == 0:
        return f"How would I write step {number} so that it can be tested?"
    text = (
        f"Pass **step {number}** its inputs as arguments, and have it *return* its result "
        "instead of printing it. A test can then call it and check `result`:\n\n"
        "- it reads no file,\n- it reads no clock,\n- it does not modify its inputs.\n\n"
    )
    if number % 10 == 1:
        text += "```python\n" + "".join(f"value_{n} = step({n}, {number})\n" for n in range(12))
        text += "```\n"
    return text


def long_message() -> str:
    """A message of `LONG_MESSAGE` characters that ends in `LAST`."""
    texts = (ui_process.chinese(), message(1), ui_process.chinese().replace("\n", ""))
    text = "\n\n".join(texts * (1 + LONG_MESSAGE // sum(map(len, texts))))
    return f"{text[: LONG_MESSAGE - len(LAST) - 2]}\n\n{LAST}"


def conversation(count: int, title: str, last: str = LAST) -> Conversation:
    """A conversation of `count` messages.

    Args:
        last: its last message, which ends in `LAST`.
    """
    messages = [
        Message(
            id=n + 1,
            parent=n or None,
            role="assistant" if n % 2 else "user",
            content=last if n == count - 1 else message(n),
            created=time.time(),
        )
        for n in range(count)
    ]
    now = time.time()
    return Conversation(
        id=1, title=title, messages=tuple(messages), leaf=count, created=now, updated=now
    )


def environment(home: Path) -> dict[str, str]:
    """Environment as a user's: Python keeps its compiled files, and all data is in `home`."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "QWEN35_HOME": str(home), "TERM": "xterm-256color"}


@contextmanager
def chat(home: Path, *options: str) -> Iterator[Terminal]:
    """The command `qwen35-chat` in a terminal, with its model loaded."""
    command = [str(Path(sys.executable).with_name("qwen35-chat")), *options]
    with Terminal(command, environment=environment(home), size=SIZE) as terminal:
        terminal.until(lambda: CUE in terminal.text)
        yield terminal
        terminal.write(QUIT)
        terminal.wait()


def instrumented(name: str, home: Path, *more: str) -> list[str]:
    """Command of a process in `ui_process`."""
    command = [sys.executable, "-m", "scripts.benchmarks.ui", "--process", name]
    return [*command, "--folder", str(home), *more]


def result_of_process(home: Path) -> dict[str, Any]:
    return json.loads((home / ui_process.RESULT).read_text())


def p99(values: Sequence[float]) -> float:
    return sorted(values)[min(int(len(values) * 0.99), len(values) - 1)]


def streaming(home: Path, reply: str = "code", last: str = LAST, what: str = "") -> dict[str, Any]:
    """Measurements 1 and 4.

    Args:
        reply: the name of the text that streams in, for the process.
        last: the message above it.
        what: before the names of the results.
    """
    with Library(home) as library:
        number = library.add_conversation(conversation(HISTORY, "History", last))
    command = instrumented("stream", home, "--conversation", str(number), "--reply", reply)
    with (
        Terminal([sys.executable, "-c", ECHO], environment=environment(home)) as echo,
        Terminal(command, environment=environment(home), size=SIZE) as terminal,
    ):
        terminal.until(lambda: LAST in terminal.text and CUE in terminal.text)
        terminal.write("Write it\r")
        terminal.until(lambda: "Writing" in terminal.text)
        echoes: list[float] = []

        def writing() -> bool:
            echoes.append(key_latency(echo, "x"))
            return "Writing" in terminal.text

        delays = type_keys(terminal, writing)
        after = type_keys(terminal, lambda: True, KEYS[len(delays) :][:20])
        terminal.write(QUIT)
        terminal.wait()
    measured = result_of_process(home)
    assert measured["lags"], "nothing was measured"
    results = {
        "tok/s": measured["tok/s"],
        "loop's lag p99 ms": 1e3 * p99(measured["lags"]),
        "loop's lag max ms": 1e3 * max(measured["lags"]),
        "keys": len(delays),
        "key to character p50 ms": 1e3 * statistics.median(delays),
        "key to character p99 ms": 1e3 * p99(delays),
        "of it a bare echo p50 ms": 1e3 * statistics.median(echoes),
        "of it a bare echo p99 ms": 1e3 * p99(echoes),
        "key to character max ms": 1e3 * max(delays),
        "the same after the reply's end": 1e3 * max(after),
        "cpu s": measured["cpu s"],
    }
    return {f"{what}{name}": value for name, value in results.items()}


def type_keys(
    terminal: Terminal, condition: Callable[[], bool], keys: Sequence[str] = KEYS
) -> list[float]:
    """Type `keys` while `condition()` holds; returns the latency of each in seconds."""
    delays: list[float] = []
    rng = random.Random(0)
    for number, key in enumerate(keys):
        # Sometimes a longer pause, in which the app saves the draft.
        pause = rng.uniform(0.6, 0.9) if number % 12 == 11 else rng.uniform(0.02, 0.2)
        end = time.perf_counter() + pause
        while (left := end - time.perf_counter()) > 0:
            terminal.pump(left)
        if not condition():
            break
        delays.append(key_latency(terminal, key))
    return delays


def key_latency(terminal: Terminal, key: str) -> float:
    """Seconds from writing a key until its character is in the output.

    Raises:
        TimeoutError: it does not appear within 5 seconds.
    """
    expected, output = key.encode(), b""
    started = now = time.perf_counter()
    terminal.write(key)
    while expected not in output:
        if now - started > 5.0:
            raise TimeoutError(f"{key} did not appear; the screen:\n{terminal.text}")
        output = output[-4:] + terminal.pump(5.0)
        now = time.perf_counter()
    return now - started


def decoding(home: Path, windows: int) -> dict[str, Any]:
    """Measurement 2."""
    # The screen draws the thoughts too.
    (home / "settings.toml").write_text('thinking_view = "open"\n')
    command = instrumented("decode", home, "--windows", str(windows))
    with Terminal(command, environment=environment(home), size=SIZE) as terminal:
        if terminal.wait(600):
            raise SystemExit(terminal.text)
    measured = result_of_process(home)
    on, off = measured["on"], measured["off"]
    assert min(on + off) > 0, "the reply is too short"
    # Each window with the screen is compared with the windows without it before and after.
    lost = [1 - 2 * on[n] / (off[n - 1] + off[n]) for n in range(1, len(off))]
    return {
        "windows": windows,
        "tok/s with the screen": statistics.median(on),
        "tok/s without": statistics.median(off),
        "lost quartiles": statistics.quantiles(lost, n=4),
        "decode lost to the screen": statistics.median(lost),
    }


def opening(
    home: Path, runs: int, what: str = "2,000 messages", count: int = LONG, last: str = LAST
) -> dict[str, Any]:
    """Measurement 3, each time from a new conversation."""
    with Library(home) as library:
        library.add_conversation(conversation(count, "The long one", last))
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
        f"open {what} ms": 1e3 * min(seconds),
        "first time ms": 1e3 * seconds[0],
        "median ms": 1e3 * statistics.median(seconds),
    }


def long_text(home: Path, runs: int) -> dict[str, Any]:
    """Measurement 7."""
    streamed = streaming(home, last=long_message(), what=WITH_LONG)
    return streamed | opening(home, runs, "100,000 characters", 2, long_message())


def starting(home: Path, runs: int) -> dict[str, Any]:
    """Measurement 5."""
    chat_s: list[float] = []
    others: dict[str, list[float]] = {"python": [], "import textual": []}
    code = {"python": "pass", "import textual": "import textual.app, textual.widgets._text_area"}
    command = [str(Path(sys.executable).with_name("qwen35-chat"))]
    for _ in range(runs + 1):  # the first run may compile files
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
    parser.add_argument("--only", help="number of one measurement; 1 and 4 run together")
    parser.add_argument("--runs", type=int, default=5, help="repetitions of 3 and 5")
    parser.add_argument("--windows", type=int, default=41, help="windows of time in 2")
    parser.add_argument("--process", choices=PROCESSES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--reply", choices=ui_process.REPLIES, help=argparse.SUPPRESS)
    parser.add_argument("--conversation", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.process:
        ui_process.run(args)
        return 0
    measurements: dict[str, Callable[[Path], dict[str, Any]]] = {
        "14": streaming,
        "2": lambda home: decoding(home, args.windows),
        "3": lambda home: opening(home, args.runs),
        "5": lambda home: starting(home, args.runs),
        "6": lambda home: streaming(home, "chinese", what=CHINESE),
        "7": lambda home: long_text(home, args.runs),
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
            {"what": name, "value": result[name], "bar": limit, "met": result[name] <= limit}
            for name, limit in LIMITS.items()
            if name in result
        ]
    report.print_table(rows)
    report.print_json("ui", rows, cores=len(os.sched_getaffinity(0)), details=everything)
    return 0


if __name__ == "__main__":
    sys.exit(main())
