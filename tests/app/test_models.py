"""Models: which are on this machine, which fit into memory, and how one is used and unloaded."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from qwen35_chat.models import (
    COMFORTABLE_SHARE,
    PUBLISHED,
    LeftOut,
    ModelEntry,
    local_models,
    machine_memory,
    memory_of,
    read_entry,
)

from qwen35_mlx.checkpoint import stored
from qwen35_mlx.checkpoint.stored import StoredModel, local_checkpoint
from qwen35_mlx.session.events import Answer, Failed, Loaded, Loading, ProcessesJoined
from qwen35_mlx.session.requests import Unload, UseModel
from tests.app.drive import chat
from tests.app.models_drive import CONFIG, in_cache, make, opened
from tests.checkpoint.gguf_files import write_gguf

# On this machine


def test_models_are_found_in_the_package_the_cache_and_folders(tmp_path: Path) -> None:
    make(in_cache(tmp_path, "org/name--with--dashes"))
    make(tmp_path / "mine" / "small")
    make(tmp_path / "single")
    make(tmp_path / "mine" / "llama", {**CONFIG, "model_type": "llama"})
    make(tmp_path / "mine" / "odd", {**CONFIG, "num_hidden_layers": "many"})
    (tmp_path / "mine" / "empty").mkdir()
    (make(tmp_path / "mine" / "torn") / "config.json").write_text("{")
    folders = (str(tmp_path / "mine"), str(tmp_path / "single"), str(tmp_path / "none"))
    assert [known.name for known in local_models(folders).usable] == [
        "demo",
        "org/name--with--dashes",
        str(tmp_path / "mine" / "small"),
        str(tmp_path / "single"),
    ]


def test_an_incomplete_download_is_not_listed(tmp_path: Path) -> None:
    folder = make(in_cache(tmp_path, "org/repo"))
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [known.name for known in local_models().usable] == ["demo"]
    assert local_checkpoint("org/repo") is None
    (folder / "model-2.safetensors").write_bytes(b"")
    assert local_checkpoint("org/repo") == folder
    (folder / "config.json").unlink()
    assert local_checkpoint("org/repo") is None


def test_the_local_checkpoint_of_a_name(tmp_path: Path) -> None:
    demo = local_checkpoint("demo")
    assert demo is not None
    assert (demo / "config.json").exists()
    assert local_checkpoint(str(tmp_path)) == tmp_path
    assert local_checkpoint("org/none") is None
    assert local_checkpoint("no/such/folder") is None


@pytest.mark.parametrize(
    ("variable", "cache"),
    [
        ("HF_HUB_CACHE", "."),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
        ("HOME", ".cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_environment_puts_it(
    variable: str, cache: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / cache / "models--org--repo" / "snapshots" / "abc")
    others = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    others.pop("HF_HOME", None)
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from qwen35_chat import models; print(models.local_models().usable[1])",
        ],
        env={**others, variable: str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"PosixPath({str(folder)!r})" in result.stdout


def test_without_a_cache_there_is_the_demo(tmp_path: Path) -> None:
    assert not (tmp_path / "hub").exists()
    assert [entry.name for entry in local_models().usable] == ["demo"]
    (tmp_path / "hub").write_text("not a folder")
    assert [entry.name for entry in local_models().usable] == ["demo"]


def test_the_newest_complete_snapshot_is_used(tmp_path: Path) -> None:
    names = ("b-old", "a-new", "c-newest")
    folders = [make(in_cache(tmp_path, "org/repo", name)) for name in names]
    for seconds, folder in enumerate(folders):
        os.utime(folder, (seconds, seconds))
    assert local_checkpoint("org/repo") == folders[2]
    (folders[2] / "model.safetensors").unlink()
    os.utime(folders[2], (9, 9))
    assert local_checkpoint("org/repo") == folders[1]
    assert local_models().usable[1].path == folders[1]


def test_a_broken_cache_entry_does_not_hide_the_others(tmp_path: Path) -> None:
    good = make(in_cache(tmp_path, "org/good"))
    (make(in_cache(tmp_path, "org/dangling")) / "more.safetensors").symlink_to("../../blobs/none")
    make(in_cache(tmp_path, "org/moved"))
    refs = tmp_path / "hub" / "models--org--moved" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a commit of which nothing was downloaded")
    (tmp_path / "hub" / "models--org--empty").mkdir()
    (tmp_path / "hub" / "something else").mkdir()
    (tmp_path / "hub" / "models--org--file").write_text("")
    make(tmp_path / "hub" / "datasets--org--data" / "snapshots" / "abc")
    assert [(entry.name, entry.path) for entry in local_models().usable][1:] == [("org/good", good)]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"layer_types": 5}, "'layer_types' must name 32 layers"),
        ({"full_attention_interval": 0.5}, "'full_attention_interval' is 0.5, not a positive"),
        ({"num_hidden_layers": 10**7}, "'num_hidden_layers' is 10000000, more than 1,024"),
        ({"rope_parameters": [1]}, "'rope_parameters' is [1], not an object"),
        ({"text_config": 3}, "'text_config' is 3, not an object"),
    ],
)
def test_a_damaged_config_is_left_out_with_the_reason(
    tmp_path: Path, fields: dict[str, object], reason: str
) -> None:
    make(in_cache(tmp_path, "org/odd"), CONFIG | fields)
    make(tmp_path / "mine" / "odd", CONFIG | fields)
    make(tmp_path / "mine" / "good")
    local = local_models((str(tmp_path / "mine"),))
    assert [entry.name for entry in local.usable] == ["demo", str(tmp_path / "mine" / "good")]
    assert [entry.name for entry in local.left_out] == ["org/odd", str(tmp_path / "mine" / "odd")]
    assert all(reason in entry.reason and "\n" not in entry.reason for entry in local.left_out)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"model_type": "qwen3_5", "head_dim": Infinity}', "Infinity' is not finite"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested more than 32 deep"),
        ("[" * 100_000, "nested more than 32 deep"),
        ('{"model_type": "qwen3_5", "vocab_size": ' + "9" * 5000 + "}", "is not finite"),
        ("[]", "does not hold a JSON object"),
    ],
)
def test_a_config_that_is_no_json_is_left_out(tmp_path: Path, text: str, reason: str) -> None:
    (make(tmp_path / "odd") / "config.json").write_text(text)
    local = local_models((str(tmp_path),))
    assert [entry.name for entry in local.usable] == ["demo"]
    assert reason in local.left_out[0].reason


def test_files_that_are_not_regular_are_left_out_at_once(tmp_path: Path) -> None:
    os.mkfifo(make(tmp_path / "index") / "model.safetensors.index.json")
    for name, put in (
        ("pipe", os.mkfifo),
        ("folder", os.mkdir),
        ("loop", lambda p: p.symlink_to(p)),
    ):
        config = make(tmp_path / name) / "config.json"
        config.unlink()
        put(config)
    local = local_models((str(tmp_path),))
    assert [entry.name for entry in local.usable] == ["demo"]
    assert [(Path(entry.name).name, entry.reason) for entry in local.left_out] == [
        ("folder", "config.json cannot be read (not a regular file): download it again"),
        (
            "index",
            "model.safetensors.index.json cannot be read (not a regular file): download it again",
        ),
        (
            "loop",
            "config.json cannot be read (Too many levels of symbolic links): download it again",
        ),
        ("pipe", "config.json cannot be read (not a regular file): download it again"),
    ]


def test_other_models_and_other_folders_are_no_damage(tmp_path: Path) -> None:
    make(in_cache(tmp_path, "org/llama"), {"model_type": "llama"})
    make(tmp_path / "mine" / "odd", {"model_type": ["qwen3_5"]})
    (tmp_path / "mine" / "empty").mkdir()
    folders = (
        "~nobody-of-this-name/x",
        "x" * 300,
        "a\0b",
        "\ud800",
        "/none",
        str(tmp_path / "mine"),
    )
    local = local_models(folders)
    assert [entry.name for entry in local.usable] == ["demo"]
    assert local.left_out == ()
    assert [local_checkpoint(name) for name in folders[:-1]] == [None] * 5


def test_one_unreadable_folder_does_not_empty_the_list(tmp_path: Path, monkeypatch) -> None:
    make(in_cache(tmp_path, "org/good"))
    make(in_cache(tmp_path, "org/secret"))
    make(tmp_path / "mine" / "good")
    make(tmp_path / "mine" / "secret")
    scandir = os.scandir
    stat = Path.stat

    def refuse(path: Path) -> None:
        if "secret" in path.parent.name:  # the user may list the folder, and not enter it
            raise PermissionError(13, "Permission denied", str(path))

    def scan(path: Path) -> Any:
        refuse(path / "entry")
        return scandir(path)

    with monkeypatch.context() as patch:  # pytest removes the folder
        patch.setattr(os, "scandir", scan)
        patch.setattr(Path, "stat", lambda path, **how: refuse(path) or stat(path, **how))
        names = [entry.name for entry in local_models((str(tmp_path / "mine"),)).usable]
    assert names[:2] == ["demo", "org/good"]
    assert str(tmp_path / "mine" / "good") in names


def test_a_reference_to_a_missing_version_is_a_reason(tmp_path: Path) -> None:
    for commit in ("gone", "a\0b", "c" * 300):
        folder = make(in_cache(tmp_path, f"org/{len(commit)}"))
        refs = folder.parent.parent / "refs"
        refs.mkdir()
        (refs / "main").write_text(commit)
    left_out = local_models().left_out
    assert len(left_out) == 3
    assert left_out[2] == LeftOut("org/4", "version 'gone' is not downloaded: download it again")


async def test_models_of_other_programs_are_listed_and_used(home: Path, tmp_path: Path) -> None:
    studio = tmp_path / "user" / ".lmstudio" / "models"
    repository = studio / "unsloth" / "Qwen3.5-4B-GGUF"
    file = write_gguf(repository / "Qwen3.5-4B-Q8_0.gguf", values=1)
    os.truncate(file, 1_000_000_000)
    for name in ("Qwen3.5-4B-BF16-00001-of-00002.gguf", "llama-Q8_0.gguf"):
        write_gguf(repository / name, architecture="llama" if "llama" in name else "qwen35")
    write_gguf(repository / "torn-Q8_0.gguf", {"block_count": 4})
    (repository / "mmproj-F16.gguf").touch()
    make(studio / "mlx-community" / "Qwen3.6-27B-4bit")
    local = local_models()
    assert [(entry.name, entry.program, entry.kl) for entry in local.usable[1:]] == [
        ("mlx-community/Qwen3.6-27B-4bit", "LM Studio", 0.057),
        ("unsloth/Qwen3.5-4B-GGUF/Qwen3.5-4B-Q8_0.gguf", "LM Studio", None),
    ]
    known = local.usable[2]
    assert (known.path, known.weight_bytes) == (file, file.stat().st_size)
    # As the checkpoint of the same model in the cache.
    assert (known.kv_bytes_per_token, known.state_bytes) == (32_768, 51_511_296)
    assert [(Path(entry.name).name, entry.reason) for entry in local.left_out] == [
        (
            "Qwen3.5-4B-BF16-00001-of-00002.gguf",
            "Qwen3.5-4B-BF16-00002-of-00002.gguf is missing: download it again",
        ),
        (
            "torn-Q8_0.gguf",
            "torn-Q8_0.gguf has no 'ssm.time_step_rank': is this a Qwen3.5 checkpoint?",
        ),
    ]
    async with chat(home, size=(100, 30)) as at:
        opened(at)
        await at.until(lambda: "To download" in at.text)
        line = next(line for line in at.text.splitlines() if "Qwen3.5-4B-Q8_0" in line)
        assert "LM Studio · unsloth/" in line
        assert line.endswith("1.0 GB   2.6 GB        fits")
        assert "Qwen3.6 27B" not in at.text  # it is here already
        await at.press(*"q8_0", "enter")
        assert at.engine.calls[-1] == UseModel(known.name)


def test_a_folder_with_too_many_folders_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MAX_FOLDERS", 1)
    make(tmp_path / "mine" / "model")
    local = local_models((str(tmp_path / "mine"),))
    assert local.left_out == (
        LeftOut(str(tmp_path / "mine"), "only 2,000 folders in it were searched: name one of them"),
    )


async def test_a_damaged_model_is_shown_with_its_reason_and_not_chosen(tmp_path, home) -> None:
    make(in_cache(tmp_path, "org/odd"), {**CONFIG, "layer_types": 5})
    async with chat(home) as at:
        await at.press("ctrl+l", *"odd")
        await at.until(lambda: "Damaged" in at.text)
        assert "org/odd" in at.text
        assert "'layer_types' must name 32 layers" in at.text
        await at.press("enter")
        assert UseModel("org/odd") not in at.engine.calls


# Memory


def test_memory_needed_by_hand() -> None:
    known = next(k for k in PUBLISHED if k.title == "Qwen3.5 4B")
    # KV: 8 layers x keys and values x 4 heads x 256 x 2 bytes = 32,768 a token.
    # State: 24 layers x 32 heads x 128 x 128 x 4 bytes + 24 x 3 steps x 8,192 channels x 2.
    expected = 2_370_000_000 + 32_768 * 32_768 + 50_331_648 + 1_179_648 + 500_000_000
    assert known.memory_needed(32_768) == expected == 3_995_253_120
    # There is no cache beyond its context.
    assert known.memory_needed(10**9) == known.memory_needed(262_144)


def test_memory_needed_by_each_of_several_processes() -> None:
    known = next(k for k in PUBLISHED if k.title == "Qwen3.5 122B-A10B")
    each = (68_710_000_000 + 153_649_152) // 4 + 500_000_000
    kv = 24_576 * 32_768
    # Two key/value heads: each of four processes has one. Whole layers are divided further.
    tensor, pipeline = (ProcessesJoined(4, 48 << 30, whole) for whole in (False, True))
    assert known.memory_needed(32_768, tensor) == each + kv // 2
    assert known.memory_needed(32_768, pipeline) == each + kv // 4
    assert known.memory_fit(32_768, 48 << 30) == "too large"
    assert known.memory_fit(32_768, 48 << 30, tensor) == "fits"
    assert memory_of(tensor) == (48 << 30, "4 processes with 48 GB of memory each")


def test_a_checkpoint_needs_what_the_published_table_says(tmp_path: Path) -> None:
    published = next(k for k in PUBLISHED if k.title == "Qwen3.5 4B")
    known = read_entry(StoredModel("x", make(tmp_path / "x", weights=5000)))
    assert isinstance(known, ModelEntry)
    assert (known.weight_bytes, known.kv_bytes_per_token, known.state_bytes, known.max_context) == (
        5000,
        published.kv_bytes_per_token,
        published.state_bytes,
        262_144,
    )
    nested = {"model_type": "qwen3_5", "text_config": {**CONFIG, "dtype": "float32"}}
    wide = read_entry(StoredModel("y", make(tmp_path / "y", nested)))
    assert wide is not None
    assert wide.kv_bytes_per_token == 2 * published.kv_bytes_per_token
    kinds = ["full_attention"] * 2 + ["linear_attention"] * 30
    other = read_entry(StoredModel("z", make(tmp_path / "z", {**CONFIG, "layer_types": kinds})))
    assert other is not None
    assert other.kv_bytes_per_token == published.kv_bytes_per_token // 4


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
    assert known.memory_fit(32_768, memory) == fit
    assert COMFORTABLE_SHARE == 0.6


def test_this_machine_reports_its_memory() -> None:
    assert machine_memory() > 1 << 28


async def test_the_list_marks_what_fits_and_advises_the_largest_that_does(home, tmp_path) -> None:
    make(in_cache(tmp_path, "mlx-community/Qwen3.5-0.8B-MLX-4bit"))
    async with chat(home, size=(100, 30)) as at:
        opened(at)
        await at.until(lambda: "To download" in at.text)
        lines = {line.strip(" •").split("  ")[0]: line for line in at.text.splitlines()}
        assert "Models for 16 GB of memory and 32,768 tokens of context" in at.text
        assert "•" in lines["demo"]
        assert "mlx-community" in lines["Qwen3.5-0.8B-MLX-4bit"]
        assert "Qwen3.5 0.8B" not in lines  # it is here already
        assert lines["Qwen3.5 4B"].endswith("3.0 GB   4.0 GB        fits")
        assert "To download from mlx-community" in lines
        assert "mlx-community" not in lines["Qwen3.5 4B"]  # the heading says it
        assert "prism-ml" in lines["Ternary Bonsai 27B"]
        assert "advised" in lines["Qwen3.5 9B"]
        assert lines["Qwen3.5 9B"].endswith("fits")
        assert lines["Qwen3.6 27B"].endswith("16.1 GB  17.9 GB 0.057  too large")
        assert lines["Ternary Bonsai 27B"].endswith("8.5 GB  10.4 GB        tight")
        await at.press(*"122b")
        assert "Qwen3.5 122B-A10B" in at.text
        assert "Qwen3.5 4B" not in at.text
        await at.press("ctrl+u", *"nothing")
        assert "No model is called so; write a folder, or org/repo" in at.text


async def test_a_longer_context_needs_more_memory(home: Path) -> None:
    async with chat(home, size=(100, 30)) as at:
        await at.send("/settings context 262144")
        opened(at)
        await at.until(lambda: "262,144 tokens of context" in at.text)
        line = next(line for line in at.text.splitlines() if "Qwen3.5 4B" in line)
        assert line.endswith("3.0 GB  11.5 GB        tight")


# Using


async def test_another_model_continues_the_conversation_without_a_restart(home) -> None:
    async with chat(home, demo=True, settings=home / "settings.toml") as at:
        await at.turn("one", "kept")
        await at.send("/model org/other")
        await at.shown()
        assert re.search(r"other · .*3%", at.text)
        assert "kept" in at.text
        assert at.controller.conversation == 1
        assert 'model = "org/other"' in (home / "settings.toml").read_text()
        await at.press("ctrl+n")
        await at.shown()
        assert "demonstration" not in at.text


async def test_a_folder_or_repository_can_be_typed(home: Path) -> None:
    async with chat(home) as at:
        await at.press("ctrl+l", *"~/some/folder")
        assert "Use ~/some/folder" in at.text
        await at.press("enter")
        assert at.engine.calls[-1] == UseModel("~/some/folder")


async def test_a_model_that_is_not_found_keeps_the_old_one(home: Path, monkeypatch) -> None:
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


async def test_a_load_that_fails_twice_is_reported_once(home: Path) -> None:
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


async def test_the_next_message_reloads_an_unloaded_model(home: Path) -> None:
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


async def test_the_model_cannot_change_during_a_reply(home: Path) -> None:
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
