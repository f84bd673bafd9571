"""The command, and conversions that fail, are killed or run twice at once."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.checkpoint.safetensors_writer import FileWriter
from qwen35_mlx.conversion import plan
from qwen35_mlx.convert import main
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.cases import (
    converted_weights,
    golden,
    listing,
    write,
)
from tests.checkpoint.cases import unmeasured as convert


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small float32 checkpoint in the published layout."""
    return write(tmp_path / "source", *golden())


def refused(tmp_path: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one error line of the command, which may not have written anything."""
    before = {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert main([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    lines = [line for line in err.splitlines() if not line.startswith("Reading ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--q-bits", "4"], "add -q"),
        (["--q-mode", "mxfp4"], "add -q"),
        (
            ["-q", "--q-bits", "7"],
            "there are no 7 bits in affine mode: choose 1, 2, 3, 4, 5, 6 or 8",
        ),
        (
            ["-q", "--q-mode", "nvfp4", "--q-group-size", "64"],
            "there are no groups of 64 in nvfp4 mode: choose 16",
        ),
    ],
)
def test_contradicting_options_are_refused(
    source: Path, tmp_path: Path, options: list[str], says: str, capsys: Any
):
    line = refused(
        tmp_path, "--hf-path", str(source), "--mlx-path", str(tmp_path / "out"), *options,
        capsys=capsys,
    )  # fmt: skip
    assert says in line


def spoil_config(source: Path, **fields: Any) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | fields))


def cut_shard(source: Path) -> None:
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def change_sizes(source: Path, **fields: Any) -> None:
    config = json.loads((source / "config.json").read_text())
    spoil_config(source, text_config=config["text_config"] | fields)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda s: spoil_config(s, model_type="llama"), "'llama', which is not Qwen3.5"),
        (lambda s: change_sizes(s, hidden_size=None), "config.json has no 'hidden_size'"),
        (cut_shard, "model.safetensors is truncated"),
        (lambda s: change_sizes(s, num_hidden_layers=5, layer_types=None),
         "has no tensor 'model.layers.4.input_layernorm.weight'"),
        (lambda s: change_sizes(s, num_hidden_layers=3, layer_types=None),
         "unknown tensor 'model.layers.3."),
        (lambda s: change_sizes(s, vocab_size=300), "has shape [256, 64] where config.json"),
        (lambda s: spoil_config(s, quantization_config={"quant_method": "quark"}),
         "quantisation by 'quark' is not supported"),
        (lambda s: (s / "tokenizer.json").unlink(), "has no tokenizer.json"),
    ],
)  # fmt: skip
def test_a_broken_source_is_refused(
    source: Path, tmp_path: Path, spoil: Any, says: str, capsys: Any
):
    spoil(source)
    line = refused(
        tmp_path, "--hf-path", str(source), "--mlx-path", str(tmp_path / "out"), capsys=capsys
    )
    assert says in line


@pytest.mark.parametrize("existing", ["folder", "finished folder", "file", "dangling link"])
def test_an_existing_path_is_not_overwritten(
    source: Path, tmp_path: Path, existing: str, capsys: Any
):
    out = tmp_path / "out"
    if existing == "file":
        out.write_text("mine")
    elif existing == "dangling link":
        out.symlink_to(tmp_path / "gone")
    else:
        out.mkdir()
        (out / ("f" if existing == "folder" else "conversion.json")).write_text("mine")
    line = refused(tmp_path, "--hf-path", str(source), "--mlx-path", str(out), capsys=capsys)
    state = "is complete" if existing == "finished folder" else "exists"
    assert f"{out} {state} already: remove it" in line


def test_a_result_larger_than_the_free_space_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50 << 20))
    line = refused(
        tmp_path, "--hf-path", str(source), "--mlx-path", str(tmp_path / "new" / "out"),
        capsys=capsys,
    )  # fmt: skip
    assert "not enough space" in line
    assert "52.4 MB are free" in line


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "no space left for"),
        (errno.EDQUOT, "no space left for"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_disk_failure_while_writing_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
):
    written: list[str] = []
    write_piece = FileWriter.write

    def fail_late(self: FileWriter, name: str, piece: mx.array) -> None:
        written.append(name)
        if len(written) > 20:
            raise OSError(number, os.strerror(number))
        write_piece(self, name, piece)

    monkeypatch.setattr(FileWriter, "write", fail_late)
    with pytest.raises(Qwen35Error, match=says):
        convert(str(source), tmp_path / "new" / "deep" / "out")
    assert listing(tmp_path) == {"source"}


def test_an_unwritable_folder_is_named(source: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(Qwen35Error, match=r"cannot write .*file/out: Not a directory"):
        convert(str(source), tmp_path / "file" / "out")


def test_a_folder_made_by_another_program_meanwhile_is_kept(source: Path, tmp_path: Path):
    out = tmp_path / "out"

    def interfere(*_: Any) -> None:
        out.mkdir(exist_ok=True)
        (out / "mine").touch()

    with pytest.raises(Qwen35Error, match="cannot write"):
        convert(str(source), out, progress=interfere)
    assert listing(out) == {"mine"}
    assert listing(tmp_path) == {"source", "out"}


def test_a_result_that_would_not_open_is_not_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def spoilt(*_: Any) -> dict[str, Any]:
        return json.loads((source / "config.json").read_text()) | {"model_type": "?"}

    monkeypatch.setattr(plan, "plan_config", spoilt)
    with pytest.raises(Qwen35Error, match=r"not Qwen3\.5"):
        convert(str(source), tmp_path / "out")
    assert listing(tmp_path) == {"source"}


def test_ctrl_c_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FileWriter, "write", interrupt)
    assert main(["--hf-path", str(source), "--mlx-path", str(tmp_path / "out")]) == 130
    assert listing(tmp_path) == {"source"}
    assert capsys.readouterr().err.endswith("\ninterrupted: nothing was kept\n")


def test_ctrl_c_after_the_last_step_says_that_the_folder_is_complete(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr(sys.modules["qwen35_mlx.conversion.converter"], "sync_entries", interrupt)
    assert main(["--hf-path", str(source), "--mlx-path", str(out)]) == 130
    assert capsys.readouterr().err.endswith(f"interrupted: {out} is complete\n")
    open_checkpoint(out).verify()


def test_a_left_over_folder_that_cannot_be_removed_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    left = tmp_path / ".out**[x.partial-99999999"
    left.mkdir()

    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        warnings = convert(str(source), tmp_path / "out**[x").warnings
    assert f"{left} of a conversion that ended early cannot be removed" in warnings[-1]
    shutil.rmtree(tmp_path / "out**[x")
    assert convert(str(source), tmp_path / "out**[x").warnings == warnings[:-1]
    assert not left.exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "merges.txt"])
def test_a_pipe_among_the_copied_files_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, name: str, capsys: Any
):
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    line = refused(
        tmp_path, "--hf-path", str(source), "--mlx-path", str(tmp_path / "out"), capsys=capsys
    )
    assert f"{name} cannot be read (not a regular file)" in line


@pytest.mark.parametrize(
    ("called_as", "shown"),
    [
        ("/somewhere/bin/qwen35-convert", "usage: qwen35-convert [-h]"),
        ("/somewhere/qwen35_mlx/convert.py", "usage: python -m qwen35_mlx.convert [-h]"),
    ],
)
def test_help_names_the_command_as_it_was_called(
    called_as: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr(sys, "argv", [called_as])
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert " ".join(capsys.readouterr().out.split()).startswith(shown)


def test_the_command_is_installed_as_qwen35_convert():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    module, name = project["project"]["scripts"]["qwen35-convert"].split(":")
    assert getattr(sys.modules[module], name) is main


def test_the_command_prints_what_it_wrote(source: Path, tmp_path: Path, capsys: Any):
    out = tmp_path / "out"
    assert main(["--hf-path", str(source), "--mlx-path", str(out), "-q"]) == 0
    printed, err = capsys.readouterr()
    plain, proof, scales, summary = printed.splitlines()
    assert scales == (
        "The scales of the matrices are float32, as the source is: --dtype bfloat16 halves them"
    )
    assert proof.startswith("Not measured: ")
    assert plain.startswith("5 matrices stay plain")
    assert "model.layers.0.mlp.down_proj.weight" in plain
    assert re.search(r"out: 0\.\d MB, \d+\.\d\d bits per weight\. Next: ", summary)
    assert err == f"Reading {source}\n"  # no terminal, no bar


# A conversion that prints a line after each file, and waits when all weights are written.
SLOW = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from qwen35_mlx.convert import main
from qwen35_mlx.checkpoint import safetensors_writer
close = safetensors_writer.FileWriter.close
def wait(self):
    close(self)
    print("written", self.path, flush=True)
    if "mtp" in self.path.name:
        sys.stdin.readline()
safetensors_writer.FileWriter.close = wait
sys.exit(main(["--hf-path", sys.argv[1], "--mlx-path", sys.argv[2]]))
"""


def start(source: Path, out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(source), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if "mtp.safetensors" in line:
            return process
    raise AssertionError(process.communicate()[1])


def test_a_killed_conversion_leaves_nothing_that_looks_finished(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    process = start(source, out)
    process.kill()
    process.communicate()
    left = listing(tmp_path) - {"source"}
    assert left == {f".out.partial-{process.pid}"}
    with pytest.raises(Qwen35Error, match=r"has no config\.json"):
        open_checkpoint(tmp_path / left.pop())

    # The next run removes it, but neither folders of other names nor those of a running process.
    others = [f".out.partial-{os.getppid()}", ".out.partial-x", ".outer.partial-1"]
    for other in others:
        (tmp_path / other).mkdir()
    convert(str(source), out)
    assert listing(tmp_path) == {"source", "out", *others}


def test_an_interrupted_process_keeps_what_is_complete(source: Path, tmp_path: Path):
    process = start(source, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert re.search(
        r"interrupted: \d+ tensors are kept; go on with the same command and --resume", err
    )
    assert listing(tmp_path) == {"source", f".out.partial-{process.pid}"}
    convert(str(source), tmp_path / "out", resume=True)
    assert listing(tmp_path) == {"source", "out"}


def test_two_conversions_to_one_folder_at_once(source: Path, tmp_path: Path):
    process = start(source, tmp_path / "out")
    convert(str(source), tmp_path / "out")
    before = converted_weights(tmp_path / "out")
    _, err = process.communicate("go on\n", timeout=60)
    assert process.returncode == 2
    assert "error: cannot write" in err
    assert listing(tmp_path) == {"source", "out"}
    assert converted_weights(tmp_path / "out").keys() == before.keys()


def test_an_empty_folder_becomes_the_result(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    convert(str(source), out)
    open_checkpoint(out).verify()
    assert listing(tmp_path) == {"source", "out"}


def test_an_empty_folder_that_something_rests_on_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "link").symlink_to(out)
    monkeypatch.chdir(out)
    for taken in (".", out, tmp_path / "link"):
        with pytest.raises(Qwen35Error, match="exists already"):
            convert(str(source), taken)
    assert listing(tmp_path) == {"source", "out", "link"}


def test_a_place_that_is_no_disk_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0, total=0))
    out = tmp_path / "out"
    line = refused(tmp_path, "--hf-path", str(source), "--mlx-path", str(out), capsys=capsys)
    assert f"{out} cannot be written: {tmp_path} is not on a disk" in line


def test_a_recipe_that_does_not_exist_is_named(source: Path, tmp_path: Path, capsys: Any):
    recipe = tmp_path / "none.toml"
    line = refused(
        tmp_path, "--hf-path", str(source), "--mlx-path", str(tmp_path / "out"),
        "--recipe", str(recipe), capsys=capsys,
    )  # fmt: skip
    assert line == f"error: {recipe} does not exist: check the path"


def test_what_is_carried_over_is_said(source: Path, tmp_path: Path, capsys: Any):
    bits = ["-q", "--q-bits", "8", "--q-group-size", "32", "--no-verify"]
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert main(["--hf-path", str(source), "--mlx-path", one, *bits]) == 0
    assert "carried over" not in capsys.readouterr().out
    assert main(["--hf-path", one, "--mlx-path", two, *bits]) == 0
    out = capsys.readouterr().out
    matrices = json.loads((tmp_path / "two" / "model.safetensors.index.json").read_text())
    count = sum(name.endswith(".scales") for name in matrices["weight_map"])
    assert f"{count} matrices are carried over as they are" in out


def test_float32_is_named_unless_it_was_chosen(source: Path, tmp_path: Path, capsys: Any):
    said = "Weights are float32, as the source is: --dtype bfloat16 halves them"
    for number, (options, expected) in enumerate(
        [([], True), (["--dtype", "float32"], False), (["--dtype", "bfloat16"], False)]
    ):
        out = str(tmp_path / str(number))
        assert main(["--hf-path", str(source), "--mlx-path", out, "--no-verify", *options]) == 0
        assert (said in capsys.readouterr().out) is expected
