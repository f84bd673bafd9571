"""The server as programs use it: `python -m scripts.benchmarks.server --peers mlx-lm`.

The same requests go to this package's server, to the peers' and to those of `--url`, one server
after the other, through the API of OpenAI with streaming:

| row | requests |
|---|---|
| prompt | one with a long prompt that no server has seen |
| turn N | the last of a conversation whose client sends the whole history every time |
| N at once | as many as that, of different questions, at the same time |

`first token s` is until the first piece of a reply, of thinking or of the answer, on average;
`read` are tokens of the prompt that were not cached, as the server reports them; `tok/s` counts the
reply tokens of all requests, from the first request to the end. Prints a table and ends in one
JSON line.
"""

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qwen35_mlx.checkpoint.hub import resolve_checkpoint
from qwen35_mlx.command_line import CommandParser, run_command
from qwen35_mlx.errors import Qwen35Error, shown
from scripts.support import report
from scripts.support.mlx_lm_peer import mlx_lm_package

OURS = "ours"
START_SECONDS = 120
TIMEOUT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request.

    Attributes:
        text: of the answer, without thinking.
        first_seconds: until its first piece.
        prompt, cached, tokens: as the server counts; cached is 0 if it does not say.
    """

    text: str
    first_seconds: float
    prompt: int
    cached: int
    tokens: int


def ask(url: str, model: str, messages: Sequence[dict[str, str]], tokens: int) -> Reply:
    """Stream one reply.

    Raises:
        Qwen35Error: the server does not give one.
    """
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.netloc, timeout=TIMEOUT_SECONDS)
    body = {"model": model, "messages": list(messages), "max_tokens": tokens, "temperature": 0.0}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    started, first, text, usage = time.perf_counter(), None, "", {}
    headers = {"content-type": "application/json"}
    connection.request("POST", f"{where.path}/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    if response.status != 200:
        raise Qwen35Error(f"{url} answers {response.status}: {shown(response.read().decode())}")
    for line in response:
        data = line.decode().removeprefix("data:").strip()
        if not line.startswith(b"data:") or data == "[DONE]":
            continue
        chunk = json.loads(data)
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            delta = choice.get("delta", {})
            if first is None and any(
                delta.get(key) for key in ("content", "reasoning_content", "reasoning")
            ):
                first = time.perf_counter() - started
            text += delta.get("content") or ""
    connection.close()
    if "completion_tokens" not in usage:
        raise Qwen35Error(f"{url} reports no usage: it cannot be measured")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    seconds = time.perf_counter() - started if first is None else first
    return Reply(text, seconds, usage["prompt_tokens"], cached, usage["completion_tokens"])


def measure(url: str, model: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each kind of request."""

    def user(text: str) -> dict[str, str]:
        return {"role": "user", "content": text}

    def row(what: str, run: Callable[[], Sequence[Reply]]) -> dict[str, Any]:
        started = time.perf_counter()
        replies = run()
        seconds = time.perf_counter() - started
        tokens = sum(reply.tokens for reply in replies)
        return {
            "request": what,
            "first token s": statistics.mean(reply.first_seconds for reply in replies),
            "prompt": sum(reply.prompt for reply in replies),
            "read": sum(reply.prompt - reply.cached for reply in replies),
            "reply": tokens,
            "tok/s": tokens / seconds,
        }

    ask(url, model, [user("Hello")], 8)  # loads and compiles
    words = " ".join(f"{number} apples" for number in range(args.prompt // 4))
    question = user(f"Read this list: {words}\nHow many lists did you read?")
    yield row("prompt", lambda: [ask(url, model, [question], 8)])
    history: list[dict[str, str]] = []
    for number in range(args.turns - 1):
        history.append(user(f"What is {number + 11} + {number + 25}?"))
        answer = ask(url, model, history, args.tokens).text
        history.append({"role": "assistant", "content": answer.strip() or "I do not know."})
    history.append(user("What is 60 + 12?"))
    yield row(f"turn {args.turns}", lambda: [ask(url, model, history, args.tokens)])

    def at_once(count: int) -> list[Reply]:
        asked = [[user(f"Write a poem about the number {count * 100 + i}")] for i in range(count)]
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(partial(ask, url, model, tokens=args.tokens), asked))

    for count in args.at_once:
        yield row(f"{count} at once", partial(at_once, count))


@contextmanager
def our_server(model: str) -> Iterator[str]:
    """The address of this package's server, with a library of its own."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "qwen35_mlx.server", "--port", "0", "--model", model]
        with _process(command, Path(home)) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = [word for word in line.split() if word.startswith("http://")]
            if not found:
                raise Qwen35Error(f"the server does not start: {line.strip()}")
            yield found[0]


@contextmanager
def mlx_lm_server(model: str) -> Iterator[str]:
    """The address of mlx-lm's server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", model, "--port", str(port)]
    with tempfile.TemporaryDirectory() as home, _process(command, Path(home)):
        _wait_for(port)
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def _process(command: Sequence[str], home: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "QWEN35_HOME": str(home), "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/v1/models")
            connection.getresponse()
        except OSError:
            if time.monotonic() > deadline:
                raise Qwen35Error("mlx-lm's server does not start") from None
            time.sleep(0.2)
        else:
            connection.close()
            return


def run() -> int:
    args = _parser().parse_args()
    servers: dict[str, Callable[[str], Any]] = {OURS: our_server}
    if "mlx-lm" in args.peers:
        mlx_lm_package()
        servers["mlx-lm"] = mlx_lm_server
    path = str(resolve_checkpoint(args.model))
    rows: list[dict[str, Any]] = []
    for name, start in servers.items():
        with ExitStack() as stack:
            url = stack.enter_context(start(path))
            print(f"{name}: {url}", flush=True)
            model = "default" if name == OURS else path
            rows += [{"server": name, **row} for row in measure(url, model, args)]
    for given in args.url:
        name, _, url = given.partition("=")
        rows += [{"server": name, **row} for row in measure(url, args.model, args)]
    report.print_table(rows)
    settings = {key: getattr(args, key) for key in ("prompt", "turns", "tokens", "at_once")}
    report.print_json("server", rows, model=args.model, **settings)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="server", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="demo", help="a folder or a name, as for the chat")
    parser.add_argument("--peers", nargs="*", choices=["mlx-lm"], default=[])
    parser.add_argument(
        "--url",
        nargs="*",
        default=[],
        metavar="NAME=URL",
        help="other servers, such as LM Studio=http://127.0.0.1:1234/v1, with the model --model",
    )
    parser.add_argument("--prompt", type=int, default=1500, help="tokens of the prompt, about")
    parser.add_argument("--turns", type=int, default=20, help="of the conversation")
    parser.add_argument("--tokens", type=int, default=48, help="of a reply, at most")
    parser.add_argument("--at-once", type=int, nargs="*", default=[1, 4, 8], metavar="N")
    return parser


def main() -> int:
    return run_command("server", run)


if __name__ == "__main__":
    sys.exit(main())
