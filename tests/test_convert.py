import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model, quantize_model

from qwen35_mlx.checkpoint import plan
from qwen35_mlx.checkpoint.layouts import Checkpoint
from qwen35_mlx.checkpoint.recipes import Quantization
from qwen35_mlx.checkpoint.safetensors import FileWriter
from qwen35_mlx.convert import convert, main
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.cases import (
    Tensors,
    canonical,
    float8,
    fused,
    golden,
    load,
    mlx_layout,
    one_by_one,
    text_only,
    with_vision,
    write,
)

IDS = mx.array(np.random.default_rng(0).integers(0, 250, (1, 40)))


def weights(path: Path) -> Tensors:
    """All tensors of a result, by canonical name."""
    found: Tensors = {}
    for file in path.glob("*.safetensors"):
        found |= {n.removeprefix("language_model."): v for n, v in load(file).items()}
    return found


def same(one: mx.array, other: mx.array) -> bool:
    return one.dtype == other.dtype and bool(mx.array_equal(one, other))


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small float32 checkpoint in the published layout."""
    return write(tmp_path / "source", *golden())


CASES = ["dense", "dense-tied-wide-heads", "dense-yarn", "moe", "moe-tied-wide-heads"]


@pytest.mark.parametrize("name", CASES)
def test_plain_result_has_the_logits_mlx_lm_finds_in_the_source(tmp_path: Path, name: str):
    config, tensors = golden(name)
    source = write(tmp_path / "source", config, with_vision(tensors), files=2)
    convert(str(source), tmp_path / "out")
    before, after = load_model(source)[0](IDS), load_model(tmp_path / "out")[0](IDS)
    assert np.abs(np.array(before) - np.array(after)).max() < 1e-5
    assert np.abs(np.array(before)).max() > 1


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("dense", Quantization(64, 4)),
        ("dense", Quantization(32, 8)),
        ("moe", Quantization(32, 3)),
        ("moe", Quantization(32, 4, "mxfp4")),
        ("moe", Quantization(32, 8, "mxfp8")),
        ("dense-tied-wide-heads", Quantization(16, 4, "nvfp4")),
    ],
)
def test_quantised_result_is_mlx_lms_own(tmp_path: Path, name: str, how: Quantization):
    config, tensors = golden(name)
    source = write(tmp_path / "source", config, fused(tensors))
    summary = convert(
        str(source),
        tmp_path / "out",
        quantize=True,
        q_bits=how.bits,
        q_group_size=how.group_size,
        q_mode=how.mode,
    )
    model, config = load_model(source)
    quantize_model(model, config, how.group_size, how.bits, mode=how.mode)
    reloaded, _ = load_model(tmp_path / "out")
    assert mx.array_equal(model(IDS), reloaded(IDS))
    assert summary.quantization == how
    assert summary.bits_per_weight < 16  # Of tiny rows the groups' scales are a large part.


def test_bfloat16_result_is_mlx_lms_own(tmp_path: Path):
    config, tensors = golden()
    half = {n: v.astype(mx.bfloat16) if "A_log" not in n else v for n, v in tensors.items()}
    source = write(tmp_path / "source", config, half)
    convert(str(source), tmp_path / "out", quantize=True)
    model, config = load_model(source)
    quantize_model(model, config, 64, 4)
    assert mx.array_equal(model(IDS), load_model(tmp_path / "out")[0](IDS))


@pytest.mark.parametrize("kind", ["fused", "one by one", "text only", "mlx", "float8"])
def test_every_layout_gives_the_same_result(tmp_path: Path, kind: str):
    config, tensors = golden("moe")
    tensors = {n: v.astype(mx.bfloat16) for n, v in tensors.items()}
    stored: Any = tensors
    meant = tensors
    if kind == "fused":
        stored = fused(tensors)
    elif kind == "one by one":
        stored = one_by_one(tensors)
    elif kind == "text only":
        config, stored = text_only(config, tensors)
    elif kind == "mlx":
        stored = mlx_layout({n: v.astype(mx.float32) for n, v in tensors.items()})
    elif kind == "float8":
        floats = {n: v.astype(mx.float32) for n, v in one_by_one(tensors).items()}
        config, stored, meant = float8(config, floats)
        stored = {n: v.astype(mx.bfloat16) if n in tensors and isinstance(v, mx.array) else v
                  for n, v in stored.items()}  # fmt: skip
    source = write(tmp_path / "source", config, stored)
    convert(str(source), tmp_path / "out", dtype="bfloat16")
    found = weights(tmp_path / "out")
    wanted = canonical({n: v.astype(mx.float32) for n, v in meant.items()})
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        dtype = mx.float32 if name.endswith("A_log") else mx.bfloat16
        assert same(found[name], value.astype(dtype)), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "qwen3_5_moe"
    assert "quantization_config" not in config
    load_model(tmp_path / "out")


def test_mtp_is_kept_and_quantised_in_a_file_mlx_lm_does_not_read(source: Path, tmp_path: Path):
    convert(str(source), tmp_path / "out", quantize=True)
    out = tmp_path / "out"
    mtp = load(out / "mtp.safetensors")
    assert all(name.startswith("language_model.mtp.") for name in mtp)
    assert not any(".mtp." in name for name in load(out / "model.safetensors"))
    checkpoint = Checkpoint.open(out)
    checkpoint.verify()
    assert checkpoint.has_mtp
    assert checkpoint.quantization("mtp.fc") == Quantization(64, 4)
    plain = canonical(golden()[1])["mtp.fc.weight"]
    weight, scales, biases = mx.quantize(plain, 64, 4)
    assert same(mtp["language_model.mtp.fc.weight"], weight)
    assert same(mtp["language_model.mtp.fc.scales"], scales)
    assert same(mtp["language_model.mtp.fc.biases"], biases)
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert index == {n: file.name for file in out.glob("*.safetensors") for n in load(file)}


def test_a_checkpoint_without_mtp(tmp_path: Path):
    config, tensors = golden()
    kept = {n: v for n, v in tensors.items() if not n.startswith("mtp.")}
    convert(str(write(tmp_path / "source", config, kept)), tmp_path / "out")
    assert not (tmp_path / "out" / "mtp.safetensors").exists()
    assert not Checkpoint.open(tmp_path / "out").has_mtp


@pytest.mark.parametrize("dtype", [None, "float32", "float16", "bfloat16"])
def test_dtype_of_everything_but_a_log(tmp_path: Path, dtype: str | None):
    config, tensors = golden()
    half = {n: v.astype(mx.bfloat16) for n, v in tensors.items()}
    convert(str(write(tmp_path / "source", config, half)), tmp_path / "out", dtype=dtype)
    wanted = getattr(mx, dtype or "bfloat16")
    for name, value in weights(tmp_path / "out").items():
        assert value.dtype == (mx.float32 if name.endswith("A_log") else wanted), name
    text = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert text["dtype"] == (dtype or "bfloat16")


def test_router_has_eight_bits_and_odd_rows_stay_plain(tmp_path: Path):
    source = write(tmp_path / "source", *golden("moe"))
    summary = convert(str(source), tmp_path / "out", quantize=True, q_mode="mxfp4")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"]
    said = config["quantization"]
    assert {k: said[k] for k in ("group_size", "bits", "mode")} == {
        "group_size": 32,
        "bits": 4,
        "mode": "mxfp4",
    }
    layer = "language_model.model.layers.0.mlp."
    eight = {"group_size": 64, "bits": 8, "mode": "affine"}
    assert said[layer + "gate"] == said[layer + "shared_expert_gate"] == eight
    assert said["language_model.mtp.layers.0.mlp.gate"] == eight
    assert said[layer + "shared_expert.down_proj"] is False
    assert "model.layers.0.mlp.shared_expert.down_proj.weight" in summary.plain
    assert len(summary.plain) == 5  # Of four layers and the MTP head.


def test_small_pieces_give_the_same_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    convert(str(source), tmp_path / "one", quantize=True)
    monkeypatch.setattr(plan, "CHUNK_ELEMENTS", 300)
    convert(str(source), tmp_path / "two", quantize=True)
    assert listing(tmp_path / "one") == listing(tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_shards_of_limited_size(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    convert(str(source), tmp_path / "one")
    monkeypatch.setattr(plan, "SHARD_BYTES", 400_000)
    convert(str(source), tmp_path / "many")
    shards = sorted((tmp_path / "many").glob("model*.safetensors"))
    total = len(shards)
    assert total > 2
    assert [f.name for f in shards] == [
        f"model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)
    ]
    assert all(file.stat().st_size < 410_000 for file in shards)
    assert total <= 2 * sum(file.stat().st_size for file in shards) // 400_000
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert one.keys() == many.keys()
    assert all(same(one[name], many[name]) for name in one)
    load_model(tmp_path / "many")


def test_what_mlx_lm_reads_from_the_text_config_is_there(tmp_path: Path):
    # Tied by the outer config only; every second layer full attention, by `layer_types` only.
    config, tensors = golden("dense-tied-wide-heads")
    text = config["text_config"]
    del text["tie_word_embeddings"]
    text |= {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
    kept = {
        name.replace("layers.3.", "layers.1.") if "mtp" not in name else name: value
        for name, value in tensors.items()
        if "layers.1." not in name and "layers.2." not in name
    }
    convert(write(tmp_path / "source", config, kept), tmp_path / "out")
    load_model(tmp_path / "out")


def test_files_around_the_weights(source: Path, tmp_path: Path):
    (source / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    (source / "README.md").write_text("not this")
    summary = convert(str(source), tmp_path / "out")
    assert listing(tmp_path / "out") == {
        "config.json",
        "generation_config.json",
        "chat_template.jinja",
        "tokenizer.json",
        "model.safetensors",
        "mtp.safetensors",
        "model.safetensors.index.json",
    }
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    assert summary.warnings == ()
    assert listing(tmp_path) == {"source", "out"}


def test_a_missing_template_is_a_warning(source: Path, tmp_path: Path):
    (source / "chat_template.jinja").unlink()
    assert "no chat template" in convert(str(source), tmp_path / "out").warnings[0]
    (source / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert convert(str(source), tmp_path / "two").warnings == ()


def test_progress_ends_at_the_total(source: Path, tmp_path: Path):
    seen: list[tuple[int, int, str]] = []
    summary = convert(str(source), tmp_path / "out", progress=lambda *now: seen.append(now))
    done = [now[0] for now in seen]
    assert done == sorted(done)
    assert seen[-1][:2] == (summary.nbytes, summary.nbytes)
    sizes = sum(v.nbytes for v in weights(tmp_path / "out").values())
    assert summary.nbytes == sizes
    assert summary.parameters == sum(v.size for v in canonical(golden()[1]).values())


def refused(tmp_path: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The command's one error line; nothing may have been written."""
    before = {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert main([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--q-bits", "4"], "add -q"),
        (["--q-mode", "mxfp4"], "add -q"),
        (["-q", "--q-bits", "7"], "q-bits 7 does not exist in affine mode"),
        (["-q", "--q-mode", "nvfp4", "--q-group-size", "64"], "q-group-size 64 does not exist"),
    ],
)
def test_options_that_do_not_fit(
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
        (lambda s: spoil_config(s, quantization_config={"quant_method": "gptq"}),
         "quantisation by 'gptq' is not read here"),
        (lambda s: spoil_config(s, quantization={"bits": 4, "group_size": 64}),
         "is already quantised"),
        (lambda s: (s / "tokenizer.json").unlink(), "has no tokenizer.json"),
    ],
)  # fmt: skip
def test_a_source_that_is_wrong(source: Path, tmp_path: Path, spoil: Any, says: str, capsys: Any):
    spoil(source)
    line = refused(
        tmp_path, "--hf-path", str(source), "--mlx-path", str(tmp_path / "out"), capsys=capsys
    )
    assert says in line


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link"])
def test_what_is_there_is_not_overwritten(source: Path, tmp_path: Path, kind: str, capsys: Any):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "gone")
    else:
        out.mkdir()
        if kind == "folder":
            (out / "f").write_text("mine")
    line = refused(tmp_path, "--hf-path", str(source), "--mlx-path", str(out), capsys=capsys)
    assert "exists already: remove it" in line


