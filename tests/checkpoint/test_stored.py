"""Where models are found on this machine, and which copy a name means."""

import json
import os
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

import qwen35_mlx
from qwen35_mlx import demo
from qwen35_mlx.checkpoint import stored
from qwen35_mlx.checkpoint.hub_name import HubName
from qwen35_mlx.checkpoint.places import program_places
from qwen35_mlx.checkpoint.stored import (
    StoredModel,
    copies,
    in_folder,
    local_checkpoint,
    stored_models,
)
from qwen35_mlx.errors import Qwen35Error


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without models."""
    home = tmp_path / "user"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("LLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return home


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen3_5"}')
    (folder / "model.safetensors").write_bytes(bytes(9))
    return folder


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(9))
    return folder


def snapshot(tmp_path: Path, repository: str, commit: str = "abc") -> Path:
    name = f"models--{repository.replace('/', '--')}"
    return tmp_path / "hub" / name / "snapshots" / commit


def found(*folders: Path) -> dict[str, tuple[Path, str]]:
    """Path and program of what is listed beside the demo model, by name."""
    listed = stored_models(str(folder) for folder in folders).models
    assert listed[0] == StoredModel(demo.NAME, demo.folder())
    # A listed name means the listed files.
    assert [local_checkpoint(m.name) for m in listed if not m.problem] == [
        model.path for model in listed if not model.problem
    ]
    return {model.name: (model.path, model.program) for model in listed[1:]}


# Other programs


@pytest.mark.parametrize("folder", [".lmstudio/models", ".cache/lm-studio/models", ".omlx/models"])
def test_models_by_publisher(home: Path, folder: str):
    place = home / folder
    mlx = checkpoint(place / "mlx-community" / "Qwen3.5-4B-MLX-4bit")
    gguf = files(
        place / "unsloth" / "Qwen3.5-4B-GGUF",
        "Qwen3.5-4B-Q4_K_M.gguf", "Qwen3.5-4B-Q8_0.gguf", "mmproj-F16.gguf", "README.md",
        "BF16/Qwen3.5-4B-BF16-00001-of-00002.gguf", "BF16/Qwen3.5-4B-BF16-00002-of-00002.gguf",
    )  # fmt: skip
    flat = checkpoint(place / "mine")
    program = "oMLX" if "omlx" in folder else "LM Studio"
    name = "unsloth/Qwen3.5-4B-GGUF"
    first = "BF16/Qwen3.5-4B-BF16-00001-of-00002.gguf"
    assert found() == {
        "mlx-community/Qwen3.5-4B-MLX-4bit": (mlx, program),
        str(flat): (flat, program),
        f"{name}/{first}": (gguf / first, program),
        f"{name}/Qwen3.5-4B-Q4_K_M.gguf": (gguf / "Qwen3.5-4B-Q4_K_M.gguf", program),
        f"{name}/Qwen3.5-4B-Q8_0.gguf": (gguf / "Qwen3.5-4B-Q8_0.gguf", program),
    }
    assert local_checkpoint(name) == gguf / "Qwen3.5-4B-Q4_K_M.gguf"
    assert local_checkpoint(f"{name}:bf16") == gguf / first
    assert local_checkpoint(f"{name}:Q5_K_M") is None
    assert local_checkpoint("unsloth/none") is None


def test_lm_studio_may_have_moved(home: Path, tmp_path: Path):
    moved = tmp_path / "disk" / "studio"
    moved_model = checkpoint(moved / "models" / "org" / "moved")
    checkpoint(home / ".lmstudio" / "models" / "org" / "left-behind")
    (home / ".lmstudio-home-pointer").write_text(f"{moved}\n")
    assert found() == {"org/moved": (moved_model, "LM Studio")}
    # Its settings may name yet another folder for downloads, which comes first.
    download = checkpoint(tmp_path / "downloads" / "org" / "moved")
    settings = {"downloadsFolder": str(tmp_path / "downloads")}
    (moved / "settings.json").write_text(json.dumps(settings))
    assert found() == {
        "org/moved": (download, "LM Studio"),
        str(moved_model): (moved_model, "LM Studio"),
    }
    # A pointer to a folder that is gone, such as an ejected disk.
    (home / ".lmstudio-home-pointer").write_text("/none")
    assert list(found()) == ["org/left-behind"]


@pytest.mark.parametrize(
    "settings", ["", "{", "[]", '{"downloadsFolder": 5}', '{"downloadsFolder": "relative"}']
)
def test_settings_that_name_no_folder_are_passed_over(home: Path, settings: str):
    Path("relative").mkdir()
    (home / ".lmstudio" / "models").mkdir(parents=True)
    (home / ".lmstudio" / "settings.json").write_text(settings)
    (home / ".lmstudio-home-pointer").write_bytes(b"\xff\0")
    assert [place.folder for place in program_places()] == [home / ".lmstudio" / "models"]


def test_files_of_llama_cpp_go_by_their_paths(home: Path, monkeypatch: pytest.MonkeyPatch):
    linux = files(home / ".cache" / "llama.cpp", "org_repo_m-Q8_0.gguf", "org_repo_m.gguf.json")
    own = files(home / "llama", "m-Q4_0.gguf")
    monkeypatch.setenv("LLAMA_CACHE", str(own))
    paths = [own / "m-Q4_0.gguf", linux / "org_repo_m-Q8_0.gguf"]
    assert found() == {str(path): (path, "llama.cpp") for path in paths}


def test_without_a_home_there_are_no_other_programs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without a home
    assert program_places() == []


def test_load_says_which_copy_it_reads(home: Path, model_folder: Path):
    folder = home / ".lmstudio" / "models" / "org" / "repo"
    shutil.copytree(model_folder, folder)
    said: list[str] = []
    with qwen35_mlx.load("org/repo", notice=said.append) as model:
        assert model.path == folder
    assert said[0] == f"org/repo is read from {folder}"


# The cache of the Hub


def test_gguf_files_of_all_snapshots(tmp_path: Path):
    old = files(snapshot(tmp_path, "org/repo", "old"), "m-Q4_0.gguf", "m-Q8_0.gguf")
    new = files(snapshot(tmp_path, "org/repo", "new"), "m-Q8_0.gguf", "m-BF16-00001-of-00002.gguf")
    for seconds, folder in enumerate((old, new)):
        os.utime(folder, (seconds, seconds))
    listed = {model.name: model for model in stored_models().models[1:]}
    assert {name: model.path.parent for name, model in listed.items() if not model.problem} == {
        "org/repo/m-Q4_0.gguf": old,
        "org/repo/m-Q8_0.gguf": new,
    }
    torn = listed["org/repo/m-BF16-00001-of-00002.gguf"]
    assert torn.problem == "m-BF16-00002-of-00002.gguf is missing: download it again"
    assert local_checkpoint("org/repo:BF16") is None
    assert local_checkpoint("org/repo/m-BF16-00001-of-00002.gguf") is None
    # An older copy that is complete is better than a newer one that is not.
    files(old, "m-BF16-00001-of-00002.gguf", "m-BF16-00002-of-00002.gguf")
    for seconds, folder in enumerate((old, new)):
        os.utime(folder, (seconds, seconds))
    assert found()["org/repo/m-BF16-00001-of-00002.gguf"] == (
        old / "m-BF16-00001-of-00002.gguf",
        "",
    )


def test_a_download_that_is_not_complete_is_no_gguf_file(tmp_path: Path):
    folder = files(snapshot(tmp_path, "org/repo"), "README.md")
    (folder / "m-Q8_0.gguf").symlink_to("../../blobs/none")
    assert local_checkpoint("org/repo:Q8_0") is None
    assert "org/repo/m-Q8_0.gguf" not in {model.name for model in stored_models().models}


def test_a_repository_with_both_is_its_folder(tmp_path: Path):
    folder = files(checkpoint(snapshot(tmp_path, "org/repo")), "m-Q8_0.gguf")
    assert found() == {
        "org/repo": (folder, ""),
        "org/repo/m-Q8_0.gguf": (folder / "m-Q8_0.gguf", ""),
    }
    assert local_checkpoint("org/repo:Q8_0") == folder / "m-Q8_0.gguf"


# One name, one copy


def test_a_name_is_that_of_the_first_place(home: Path, tmp_path: Path):
    studio = checkpoint(home / ".lmstudio" / "models" / "org" / "repo")
    assert [copy.program for copy in copies(HubName("org/repo"))] == ["LM Studio"]
    cached = checkpoint(snapshot(tmp_path, "org/repo"))
    assert found() == {"org/repo": (cached, ""), str(studio): (studio, "LM Studio")}
    assert [copy.path for copy in copies(HubName("org/repo"))] == [cached, studio]
    # A copy that is not complete does not count.
    (cached / "model.safetensors").unlink()
    assert [copy.path for copy in copies(HubName("org/repo"))] == [studio]


def test_the_same_files_in_two_places_are_listed_once(home: Path, tmp_path: Path):
    cached = checkpoint(snapshot(tmp_path, "org/repo"))
    file = files(tmp_path / "blobs", "m-Q8_0.gguf") / "m-Q8_0.gguf"
    publisher = home / ".lmstudio" / "models" / "org"
    publisher.mkdir(parents=True)
    (publisher / "repo").symlink_to(cached)
    (publisher / "gguf").mkdir()
    (publisher / "gguf" / "m-Q8_0.gguf").symlink_to(file)
    (home / ".omlx").mkdir()
    (home / ".omlx" / "models").symlink_to(home / ".lmstudio" / "models")
    folders = (home / ".lmstudio" / "models", cached, tmp_path / "blobs")
    assert list(found(*folders)) == ["org/repo", "org/gguf/m-Q8_0.gguf"]
    assert len(copies(HubName("org/repo"))) == 1
    assert [place.program for place in program_places()] == ["LM Studio"]


def test_a_name_that_may_be_several_files_lists_them(home: Path):
    folder = home / ".lmstudio" / "models" / "org" / "repo"
    files(folder, "m-Q2_K.gguf", "m-Q6_K.gguf")
    with pytest.raises(Qwen35Error) as error:
        copies(HubName("org/repo"))
    assert str(error.value) == (
        "org/repo has several GGUF files: choose one, org/repo:Q2_K, org/repo:Q6_K"
    )
    assert copies(HubName("org/repo", "Q8_0")) == []
    files(folder, "other-Q6_K.gguf")
    with pytest.raises(Qwen35Error) as error:
        copies(HubName("org/repo", "Q6_K"))
    assert str(error.value) == (
        "org/repo has several GGUF files: choose one, "
        "org/repo/m-Q2_K.gguf, org/repo/m-Q6_K.gguf, org/repo/other-Q6_K.gguf"
    )


def test_a_folder_of_gguf_files(tmp_path: Path):
    folder = files(tmp_path / "mine", "m-Q8_0.gguf", "config.json", "mmproj.gguf")
    assert in_folder(folder) == folder / "m-Q8_0.gguf"
    files(folder, "m-Q2_K.gguf", "m-Q3_K_S.gguf", "n-Q8_0.gguf")
    with pytest.raises(Qwen35Error, match=r"has several GGUF files: choose one, .*/m-Q2_K.gguf, "):
        in_folder(folder)
    files(folder, "model.safetensors")
    assert in_folder(folder) == folder


# Folders of any kind


def test_folders_are_searched_to_a_depth(tmp_path: Path):
    root = tmp_path / "mine"
    paths = [
        checkpoint(root / "a"),
        checkpoint(root / "b" / "c"),
        checkpoint(root / "b" / "d" / "e"),
    ]
    checkpoint(root / "b" / "d" / "f" / "too-deep")
    checkpoint(root / ".trash" / "hidden")
    checkpoint(root / "a" / "inside-of-another")
    (root / "b" / "loop").symlink_to(root)
    assert sorted(found(root)) == sorted(str(path) for path in paths)


def test_a_folder_with_too_many_folders_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stored, "MAX_FOLDERS", 4)
    for name in "abcd":
        checkpoint(tmp_path / "mine" / name)
    models = stored_models([str(tmp_path / "mine")])
    assert [model.path.name for model in models.models[1:]] == ["a", "b", "c"]
    assert models.unsearched == (tmp_path / "mine",)


def test_thousands_of_files_are_listed_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "mine"
    checkpoint(root / "model")
    for number in range(1000):
        (root / f"{number}.bin").touch()
    calls: list[object] = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda *a, **named: calls.append(a) or stat(*a, **named))
    assert list(found(root)) == [str(root / "model")]
    assert len(calls) < 300
