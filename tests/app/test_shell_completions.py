"""The scripts of `qwen35-chat --completions`, in the shells that are installed."""

import shutil
import subprocess
from pathlib import Path

import pytest
from qwen35_chat.command_parser import SHELLS
from qwen35_chat.main import main

BASH = """
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_shtab_qwen35_chat
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completions") / "qwen35-chat"
    with pytest.MonkeyPatch.context() as patch, file.open("w") as out:
        patch.setattr("sys.stdout", out)
        assert main(["--completions", "bash"]) == 0
    return file


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_of_its_shell(shell, capsys, tmp_path) -> None:
    assert main(["--completions", shell]) == 0
    script = capsys.readouterr().out
    assert "tools-folder" in script
    assert "fake" not in script
    if path := shutil.which(shell):
        file = tmp_path / "script"
        file.write_text(script)
        check = subprocess.run([path, "-n", file], capture_output=True, text=True)
        assert (check.returncode, check.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["--sch"], ["--schema"]),
        (["-p", "hi", "--js"], ["--json"]),
        (["--mtp", "o"], ["off"]),
        (["--no-thinking", "--to"], ["--top-p", "--top-k", "--tools-folder"]),
        (["--schema", "pla"], ["plan.json", "plans"]),
        (["--tools-folder", "pla"], ["plans"]),
        (["ser"], ["serve"]),
        (["serve", "--po"], ["--port"]),
        (["serve", "--js"], []),
    ],
)
def test_bash_completes(words, offered, bash_script, tmp_path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    (tmp_path / "plan.json").touch()
    (tmp_path / "plans").mkdir()
    command = ["bash", "--norc", "-c", BASH, "bash", bash_script, "qwen35-chat", *words]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert sorted(run.stdout.split()) == sorted(offered)


def test_an_unknown_shell(capsys) -> None:
    assert main(["--completions", "tcsh"]) == 2
    assert "--completions" in capsys.readouterr().err
