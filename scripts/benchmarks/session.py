"""The cost of turns and restarts: `python -m scripts.benchmarks.session`.

1. A long prompt: prefill, save, end the process, resume in another, two more turns in both. mlx-lm
   does the same, and writes its whole cache each time; it is left out with `--shape`.
2. Twenty turns with thinking: tokens prefilled, beside mlx-lm with its prompt cache (on the
   conversation rendered by the same template, which drops old thinking), and bytes written per
   turn, beside its `save_prompt_cache`. Left out with `--shape`, which has no tokenizer.

Runs the demo model; `--shape 35b-a3b` (random weights) or `--model FOLDER` selects another, and
`--context 262144` the full window. Results are printed as they come, and are kept if a later phase
fails or `--seconds` run out. Prints tables and ends in one JSON line.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import qwen35_mlx
from scripts.benchmarks import session_peer, session_process, session_turns
from scripts.benchmarks.session_peer import PEER
from scripts.support import report
from scripts.support.random_weights import SHAPES

# Shares of `--seconds`: when prefill stops early, and when the first process is killed.
PREFILL_SHARE, FIRST_SHARE = 0.55, 0.8

Phases = dict[str, dict[str, Any]]  # measurements of one process, by phase


def run_process(name: str, args: argparse.Namespace, folder: Path, seconds: float) -> Phases:
    """Run one process, `name` in `session_process.PROCESSES` or PEER, for at most `seconds`.

    Returns the phases it completed, and one called "process" with its exit code.
    """
    command = [sys.executable, "-m", "scripts.benchmarks.session", "--process", name]
    command += ["--shape", args.shape] if args.shape else ["--model", args.model]
    command += ["--bits", str(args.bits), "--context", str(args.context), "--folder", str(folder)]
    command += ["--prefill-seconds", str(args.prefill_seconds)]
    phases: Phases = {}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    timeout = threading.Timer(max(seconds, 1), process.kill)
    timeout.start()
    assert process.stdout is not None
    try:
        for line in process.stdout:
            passed = time.perf_counter() - started
            print(f"{name} {passed:6.1f} s  {line}", end="", flush=True)
            if line.startswith('{"phase"'):
                phase = json.loads(line)
                phases[phase.pop("phase")] = phase
        code = process.wait()
    finally:
        timeout.cancel()
        if process.poll() is None:
            process.kill()
    passed = time.perf_counter() - started
    phases["process"] = {"s": passed, "exit code": code, "out of time": passed >= seconds}
    return phases


def run_processes(args: argparse.Namespace, folder: Path) -> dict[str, Phases]:
    """The phases of each process, by its name."""
    started = time.perf_counter()
    first = run_process("first", args, folder, args.seconds * FIRST_SHARE)
    left = args.seconds - (time.perf_counter() - started)
    processes = {"first": first, "again": run_process("again", args, folder, left)}
    left = args.seconds - (time.perf_counter() - started)
    if not args.shape and not args.no_peer:
        processes[PEER] = run_process(PEER, args, folder, left)
    return processes


def summary(processes: dict[str, Phases]) -> dict[str, Any]:
    """Results by name; None where a process did not get that far."""
    first, again = processes["first"], processes["again"]

    def of(phases: Phases, phase: str, name: str) -> Any:
        return phases.get(phase, {}).get(name)

    def ratio(one: float | None, other: float | None) -> float | None:
        return one / other if one is not None and other else None

    rows: dict[str, Any] = {
        "tokens in the prompt": of(first, "prefill", "tokens"),
        "prefill s": of(first, "prefill", "prefill s"),
        "prefill tok/s": of(first, "prefill", "tok/s"),
        "waited for saving s, in all": of(first, "prefill", "waited for saving s"),
        **first.get("memory", {}),
        "saved MB": of(first, "saved", "saved MB"),
        "disk MB/s": of(first, "saved", "disk MB/s"),
        "resumed tokens": of(again, "resume", "tokens"),
    }
    for name in ("resume", "resume, files in memory"):
        seconds = of(again, name, "resume s")
        rows[f"{name} s"] = seconds
        rows[f"prefill over {name}"] = ratio(rows["prefill s"], seconds)
    for name in ("saved MB", "save s, engine waits", "save s, on disk", "first token s"):
        for number in (1, 2):
            rows[f"turn {number} after it: {name}"] = of(again, f"turn {number}", name)
    long, short = (first.get(f"first token, {at}", {}) for at in ("long", "short"))
    for at, timed in (("long", long), ("short", short)):
        for name in ("tokens", "first token s", "of it attention s", "decode tok/s"):
            rows[f"{at}: {name}"] = timed.get(name)
    rows["first token, long over short"] = ratio(
        long.get("first token s"), short.get("first token s")
    )
    if long and short:
        more = long["of it attention s"] - short["of it attention s"]
        rows["first token, long over short, without attention's more"] = (
            long["first token s"] - more
        ) / short["first token s"]
    for phase, name in (
        ("prefill", "prefill s"),
        ("resume", "resume s"),
        ("turn 2", "first token s"),
        ("turn 2", "decode tok/s"),
        ("turn 2", "saved MB"),
        ("turn 2", "save s"),
    ):
        if PEER in processes:
            rows[f"{PEER}, {phase}: {name}"] = of(processes[PEER], phase, name)
    rows["same weights"] = _same(first, again, "model", "fingerprint")
    for number in (1, 2):
        rows[f"turn {number}: reply as without a restart"] = _same(
            first, again, f"turn {number}", "reply"
        )
        rows[f"turn {number}: state as without a restart, to the bit"] = _same(
            first, again, f"turn {number}", "state"
        )
    return rows


def _same(first: Phases, again: Phases, phase: str, name: str) -> bool | None:
    if phase not in first or phase not in again:
        return None
    return first[phase][name] == again[phase][name]


def problems(
    args: argparse.Namespace, processes: dict[str, Phases], rows: dict[str, Any]
) -> list[str]:
    """One line per failed process, notice of the engine, or result that is wrong."""
    lines = []
    for name, phases in processes.items():
        process = phases["process"]
        if process["exit code"] != 0:
            why = "ran out of time" if process["out of time"] else "failed"
            last = [phase for phase in phases if phase != "process"][-1:]
            lines.append(f"process '{name}' {why} after {last[0] if last else 'nothing'}")
        lines += [line for phase in phases.values() for line in phase.get("notices", [])]
    reached = rows["tokens in the prompt"] or 0
    if reached < args.context:
        lines.append(f"prefill reached {reached:,} of {args.context:,} tokens in its time")
    if rows["resumed tokens"] != rows["tokens in the prompt"]:
        lines.append(f"resumed {rows['resumed tokens']} of {reached:,} tokens")
    lines += [f"not so: {name}" for name, value in rows.items() if value is False]
    return lines


def long_prompt(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Measure the long prompt; returns the results and the problems."""
    processes = run_processes(args, folder)
    rows = summary(processes)
    print(f"\n{args.context:,} tokens, another process, two turns")
    report.print_table([{"what": name, "value": value} for name, value in rows.items()])
    lines = problems(args, processes, rows)
    for line in lines:
        print(f"PROBLEM: {line}")
    return {**rows, "phases": processes, "problems": lines}, lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="demo", help="folder, or repository on the Hub")
    parser.add_argument("--shape", choices=SHAPES, help="random weights in place of a model")
    parser.add_argument(
        "--bits", type=int, default=4, choices=(4, 8), help="bits of the random weights"
    )
    parser.add_argument("--context", type=int, default=32768, help="tokens of the long prompt")
    parser.add_argument("--turns", type=int, default=20, help="turns of the chat; 0 leaves it out")
    parser.add_argument("--no-peer", action="store_true", help="leave mlx-lm out")
    parser.add_argument("--folder", type=Path, help="for snapshots; default: a temporary one")
    parser.add_argument("--seconds", type=float, default=3600, help="time limit of the long prompt")
    parser.add_argument("--prefill-seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument(
        "--process", choices=[*session_process.PROCESSES, PEER], help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.context <= 2 * session_process.QUESTION:
        parser.error(f"--context is {args.context}: give more tokens")
    if args.process:
        (session_peer if args.process == PEER else session_process).run(args)
        return 0
    args.prefill_seconds = args.seconds * PREFILL_SHARE
    folder = args.folder or Path(tempfile.mkdtemp(prefix="bench-session-"))
    chat: dict[str, Any] = {}
    results: dict[str, Any] = {}
    failures = ["interrupted"]
    try:
        results, failures = long_prompt(args, folder / "long")
        if not args.shape and args.turns:
            model = qwen35_mlx.load(args.model)
            peer = not args.no_peer
            chat = session_turns.compare(model, folder / "library", args.turns, peer)
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
        report.print_json("session", [results], model=args.shape or args.model, chat=chat)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
