"""Child processes execute nothing of the current folder, of PYTHONPATH or of a relative PATH."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen35_mlx.child_process import child_environment, find_program, python_command

# The modules that a start, `runpy` and a download import early.
PLANTED = (
    *("json", "runpy", "site", "sitecustomize", "usercustomize", "encodings", "pkgutil"),
    *("huggingface_hub", "jinja2", "tqdm", "qwen35_chat", "platformdirs"),
)
CODE = """\
from pathlib import Path
Path({file!r}).touch()
raise SystemExit("planted code ran")
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder with modules and a program that leave a file `executed` when they run."""
    code = CODE.format(file=str(tmp_path / "executed"))
    for name in PLANTED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
    (tmp_path / "pbcopy").write_text(f"#!/bin/sh\ntouch '{tmp_path}/executed'\n")
    (tmp_path / "pbcopy").chmod(0o755)
    return tmp_path


def run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=folder, env=child_environment(), capture_output=True, text=True, timeout=30
    )


def test_planted_modules_would_run_without_isolation(planted: Path) -> None:
    environment = os.environ | {"PYTHONPATH": "."}
    subprocess.run(
        [sys.executable, "-m", "json.tool", "--help"],
        cwd=planted,
        env=environment,
        capture_output=True,
    )
    assert (planted / "executed").exists()


@pytest.mark.parametrize("variable", ["", ".", "./sub/..", ":"])
def test_nothing_of_the_current_folder_runs(
    planted: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planted / "sub").mkdir()
    monkeypatch.chdir(planted)
    # As Python itself would have made it at the start.
    relative = [str(planted / entry) for entry in variable.split(":")] if variable else []
    monkeypatch.setattr(sys, "path", ["", str(planted), *relative, *sys.path])
    own = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([variable, own]))
    result = run(python_command("qwen35_chat.main", "--version"), planted)
    assert result.stdout.startswith("qwen35-chat "), result.stderr
    assert not (planted / "executed").exists()


def test_our_own_packages_come_from_where_this_process_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("qwen35_mlx", "qwen35_chat"):  # another copy, installed
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('another copy ran')")
    root = Path(sys.modules["qwen35_mlx"].__file__ or "").parents[1]
    monkeypatch.chdir(root)  # the current folder, which is not searched
    monkeypatch.setattr(sys, "path", ["", str(root), str(tmp_path), *sys.path])
    result = run(python_command("qwen35_chat.main", "--version"), root)
    assert result.stdout.startswith("qwen35-chat "), result.stderr


def test_arguments_and_the_exit_code_arrive(tmp_path: Path) -> None:
    result = run(python_command("qwen35_chat.main", "--list", "--export", "a'\"\n\\"), tmp_path)
    assert result.returncode == 2
    assert "--list" in result.stderr


def test_a_removed_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert python_command("json.tool")


@pytest.mark.parametrize("path", [".", "", ":", "sub/.."])
def test_programs_are_not_found_in_the_current_folder(
    planted: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planted / "sub").mkdir()
    monkeypatch.chdir(planted)
    monkeypatch.setenv("PATH", path)
    assert find_program("pbcopy") is None
    assert find_program("./pbcopy") is None
    monkeypatch.setenv("PATH", f"{path}:{planted}")
    assert find_program("pbcopy") == str(planted / "pbcopy")
    assert child_environment()["PATH"] == str(planted)


def test_the_environment_has_no_variables_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSTARTUP", "x.py")
    monkeypatch.setenv("HF_HOME", "kept")
    environment = child_environment()
    assert not [name for name in environment if name.startswith("PYTHON")]
    assert environment["HF_HOME"] == "kept"
