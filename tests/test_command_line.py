"""How commands end: `run_command`, and Ctrl-C while a command still starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen35_mlx.command_line import run_command

# Presses Ctrl-C when the first heavy module is imported, and runs a module as `python -m` does.
INTERRUPTED = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
class Press:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mlx", "numpy", "tokenizers"):
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press())
sys.argv[1:] = sys.argv[2:]
runpy.run_module("qwen35_mlx." + os.environ["COMMAND"], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(("message", "line"), [("", "interrupted"), ("x", "interrupted: x")])
def test_ctrl_c_is_one_line(message: str, line: str, capsys: pytest.CaptureFixture[str]):
    def interrupt() -> int:
        raise KeyboardInterrupt(message)

    assert run_command("p", interrupt) == 130
    assert capsys.readouterr() == ("", f"{line}\n")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("convert", ["--hf-path", "demo"]), ("compare", ["demo", "demo"]), ("check", [])],
)
def test_ctrl_c_during_imports_is_one_line(command: str, arguments: list[str], tmp_path: Path):
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "-", *arguments],
        cwd=tmp_path,
        env={**os.environ, "COMMAND": command},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "interrupted\n")
    assert list(tmp_path.iterdir()) == []
