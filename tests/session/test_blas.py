"""OpenBLAS takes the place of MLX's own BLAS, and a line says so where it is missing."""

import ctypes
import subprocess
import sys

import mlx.core as mx
import pytest

from qwen35_mlx.library.conversation import Usage
from qwen35_mlx.session import blas
from qwen35_mlx.session.events import Answer, Done, Notice

SLOW = Done("stop", Usage(900, 0, 5, blas.SLOW_SECONDS, 0.1, 0), {})
QUICK = Done("stop", Usage(900, 0, 5, blas.SLOW_SECONDS - 0.1, 0.1, 0), {})
# Loads MLX as the chat, `-p` and the server do, with a ctypes that notes what it is asked for.
LOAD = """
import ctypes, sys
real = ctypes.CDLL
def note(name, *mode):
    if name == "libopenblas.so.0":
        print(mode == (ctypes.RTLD_GLOBAL,), "mlx.core" in sys.modules)
        raise OSError("not found")
    return real(name, *mode)
ctypes.CDLL = note
from qwen35_chat import one_shot
from qwen35_mlx.session.loaded_model import check_mlx
check_mlx()
check_mlx()
print("mlx.core" in sys.modules)
"""


class Machine:
    """What is installed, for `ctypes.CDLL` and `shutil.which`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, preloaded: bool = False, apt: bool):
        symbols = type("Symbols", (), {"cblas_sgemm": None} if preloaded else {})
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(ctypes, "CDLL", lambda name, *mode: symbols())
        monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/apt" if apt else None)
        monkeypatch.setattr("mlx.core.default_device", lambda: mx.cpu)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has a BLAS of its own")
def test_openblas_is_loaded_globally_once_and_before_mlx():
    run = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True)
    assert (run.stdout.split(), run.stderr) == (["True", "False", "True"], "")


def test_the_hint_comes_once_after_a_slow_prompt(monkeypatch: pytest.MonkeyPatch):
    Machine(monkeypatch, apt=True)
    hint = blas.BlasHint()
    assert hint.after(Answer("a")) is None
    assert hint.after(QUICK) is None
    line = "prompts are read several times as fast with OpenBLAS: sudo apt install libopenblas0, "
    assert hint.after(SLOW) == Notice(f"{line}and start again")
    assert hint.after(SLOW) is None


def test_the_hint_names_the_library_where_there_is_no_apt(monkeypatch: pytest.MonkeyPatch):
    Machine(monkeypatch, apt=False)
    hint = blas.BlasHint().after(SLOW)
    assert hint is not None
    assert "install the package that has libopenblas.so.0" in hint.message


@pytest.mark.parametrize("preloaded", [True, False])
def test_there_is_no_hint_with_a_fast_blas_or_on_a_mac(
    preloaded: bool, monkeypatch: pytest.MonkeyPatch
):
    Machine(monkeypatch, preloaded=preloaded, apt=True)
    if not preloaded:
        monkeypatch.setattr(sys, "platform", "darwin")
    assert blas.BlasHint().after(SLOW) is None
