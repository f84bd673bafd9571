"""A fault of the program is reported without a word of the user's."""

import gc
import os
import stat
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import pytest

from qwen35_mlx import exit_codes
from qwen35_mlx.command_line import run_command
from qwen35_mlx.crash import FILE, MOST_FRAMES, CrashReports, report, summary

SECRET = "my secret words"


def raised_below(depth: int) -> None:
    if depth:
        raised_below(depth - 1)
    {}[SECRET]


@pytest.fixture(autouse=True)
def no_secret(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    yield
    out, err = capfd.readouterr()
    assert "secret" not in out + err
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"secret" not in file.read_bytes()


def broken(*_: object, **__: object) -> int:
    return {}[SECRET]


def test_a_command_says_where_and_keeps_the_report_to_its_owner(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FILE).write_text("an older report")
    (tmp_path / FILE).chmod(0o644)
    assert run_command("a-command", broken, lambda: tmp_path) == exit_codes.CRASHED
    _, err = capfd.readouterr()
    assert err.count("\n") == 1
    assert err.startswith("a-command hit an error of its own (KeyError in qwen35_mlx.command_line:")
    assert str(tmp_path / FILE) in err
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    lines = (tmp_path / FILE).read_text().splitlines()
    assert lines[0].startswith("a-command ")
    assert lines[1] == "KeyError"
    assert lines[-1].split()[-1] == "broken"


def test_without_a_place_for_the_report_it_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for reports in (None, lambda: tmp_path / "missing", broken):
        assert run_command("a-command", broken, reports) == exit_codes.CRASHED  # pyright: ignore[reportArgumentType]
        _, err = capfd.readouterr()
        assert "please report it with these lines" in err
        assert err.splitlines()[-1].split()[-1] == "broken"


class PanicError(BaseException):
    """As libraries in Rust raise them."""


def test_a_panic_is_a_fault_and_an_exit_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    def panic() -> int:
        raise PanicError(SECRET)

    assert run_command("a-command", panic) == exit_codes.CRASHED
    assert "(PanicError in qwen35_mlx" in capfd.readouterr().err

    def leave() -> int:
        raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        run_command("a-command", leave)


def test_a_report_is_short_and_names_what_led_to_the_error() -> None:
    deep: BaseException | None = None
    try:
        try:
            raised_below(500)
        except KeyError as first:
            raise ValueError(SECRET) from first
    except ValueError as error:
        deep = error
    assert deep is not None
    lines = report(deep, "a-command")
    assert len(lines) < MOST_FRAMES + 10
    assert [line for line in lines if not line.startswith(" ")][1:] == ["ValueError", "KeyError"]
    assert any("more" in line for line in lines)
    assert summary(deep).startswith("ValueError in tests.test_crash:")
    assert summary(ValueError(SECRET)) == "ValueError"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_threads_and_finalizers_are_covered(tmp_path: Path, capfd) -> None:
    class Finalized:
        def __del__(self) -> None:
            broken()

    before = sys.excepthook, threading.excepthook, sys.unraisablehook
    with CrashReports("a-command", tmp_path):
        thread = threading.Thread(target=broken)
        thread.start()
        thread.join()
        assert "a-command hit an error of its own (KeyError in" in capfd.readouterr().err
        (tmp_path / FILE).unlink()
        Finalized()
        gc.collect()
        assert (tmp_path / FILE).exists()
        assert capfd.readouterr().err == ""
    assert (sys.excepthook, threading.excepthook, sys.unraisablehook) == before


@pytest.mark.parametrize("command", ["convert", "check", "session.__main__"])
def test_every_command_reports_without_values(command: str, monkeypatch, capfd) -> None:
    monkeypatch.setattr(sys, "argv", ["a-command"])
    module = import_module(f"qwen35_mlx.{command}")
    monkeypatch.setattr(module, "_run", broken)
    assert module.main() == exit_codes.CRASHED
    assert "hit an error of its own (KeyError in" in capfd.readouterr().err


@pytest.mark.parametrize("options", [["-p", "hi"], ["--plain"], ["--list"]])
def test_the_chat_reports_without_values(options: list[str], tmp_path: Path) -> None:
    code = f"""
import sys
from qwen35_chat import library_commands, one_shot, plain_mode
from qwen35_chat.main import main
def broken(*_, **__):
    text = {SECRET!r}
    raise KeyError(text)
one_shot.run = library_commands.print_list = plain_mode.PlainMode._read_message = broken
sys.exit(main({options!r}))
"""
    environment = {**os.environ, "QWEN35_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], input=b"", capture_output=True, env=environment, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == exit_codes.CRASHED
    assert b"qwen35-chat hit an error of its own (KeyError in " in done.stderr
    assert b"Traceback" not in done.stderr
    assert SECRET.encode() not in done.stdout + done.stderr
    assert "KeyError" in (tmp_path / FILE).read_text()
