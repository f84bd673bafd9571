"""Downloading a model: progress, cancelling, resuming, and errors with the next step."""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from qwen35_chat import download as download_module
from qwen35_chat.download import Download, throttled

from qwen35_mlx.session.requests import UseModel
from tests.app.drive import Driver, chat
from tests.app.models_drive import StartedDownload, in_cache, make, opened

NINE = "mlx-community/Qwen3.5-9B-MLX-4bit"


async def begun(at: Driver, start: Any = None) -> None:
    opened(at, start=start)
    await at.pilot.pause(0.02)
    await at.press(*"9b", "enter")
    assert "Download 6.0 GB to the cache of Hugging Face? Enter again does" in at.text
    assert at.controller.download is None
    await at.press("enter")


async def test_a_download_shows_its_progress_and_enter_uses_the_model(home, tmp_path) -> None:
    settings = home / "settings.toml"
    settings.write_text("# mine\n")
    async with chat(home, size=(100, 30), settings=settings) as at:
        await begun(at)
        fetched = StartedDownload.last
        assert fetched.name == NINE
        assert "Downloading Qwen3.5-9B-MLX-4bit · starting" in at.text
        fetched.done, fetched.total, fetched.seconds_left = 2_100_000_000, 5_040_000_000, 95.0
        await at.until(lambda: "42% · 2.1 GB of 5.0 GB · 1:35 to go" in at.text)
        await at.press("enter")  # once is enough
        assert StartedDownload.last is fetched
        await at.press("escape")
        assert "downloading Qwen3.5-9B-MLX-4bit 42%" in at.text  # it goes on behind the chat
        opened(at)
        await at.until(lambda: "2.1 GB of 5.0 GB" in at.text)
        make(in_cache(tmp_path, NINE))
        fetched.running = False
        await at.until(lambda: "Qwen3.5-9B-MLX-4bit is here now; Enter uses it" in at.text)
        await at.press("enter")
        assert at.engine.calls[-1] == UseModel(NINE)
        await at.shown()
        assert "Qwen3.5-9B-MLX-4bit\n" in at.text  # on the first screen
        assert settings.read_text() == f'# mine\nmodel = "{NINE}"\n'


async def test_a_download_that_ends_behind_the_chat_is_reported_there(home: Path) -> None:
    async with chat(home) as at:
        await begun(at)
        await at.press("escape")
        StartedDownload.last.running = False
        await at.until(lambda: "Qwen3.5-9B-MLX-4bit is here now; Ctrl+L uses it" in at.text)
        assert at.controller.download is None


async def test_a_cancelled_download_is_resumed_with_enter(home: Path) -> None:
    async with chat(home, size=(100, 30)) as at:
        await begun(at)
        first = StartedDownload.last
        await at.press("ctrl+d")
        assert first.cancelled
        await at.until(lambda: "was stopped; Enter goes on from there" in at.text)
        await at.press("enter")
        assert StartedDownload.last is not first
        assert StartedDownload.last.name == NINE


async def test_a_failed_download_shows_the_next_step_and_can_be_retried(home: Path) -> None:
    async with chat(home, size=(100, 30)) as at:
        await begun(at)
        StartedDownload.last.error = f"no space left to download {NINE}: free some"
        StartedDownload.last.running = False
        await at.until(lambda: "no space left to download" in at.text)
        first = StartedDownload.last
        await at.press("enter")
        assert StartedDownload.last is not first


def program(text: str) -> list[str]:
    return [sys.executable, "-u", "-c", text]


def ended(download: Download) -> Download:
    download._thread.join(20)
    assert not download.running
    return download


def test_reports_of_the_process_are_read_line_by_line() -> None:
    lines = ['{"done": 1, "total": 4}', "not json", "3", "null", '{"folder": "/x"}']
    download = ended(Download("org/repo", program(f"print({chr(10).join(lines)!r})")))
    assert (download.done, download.total, download.fraction) == (1, 4, 0.25)
    assert (download.folder, download.error) == ("/x", "")


def test_a_process_without_a_report_has_failed() -> None:
    download = ended(Download("org/repo", program("raise SystemExit(3)")))
    assert download.error == "the download of org/repo ended with code 3: try again, it goes on"


def test_cancel_ends_the_process_and_is_no_error() -> None:
    text = 'import time; print(\'{"done": 1, "total": 4}\'); time.sleep(60)'
    download = Download("org/repo", program(text))
    for _ in range(2000):
        if download.done:
            break
        time.sleep(0.01)
    download.close()
    assert not download.running
    assert (download.cancelled, download.error, download.done) == (True, "", 1)


def test_the_time_left_ignores_what_an_earlier_download_fetched() -> None:
    now = [0.0]
    text = "import sys\nfor line in sys.stdin: pass"
    download = Download("org/repo", program(text), clock=lambda: now[0])
    assert download.seconds_left is None
    download._left.report(900, 1000)
    now[0] = 10.0
    assert download.seconds_left is None  # an earlier download had fetched 900
    download._left.report(950, 1000)
    assert download.seconds_left == pytest.approx(10.0)
    download.close()


def test_progress_is_throttled_but_not_at_the_end(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(download_module.time, "monotonic", lambda: now[0])
    reports: list[Any] = []
    progress = throttled(reports.append)
    for done in (1, 2, 3):
        progress(done, 10, "org/repo")
    now[0] += 0.3
    progress(4, 10, "org/repo")
    progress(10, 10, "org/repo")
    assert [line["done"] for line in reports] == [1, 4, 10]


def test_the_command_downloads_and_reports(tmp_path: Path, monkeypatch, capsys) -> None:
    def snapshot_download(name: str, *, tqdm_class: Any, **_: Any) -> str:
        bar = tqdm_class(total=10, unit="B", desc="x")
        bar.update(10)
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").touch()
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert download_module.main("org/repo") == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [{"done": 10, "total": 10}, {"folder": str(tmp_path / "org/repo")}]


@pytest.mark.parametrize(
    ("error", "todo"),
    [
        (OSError(28, "No space left on device"), "free some, or set HF_HOME to another disk"),
        (LocalEntryNotFoundError("offline"), "check the network"),
        (TimeoutError("slow"), "try again, it will resume"),
        (RuntimeError("odd"), "RuntimeError: odd"),
    ],
)
def test_the_command_reports_errors_with_the_next_step(
    error: Exception, todo: str, monkeypatch, capsys
) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert download_module.main("org/repo") == 2
    said = json.loads(capsys.readouterr().out)
    assert "org/repo" in said["error"]
    assert todo in said["error"]


def test_the_process_runs_nothing_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed = tmp_path / "executed"
    for name in ("huggingface_hub", "qwen35_chat", "qwen35_mlx", "json", "sitecustomize", "tqdm"):
        (tmp_path / name).mkdir()
        code = f"open({str(executed)!r}, 'w').close(); raise SystemExit('planted')"
        (tmp_path / name / "__init__.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f".:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    download = Download("org/repo")
    download._thread.join(30)
    assert "the Hub cannot be reached" in download.error
    assert not executed.exists()


def test_a_silent_hub_ends_the_process_and_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        download = Download("org/repo", stall_seconds=0.5)
        download._thread.join(30)
        assert download.error.startswith("the Hub has sent nothing of org/repo")
        assert not download.running