def test_not_enough_space(
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
def test_a_disk_that_fails_while_writing_leaves_nothing(
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


def test_a_folder_that_cannot_be_written(source: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(Qwen35Error, match=r"cannot write .*file/out: Not a directory"):
        convert(str(source), tmp_path / "file" / "out")


def test_a_folder_that_came_to_be_there_meanwhile_is_kept(source: Path, tmp_path: Path):
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

    # The name in the package is the function.
    monkeypatch.setattr(sys.modules["qwen35_mlx.convert"], "plan_config", spoilt)
    with pytest.raises(Qwen35Error, match=r"not Qwen3\.5"):
        convert(str(source), tmp_path / "out")
    assert listing(tmp_path) == {"source"}


def test_ctrl_c_cleans_up(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FileWriter, "write", interrupt)
    assert main(["--hf-path", str(source), "--mlx-path", str(tmp_path / "out")]) == 130
    assert listing(tmp_path) == {"source"}
    assert capsys.readouterr().err == "interrupted: nothing was kept\n"


def test_command_says_what_it_made(source: Path, tmp_path: Path, capsys: Any):
    out = tmp_path / "out"
    assert main(["--hf-path", str(source), "--mlx-path", str(out), "-q"]) == 0
    printed, err = capsys.readouterr()
    plain, summary = printed.splitlines()
    assert plain.startswith("5 matrices stay plain")
    assert "model.layers.0.mlp.down_proj.weight" in plain
    assert re.search(r"out: 0\.\d MB, \d+\.\d\d bits per weight\. Next: ", summary)
    assert "Converting" in err


# A conversion in a process of its own: it says so when the weights are written, and waits.
SLOW = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # Ignored below a job in the background.
from qwen35_mlx.convert import main
from qwen35_mlx.checkpoint import safetensors
close = safetensors.FileWriter.close
def wait(self):
    close(self)
    print("written", self.path, flush=True)
    if "mtp" in self.path.name:
        sys.stdin.readline()
safetensors.FileWriter.close = wait
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


def test_killed_in_the_middle_leaves_nothing_that_looks_finished(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    process = start(source, out)
    process.kill()
    process.communicate()
    left = listing(tmp_path) - {"source"}
    assert left == {f".out.partial-{process.pid}"}
    with pytest.raises(Qwen35Error, match=r"has no config\.json"):
        Checkpoint.open(tmp_path / left.pop())

    # The next run removes it, and leaves alone what it did not make or what still runs.
    others = [f".out.partial-{os.getppid()}", ".out.partial-x", ".outer.partial-1"]
    for other in others:
        (tmp_path / other).mkdir()
    convert(str(source), out)
    assert listing(tmp_path) == {"source", "out", *others}


def test_interrupt_of_the_process(source: Path, tmp_path: Path):
    process = start(source, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert listing(tmp_path) == {"source"}


def test_two_runs_at_once_do_not_harm_each_other(source: Path, tmp_path: Path):
    process = start(source, tmp_path / "out")
    convert(str(source), tmp_path / "out")
    before = weights(tmp_path / "out")
    _, err = process.communicate("go on\n", timeout=60)
    assert process.returncode == 2
    assert "error: cannot write" in err
    assert listing(tmp_path) == {"source", "out"}
    assert weights(tmp_path / "out").keys() == before.keys()
