"""scripts/chat on a fresh clone, with a uv that notes what it is called for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = """#!/bin/sh
echo "$*" >>"$CLONE/calls"
case "$1" in
  venv)
    mkdir -p "$CLONE/.venv/bin"
    printf '#!/bin/sh\\necho "chat $*"\\n' >"$CLONE/.venv/bin/qwen35-chat"
    cp "$CLONE/.venv/bin/qwen35-chat" "$CLONE/.venv/bin/python"
    chmod +x "$CLONE/.venv/bin/"* ;;
  pip)
    echo "Resolved 40 packages"
    [ ! -e "$CLONE/broken" ] || { echo "error: no such version" >&2; exit 1; } ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    clone = tmp_path.resolve() / "clone"
    (clone / "scripts").mkdir(parents=True)
    for name in ("scripts/chat", "scripts/environment.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, clone / name)
    (clone / "bin").mkdir()
    (clone / "bin" / "uv").write_text(UV)
    (clone / "bin" / "uv").chmod(0o755)
    return clone


def start(clone: Path) -> "subprocess.CompletedProcess[str]":
    path = f"{clone / 'bin'}:{os.environ['PATH']}"
    environment = {"PATH": path, "CLONE": str(clone)}
    command = [clone / "scripts" / "chat", "-p", "Hi"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def calls(clone: Path) -> list[str]:
    return (clone / "calls").read_text().splitlines()


def test_the_first_start_says_what_it_does_and_builds_nothing(clone: Path):
    run = start(clone)
    assert (run.returncode, run.stdout) == (0, "chat -p Hi\n")
    lines = run.stderr.splitlines()
    assert lines[0] == f"qwen35-mlx: creating an environment in {clone}/.venv, once"
    assert lines[1] == "qwen35-mlx: downloading and installing packages"
    assert lines[2].startswith("qwen35-mlx: ready after ")
    created, installed = calls(clone)
    assert created.startswith("venv ")
    assert "--only-binary :all:" in installed
    assert "dev" not in installed.rpartition("[")[2]


def test_the_second_start_installs_nothing_and_is_silent(clone: Path):
    start(clone)
    before = calls(clone)
    run = start(clone)
    assert (run.stdout, run.stderr) == ("chat -p Hi\n", "")
    assert calls(clone) == before


def test_a_failed_installation_shows_its_messages_and_is_tried_again(clone: Path):
    (clone / "broken").touch()
    run = start(clone)
    assert (run.returncode, run.stdout) == (2, "")
    assert "error: no such version\nerror: the packages could not be installed" in run.stderr
    (clone / "broken").unlink()
    assert start(clone).stdout == "chat -p Hi\n"
    assert [call.split()[0] for call in calls(clone)] == ["venv", "pip", "pip"]
