"""Models: what is here, what fits, and how one is fetched, used and given back."""

import json
from pathlib import Path

import pytest
from qwen35_chat.models import (
    COMFORTABLE,
    PUBLISHED,
    cache_folder,
    checkpoint,
    folder_of,
    local_models,
    machine_memory,
)

from qwen35_mlx.session.events import Answer, Failed, Loaded, Loading
from qwen35_mlx.session.requests import Unload, UseModel
from tests.app.drive import chat
from tests.app.models_drive import CONFIG, in_cache, make, opened

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


# Using


async def test_a_model_is_changed_without_a_restart_and_the_conversation_stays(home) -> None:
    async with chat(home, demo=True, settings=home / "settings.toml") as at:
        await at.turn("one", "kept")
        await at.send("/model org/other")
        await at.shown()
        assert "other · 120 / 4,096" in at.text
        assert "kept" in at.text
        assert at.controller.conversation == 1
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
        assert at.controller.model == "demo"
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
        assert not at.controller.loaded
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
