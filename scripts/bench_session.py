"""What turns and restarts cost: `python -m scripts.bench_session`.

1. Twenty turns with thinking: tokens that are prefilled, beside mlx-lm with its prompt cache (the
   conversation rendered by the same template, which drops old thinking), and bytes written a turn,
   beside its `save_prompt_cache`.
2. A long prompt: prefill, save, end the process, resume in another, two more turns.

The demo model by default; `--shape 35b-a3b` (random weights) or `--model FOLDER` for others. Prints
tables and ends in one JSON line.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

import qwen35_mlx
from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Done
from qwen35_mlx.session.kept import CHECKPOINT
from qwen35_mlx.session.library import Library
from qwen35_mlx.session.memory import estimate
from qwen35_mlx.session.states import States
from scripts import timing
from scripts.shapes import SHAPES, random_network, random_source

MODEL = "0" * 32
REPLY = 16
QUESTION = 50
CHUNK = {"cpu": 512, "gpu": 2048}


def tokens(count: int) -> list[int]:
    return [(i * 7919 + i * i) % 1900 for i in range(count)]


# One: turns of a chat


def turns_of_ours(model: qwen35_mlx.Model, folder: Path, turns: int) -> Iterator[dict[str, Any]]:
    with Library(folder) as library:
        chat = Chat(model, library=library, thinking=True, temperature=0.0)
        states = model.states
        assert states is not None
        for turn in range(turns):
            bytes_, seconds = states.written_bytes, states.written_seconds
            done: Done | None = None
            for event in chat.send(_question(turn), max_tokens=150):
                done = event if isinstance(event, Done) else done
            assert done is not None
            states.flush()
            figures = done.figures
            yield {
                "prompt": figures.prompt_tokens,
                "prefilled": figures.prompt_tokens - figures.cached_tokens,
                "bytes": states.written_bytes - bytes_,
                "seconds": states.written_seconds - seconds,
                "message": done.message,
            }


def turns_of_mlx_lm(
    model: qwen35_mlx.Model, folder: Path, messages: list[list[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """The same prompts in mlx-lm, with the cache that its chat keeps.

    A recurrent cache cannot be trimmed, so the cache serves a prompt that begins with all it holds,
    and else starts anew.
    """
    from mlx_lm import load
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, save_prompt_cache

    network: Any = load(str(model.path))[0]
    cache: Any = None
    held: list[int] = []
    for asked in messages:
        prompt = model.render(asked, thinking=True)
        if cache is None or prompt[: len(held)] != held:
            if cache is not None:
                assert not can_trim_prompt_cache(cache)
            cache, held = make_prompt_cache(network), []
        rest = prompt[len(held) :]
        reply: list[int] = []
        for token, _ in generate_step(mx.array(rest), network, max_tokens=150, prompt_cache=cache):
            reply.append(int(token))
            if reply[-1] in model.eos:
                break
        held = prompt + reply
        started = time.perf_counter()
        save_prompt_cache(str(folder / "mlx_lm.safetensors"), cache)
        yield {
            "prompt": len(prompt),
            "prefilled": len(rest),
            "bytes": (folder / "mlx_lm.safetensors").stat().st_size,
            "seconds": time.perf_counter() - started,
        }


def _question(turn: int) -> str:
    return f"What is {17 + turn} + {60 - turn}?"


def chat_flow(model: qwen35_mlx.Model, folder: Path, turns: int, peer: bool) -> dict[str, Any]:
    ours = list(turns_of_ours(model, folder, turns))
    rows = [_row("ours", ours)]
    if peer:
        said: list[dict[str, Any]] = []
        asked = []
        for turn, one in enumerate(ours):
            said.append({"role": "user", "content": _question(turn)})
            asked.append(list(said))
            said.append(one["message"])
        rows.append(_row("mlx-lm", list(turns_of_mlx_lm(model, folder, asked))))
    print(f"{turns} turns with thinking")
    timing.table(rows)
    return {row["what"]: row for row in rows}


def _row(what: str, turns: list[dict[str, Any]]) -> dict[str, Any]:
    count = len(turns)
    return {
        "what": what,
        "prompt tokens, all turns": sum(t["prompt"] for t in turns),
        "prefilled, all turns": sum(t["prefilled"] for t in turns),
        "prefilled, last turn": turns[-1]["prefilled"],
        "MB saved a turn": sum(t["bytes"] for t in turns) / count / 1e6,
        "ms to save a turn": 1000 * sum(t["seconds"] for t in turns) / count,
    }


# Two: a long prompt, and another process


def network_of(args: argparse.Namespace) -> Network:
    if args.shape:
        return random_network(random_source(args.shape, args.bits))
    return qwen35_mlx.load(args.model, context=_context(args)).network


def _context(args: argparse.Namespace) -> int | None:
    own = qwen35_mlx.load(args.model).context if not args.shape else 0
    return args.tokens + 1000 if own < args.tokens + 1000 else None


def turn_at(network: Network, cache: Cache, ids: list[int], chunk: int) -> dict[str, Any]:
    """A turn of `QUESTION` more tokens: seconds to the first token, and the reply."""
    started = time.perf_counter()
    for _ in prefill(network, cache, ids[cache.offset : -1], chunk):
        pass
    stream = decode(network, cache, ids[-1], lambda logits, _: mx.argmax(logits))
    reply = [next(stream)]
    first = time.perf_counter() - started
    reply += [next(stream) for _ in range(REPLY - 1)]
    stream.close()
    return {"first token s": first, "reply": reply}


def two_turns(
    network: Network, states: States | None, prompt: list[int], cache: Cache, chunk: int
) -> list[dict[str, Any]]:
    """After `prompt`, which is in the cache; what each saved, too."""
    found = []
    for _ in range(2):
        prompt = [*prompt, *tokens(QUESTION)]
        bytes_ = states.written_bytes if states else 0
        turn = turn_at(network, cache, prompt, chunk)
        prompt = [*prompt, *turn["reply"]]
        started = time.perf_counter()
        if states:
            states.keep(prompt[: cache.offset], cache.snapshot())
            turn["save s, engine"] = time.perf_counter() - started
            states.flush()
            turn["save s, disk"] = time.perf_counter() - started
            turn["MB saved"] = (states.written_bytes - bytes_) / 1e6
        found.append(turn)
        # What was generated and not used yet is in the cache as well.
        prompt = prompt[: cache.offset]
    return found


def long_prompt(args: argparse.Namespace, folder: Path, chunk: int) -> dict[str, Any]:
    """In a process of its own: `--step first` reads, saves and ends; `--step again` resumes."""
    network = network_of(args)
    prompt = tokens(args.tokens)
    states = States(folder, MODEL, budget=1 << 40)
    cache = network.make_cache()
    first = args.step == "first"
    # What is compiled at first use is no part of a prompt's time.
    turn_at(network, network.make_cache(), tokens(2 * chunk), chunk)
    mx.synchronize()
    mx.clear_cache()
    weights = mx.get_active_memory()
    mx.reset_peak_memory()
    result: dict[str, Any] = {}
    started = time.perf_counter()
    if first:
        for end in [*range(CHECKPOINT, args.tokens, CHECKPOINT), args.tokens]:
            for _ in prefill(network, cache, prompt[cache.offset : end], chunk):
                pass
            states.keep(prompt[:end], cache.snapshot())
        result["prefill s"] = time.perf_counter() - started
        states.flush()
        result["until saved s"] = time.perf_counter() - started
        result["prefill tok/s"] = args.tokens / result["prefill s"]
        result["saved MB"] = states.written_bytes / 1e6
        result["disk MB/s"] = states.written_bytes / 1e6 / states.written_seconds
        result["weights GB"] = weights / 1e9
        result["KV + state GB"] = cache.nbytes / 1e9
        result["peak over both GB"] = (mx.get_peak_memory() - weights - cache.nbytes) / 1e9
        size = network.dtype.size
        wanted = estimate(network.config, size, args.tokens, chunk, None)
        result["estimated over weights GB"] = wanted.total / 1e9
        short = network.make_cache()
        list(prefill(network, short, tokens(2048), chunk))
        result["first token s, at 2K"] = turn_at(
            network, short, [*tokens(2048), *tokens(QUESTION)], chunk
        )["first token s"]
        # The process that never stopped, for comparison.
        result["turns"] = two_turns(network, None, prompt, cache, chunk)
    else:
        restored = states.restore([*prompt, 0], cache)
        mx.eval(cache.arrays)
        mx.synchronize()
        assert restored == args.tokens, states.notices()
        result["resume s"] = time.perf_counter() - started
        result["turns"] = two_turns(network, states, prompt, cache, chunk)
    states.close()
    return result


def restart(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    results = {}
    for step in ("first", "again"):
        command = [sys.executable, "-m", "scripts.bench_session", *sys.argv[1:]]
        command += ["--step", step, "--folder", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[step] = json.loads(done.stdout.splitlines()[-1])
    first, again = results["first"], results["again"]
    same = [t["reply"] for t in first["turns"]] == [t["reply"] for t in again["turns"]]
    ratio = first["prefill s"] / again["resume s"]
    later = again["turns"][-1]
    rows = [
        {"what": name, "value": value}
        for name, value in [
            *((n, v) for n, v in first.items() if n != "turns"),
            ("resume s", again["resume s"]),
            ("prefill over resume", ratio),
            *(
                (f"second turn after it: {n}", v)
                for n, v in again["turns"][-1].items()
                if n != "reply"
            ),
            ("first token, long over 2K", later["first token s"] / first["first token s, at 2K"]),
            ("replies as without a restart", same),
        ]
    ]
    print(f"{args.tokens:,} tokens, another process, two turns")
    timing.table(rows)
    return {row["what"]: row["value"] for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="demo", help="a folder, or a repository on the Hub")
    parser.add_argument("--shape", choices=SHAPES, help="random weights in place of a model")
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8))
    parser.add_argument("--tokens", type=int, default=32768, help="of the long prompt")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--no-peer", action="store_true", help="leave mlx-lm out")
    parser.add_argument("--folder", type=Path, help="for states; default: a temporary one")
    parser.add_argument("--step", choices=("first", "again"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    chunk = CHUNK["cpu" if mx.default_device() == mx.cpu else "gpu"]
    if args.step:
        print(json.dumps(long_prompt(args, args.folder, chunk)))
        return
    folder = args.folder or Path(tempfile.mkdtemp(prefix="bench-session-"))
    flow = {}
    try:
        if not args.shape and args.turns:
            model = qwen35_mlx.load(args.model)
            flow = chat_flow(model, folder / "library", args.turns, not args.no_peer)
        found = restart(args, folder / "long")
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    timing.json_line("session", [found], model=args.shape or args.model, chat=flow)


if __name__ == "__main__":
    main()
