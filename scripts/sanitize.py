"""The kernels' tests under compute-sanitizer, on CUDA: `python -m scripts.sanitize`.

First each tool must find an error planted in a kernel that is launched through MLX; a tool that
misses it cannot find errors in our kernels either, and runs no tests. Then each test file runs in a
process of its own, at most `--jobs` at once. Prints a table and ends in one JSON line; the logs
stay in `--folder`.
"""

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scripts.support import report

FILES = (
    *("matvec", "qk_norm_rope", "decode_attention", "decode_attention_8bit", "experts"),
    "delta_net",
)
TESTS = [f"tests/kernels/test_{name}.py" for name in FILES] + ["tests/model/test_with_kernels.py"]
# By tool, a test that it cannot run: it aborts ("failed to handle a hardware exception") in one of
# MLX's own kernels, before the first of ours.
EXCLUDED = {
    "racecheck": "tests/model/test_with_kernels.py"
    "::test_the_demo_in_bfloat16_replies_the_same_with_kernels"
}
# By tool, a kernel body for 64 threads with an error that it must find.
PLANTED = {
    "memcheck": "y[threadIdx.x] = x[threadIdx.x + (1 << 28)];",
    "racecheck": """
        __shared__ float shared[64];
        shared[threadIdx.x] = x[threadIdx.x];
        y[threadIdx.x] = shared[63 - threadIdx.x];
    """,
}
PROGRAM = """
import mlx.core as mx
kernel = mx.fast.cuda_kernel("qwen35_planted", ["x"], ["y"], {body!r})
x = mx.random.normal((64,))
mx.eval(x, *kernel(inputs=[x], grid=(64, 1, 1), threadgroup=(64, 1, 1), output_shapes=[(64,)],
                   output_dtypes=[mx.float32]))
"""


def run(tool: str, command: Sequence[str], log: Path, seconds: float) -> dict[str, Any]:
    """Run Python with these arguments under one tool, limited to the kernels of this package.

    Args:
        log: file for the output; the tool writes its own findings beside it, as `.found`.

    Returns:
        "exit": the exit code, None after `seconds`; "errors": their number, None if not reported.
    """
    findings = log.with_suffix(".found")
    sanitizer = ["compute-sanitizer", "--tool", tool, "--kernel-name", "kns=qwen35"]
    sanitizer += ["--target-processes", "all", "--log-file", str(findings)]
    # The default report, "analysis", misses a race in a kernel that is evaluated together with its
    # inputs, as in the tests.
    sanitizer += ["--racecheck-report", "hazard"] if tool == "racecheck" else []
    # Without CUDA graphs, each tool is known to find its planted error.
    environment = {**os.environ, "MLX_USE_CUDA_GRAPHS": "0"}
    with log.open("w") as file:
        try:
            code: int | None = subprocess.run(
                [*sanitizer, sys.executable, *command],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    text = findings.read_text() if findings.exists() else ""
    counts = re.findall(r"(?:ERROR SUMMARY: |displayed \()(\d+) errors?", text)
    return {"exit": code, "errors": sum(map(int, counts)) if counts else None}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "tests", nargs="*", default=TESTS, help="test files; default: all of the kernels"
    )
    parser.add_argument("--tools", choices=PLANTED, nargs="+", default=list(PLANTED))
    parser.add_argument("-k", default="", help="expression for pytest")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    parser.add_argument("--seconds", type=float, default=1800, help="time limit of each process")
    parser.add_argument("--folder", type=Path, help="folder for logs; default: a temporary one")
    args = parser.parse_args()
    if shutil.which("compute-sanitizer") is None:
        parser.error("compute-sanitizer is not on the PATH: it comes with the CUDA toolkit")
    folder = args.folder or Path(tempfile.mkdtemp(prefix="sanitize-"))
    folder.mkdir(parents=True, exist_ok=True)

    rows: list[dict[str, Any]] = []
    for tool in args.tools:
        program = PROGRAM.format(body=PLANTED[tool])
        result = run(tool, ["-c", program], folder / f"planted-{tool}.log", args.seconds)
        rows.append({"tool": tool, "what": "a planted error", **result})
    blind = [row["tool"] for row in rows if not row["errors"]]

    def test(job: tuple[str, str]) -> dict[str, Any]:
        tool, file = job
        pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", file]
        pytest += ["-k", args.k] if args.k else []
        pytest += ["--deselect", EXCLUDED[tool]] if tool in EXCLUDED else []
        log = folder / f"{Path(file).stem}-{tool}.log"
        return {"tool": tool, "what": file, **run(tool, pytest, log, args.seconds)}

    jobs = itertools.product([tool for tool in args.tools if tool not in blind], args.tests)
    with ThreadPoolExecutor(args.jobs) as pool:
        tested = list(pool.map(test, jobs))
    report.print_table([*rows, *tested])
    for tool in blind:
        print(f"{tool} does not find its planted error on this machine: no tests were run with it")
    for tool in set(args.tools) & set(EXCLUDED):
        print(f"not run with {tool}: {EXCLUDED[tool]}")
    print(f"logs: {folder}")
    report.print_json("sanitize", [*rows, *tested], blind=blind)
    clean = all(row["exit"] == 0 and row["errors"] == 0 for row in tested)
    return 0 if clean and not blind else 1


if __name__ == "__main__":
    sys.exit(main())
