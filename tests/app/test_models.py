"""Models: what is here, what fits, and how one is fetched, used and given back."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from qwen35_chat import download as download_module
from qwen35_chat.download import Download, throttled
from qwen35_chat.models import (
    COMFORTABLE,
    PUBLISHED,
    cache_folder,
    checkpoint,
    folder_of,
    local_models,
    machine_memory,
)
from qwen35_chat.screens.models import Models

from qwen35_mlx.session.events import Answer, Failed, Loaded, Loading
from qwen35_mlx.session.requests import Unload, UseModel
from tests.app.drive import Driver, chat

# Of the 4B model: 8 of 32 layers have a KV cache.
CONFIG: dict[str, Any] = {
    "model_type": "qwen3_5",
    "dtype": "bfloat16",
    "num_hidden_layers": 32,
    "full_attention_interval": 4,
    "hidden_size": 2560,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 262_144,
}


def make(folder: Path, config: dict[str, Any] = CONFIG, weights: int = 1000) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(bytes(weights))
    return folder


def in_cache(tmp_path: Path, name: str, commit: str = "abc") -> Path:
    return tmp_path / "hub" / ("models--" + name.replace("/", "--")) / "snapshots" / commit


# What is here


def test_models_are_found_in_the_package_the_cache_and_folders(tmp_path: Path) -> None:
    make(in_cache(tmp_path, "org/name--with--dashes"))
    make(tmp_path / "mine" / "small")
    make(tmp_path / "single")
    make(tmp_path / "mine" / "llama", {**CONFIG, "model_type": "llama"})
    make(tmp_path / "mine" / "odd", {**CONFIG, "num_hidden_layers": "many"})
    (tmp_path / "mine" / "empty").mkdir()
    (make(tmp_path / "mine" / "torn") / "config.json").write_text("{")
    folders = (str(tmp_path / "mine"), str(tmp_path / "single"), str(tmp_path / "none"))
    assert [known.name for known in local_models(folders)] == [
        "demo",
        "org/name--with--dashes",
        str(tmp_path / "mine" / "small"),
        str(tmp_path / "single"),
    ]


def test_a_download_that_broke_off_is_not_here(tmp_path: Path) -> None:
    folder = make(in_cache(tmp_path, "org/repo"))
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [known.name for known in local_models()] == ["demo"]
    assert folder_of("org/repo") is None
    (folder / "model-2.safetensors").write_bytes(b"")
    assert folder_of("org/repo") == folder
    (folder / "config.json").unlink()
    assert folder_of("org/repo") is None


def test_a_name_is_a_folder_a_repository_or_nothing(tmp_path: Path) -> None:
    demo = folder_of("demo")
    assert demo is not None
    assert (demo / "config.json").exists()
    assert folder_of(str(tmp_path)) == tmp_path
    assert folder_of("org/none") is None
    assert folder_of("no/such/folder") is None


def test_where_the_cache_is(tmp_path: Path) -> None:
    assert cache_folder({"HF_HUB_CACHE": "/a"}) == Path("/a")
    assert cache_folder({"HF_HOME": "/b"}) == Path("/b/hub")
    assert cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert cache_folder({}) == Path.home() / ".cache/huggingface/hub"


# What fits


def test_memory_by_hand() -> None:
    known = next(k for k in PUBLISHED if k.title == "Qwen3.5 4B")
    # KV: 8 layers x keys and values x 4 heads x 256 x 2 bytes = 32,768 a token.
    # State: 24 layers x 32 heads x 128 x 128 x 4 bytes + 24 x 3 steps x 8,192 channels x 2.
    expected = 2_370_000_000 + 32_768 * 32_768 + 50_331_648 + 1_179_648 + 500_000_000
    assert known.needs(32_768) == expected == 3_995_253_120
    assert known.needs(10**9) == known.needs(262_144)  # beyond its context there is no cache


def test_a_checkpoint_needs_what_the_published_one_does(tmp_path: Path) -> None:
    published = next(k for k in PUBLISHED if k.title == "Qwen3.5 4B")
    known = checkpoint("x", make(tmp_path / "x", weights=5000))
    assert known is not None
    assert (known.weights, known.per_token, known.state, known.context) == (
        5000,
        published.per_token,
        published.state,
        262_144,
    )
    nested = {"model_type": "qwen3_5", "text_config": {**CONFIG, "dtype": "float32"}}
    wide = checkpoint("y", make(tmp_path / "y", nested))
    assert wide is not None
    assert wide.per_token == 2 * published.per_token
    kinds = ["full_attention"] * 2 + ["linear_attention"] * 30
    other = checkpoint("z", make(tmp_path / "z", {**CONFIG, "layer_types": kinds}))
    assert other is not None
    assert other.per_token == published.per_token // 4


@pytest.mark.parametrize(
    ("memory", "fit"),
    [
        (6_658_755_200, "fits"),
        (6_658_755_199, "tight"),
        (5_327_004_160, "tight"),
        (5_327_004_159, "too large"),
        (0, "too large"),
    ],
)
def test_fits_tight_and_too_large(memory: int, fit: str) -> None:
    known = next(k for k in PUBLISHED if k.title == "Qwen3.5 4B")
    assert known.fit(32_768, memory) == fit
    assert COMFORTABLE == 0.6


def test_this_machine_has_memory() -> None:
    assert machine_memory() > 1 << 28


def opened(at: Driver, memory: int = 16 * 2**30, start: Any = None) -> Models:
    models = Models(at.desk, memory=memory, start=start or StartedDownload)
    at.app.push_screen(models, at.app.chat._use_model)
    return models


async def test_the_list_says_what_fits_and_advises_the_largest_that_does(home, tmp_path) -> None:
    make(in_cache(tmp_path, "mlx-community/Qwen3.5-0.8B-MLX-4bit"))
    async with chat(home, size=(100, 30)) as at:
        opened(at)
        await at.until(lambda: "To download" in at.text)
        lines = {line.strip(" •").split("  ")[0]: line for line in at.text.splitlines()}
        assert "Models for 16 GB of memory and 32,768 tokens of context" in at.text
        assert "•" in lines["demo"]
        assert "mlx-community" in lines["Qwen3.5-0.8B-MLX-4bit"]
        assert "Qwen3.5 0.8B" not in lines  # it is here already
        assert lines["Qwen3.5 4B"].endswith("2.4 GB   4.0 GB  fits")
        assert "advised" in lines["Qwen3.5 9B"]
        assert lines["Qwen3.5 9B"].endswith("fits")
        assert lines["Qwen3.5 27B"].endswith("too large")
        await at.press(*"122b")
        assert "Qwen3.5 122B-A10B" in at.text
        assert "Qwen3.5 4B" not in at.text
        await at.press("ctrl+u", *"nothing")
        assert "No model is called so; write a folder, or org/repo" in at.text


async def test_a_longer_context_needs_more(home: Path) -> None:
    async with chat(home, size=(100, 30)) as at:
        await at.send("/settings context 262144")
        opened(at)
        await at.until(lambda: "262,144 tokens of context" in at.text)
        line = next(line for line in at.text.splitlines() if "Qwen3.5 4B" in line)
        assert line.endswith("2.4 GB  11.5 GB  tight")


# Fetching


class StartedDownload:
    """A download that the test moves on."""

    last: "StartedDownload"

    def __init__(self, name: str):
        StartedDownload.last = self
        self.name = name
        self.done = self.total = 0
        self.folder = self.error = ""
        self.running, self.cancelled = True, False
        self.seconds_left: float | None = None

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 0.0

    def cancel(self) -> None:
        self.cancelled, self.running = True, False

    close = cancel


NINE = "mlx-community/Qwen3.5-9B-MLX-4bit"


async def begun(at: Driver, start: Any = None) -> None:
    opened(at, start=start)
    await at.pilot.pause(0.02)
    await at.press(*"9b", "enter")


async def test_a_download_shows_how_it_goes_and_is_used_with_enter(home, tmp_path) -> None:
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
        assert "Qwen3.5-9B-MLX-4bit · 0 / 4,096" in at.text
        assert settings.read_text() == f'# mine\nmodel = "{NINE}"\n'


async def test_a_download_that_ends_behind_the_chat_is_told_there(home: Path) -> None:
    async with chat(home) as at:
        await begun(at)
        await at.press("escape")
        StartedDownload.last.running = False
        await at.until(lambda: "Qwen3.5-9B-MLX-4bit is here now; Ctrl+L uses it" in at.text)
        assert at.desk.download is None


async def test_a_download_is_stopped_and_goes_on_with_enter(home: Path) -> None:
    async with chat(home, size=(100, 30)) as at:
        await begun(at)
        first = StartedDownload.last
        await at.press("ctrl+d")
        assert first.cancelled
        await at.until(lambda: "was stopped; Enter goes on from there" in at.text)
        await at.press("enter")
        assert StartedDownload.last is not first
        assert StartedDownload.last.name == NINE


async def test_a_download_that_fails_says_what_to_do_and_can_be_tried_again(home: Path) -> None:
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


def test_a_download_process_is_read_line_by_line() -> None:
    lines = ['{"done": 1, "total": 4}', "not json", "3", "null", '{"folder": "/x"}']
    download = ended(Download("org/repo", program(f"print({chr(10).join(lines)!r})")))
    assert (download.done, download.total, download.share) == (1, 4, 0.25)
    assert (download.folder, download.error) == ("/x", "")


def test_a_process_that_says_nothing_has_failed() -> None:
    download = ended(Download("org/repo", program("raise SystemExit(3)")))
    assert download.error == "the download of org/repo ended with code 3: try again, it goes on"


def test_a_process_is_ended_by_cancel_and_that_is_no_error() -> None:
    text = 'import time; print(\'{"done": 1, "total": 4}\'); time.sleep(60)'
    download = Download("org/repo", program(text))
    for _ in range(2000):
        if download.done:
            break
        time.sleep(0.01)
    download.close()
    assert not download.running
    assert (download.cancelled, download.error, download.done) == (True, "", 1)


def test_time_to_go_counts_what_was_fetched_now() -> None:
    now = [0.0]
    text = "import sys\nfor line in sys.stdin: pass"
    download = Download("org/repo", program(text), clock=lambda: now[0])
    assert download.seconds_left is None
    download._first, download.done, download.total = (0.0, 900), 900, 1000
    now[0] = 10.0
    assert download.seconds_left is None  # 900 were there before
    download.done = 950
    assert download.seconds_left == pytest.approx(10.0)
    download.close()


def test_progress_is_reported_now_and_then_and_at_the_end(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(download_module.time, "monotonic", lambda: now[0])
    said: list[Any] = []
    progress = throttled(said.append)
    for done in (1, 2, 3):
        progress(done, 10, "org/repo")
    now[0] += 0.3
    progress(4, 10, "org/repo")
    progress(10, 10, "org/repo")
    assert [line["done"] for line in said] == [1, 4, 10]


def test_the_command_fetches_and_tells(tmp_path: Path, monkeypatch, capsys) -> None:
    def snapshot_download(name: str, *, tqdm_class: Any, **_: Any) -> str:
        bar = tqdm_class(total=10, unit="B", desc="x")
        bar.update(10)
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
def test_the_command_says_what_to_do(error: Exception, todo: str, monkeypatch, capsys) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert download_module.main("org/repo") == 2
    said = json.loads(capsys.readouterr().out)
    assert "org/repo" in said["error"]
    assert todo in said["error"]


# Using


async def test_a_model_is_changed_without_a_restart_and_the_conversation_stays(home) -> None:
    async with chat(home, demo=True, settings=home / "settings.toml") as at:
        await at.turn("one", "kept")
        await at.send("/model org/other")
        await at.shown()
        assert "other · 120 / 4,096" in at.text
        assert "kept" in at.text
        assert at.desk.conversation == 1
        assert 'model = "org/other"' in (home / "settings.toml").read_text()
        await at.press("ctrl+n")
        await at.shown()
        assert "demonstration" not in at.text


async def test_a_folder_or_repository_can_be_written(home: Path) -> None:
    async with chat(home) as at:
        await at.press("ctrl+l", *"~/some/folder")
        assert "Use ~/some/folder" in at.text
        await at.press("enter")
        assert at.engine.calls[-1] == UseModel("~/some/folder")


async def test_a_model_that_is_not_found_leaves_the_old_one(home: Path, monkeypatch) -> None:
    async with chat(home, settings=home / "settings.toml") as at:
        monkeypatch.setattr(at.engine, "_take", lambda _: None)
        await at.send("/model org/wrong")
        await at.shown([Loading("org/wrong"), Failed("org/wrong is nowhere: check ../the path")])
        said = " ".join(at.text.split())
        assert (
            "The model could not be loaded. org/wrong is nowhere: check ../the path. "
            "Ctrl+L chooses another." in said
        )
        assert "no model" not in at.text
        assert at.desk.model == "demo"
        assert not (home / "settings.toml").exists()
        await at.send("still there?")
        assert at.sent == ["still there?"]


async def test_a_load_that_fails_twice_is_told_once(home: Path) -> None:
    async with chat(home, loads=False) as at:
        at.engine._library = None
        await at.send("early")
        # Of the load, and of the turn that tried again.
        await at.shown([Failed("no room"), Loading("demo"), Failed("no room")])
        assert at.text.count("could not be loaded") == 1
        assert at.typed == "early"
        await at.send("/model org/other")
        await at.shown()
        assert "no model" not in at.text


async def test_unload_and_the_next_message_loads_again(home: Path) -> None:
    async with chat(home) as at:
        await at.press("ctrl+l", "ctrl+g")
        assert at.engine.calls[-1] == Unload()
        await at.press("escape")
        await at.shown()
        assert not at.desk.loaded
        assert "memory was given back" in " ".join(at.text.split())
        await at.send("one")
        await at.shown([Loading("demo"), Loaded("demo", 4096), Answer("so")])
        assert "so" in at.text


async def test_a_model_is_not_changed_amid_a_reply(home: Path) -> None:
    async with chat(home) as at:
        await at.send("one")
        await at.press("ctrl+l", *"demo", "enter")
        assert UseModel("demo") not in at.engine.calls
        assert "a reply is being written: Esc stops it" in at.text


async def test_the_demo_is_the_first_row_and_one_enter_away(home: Path) -> None:
    async with chat(home, loads=False) as at:
        await at.shown([Failed("config.json has no 'head_dim'")])
        assert "no model, Ctrl+L chooses one" in at.text
        await at.press("ctrl+l", "enter")
        await at.shown()
        assert at.engine.calls[-1] == UseModel("demo")
        assert "no model" not in at.text
