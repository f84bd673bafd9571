"""What a conversion says of its result: figures, hashes and the model card."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from qwen35_mlx import demo
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.compare import compare
from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.conversion.mtp_head import confirm_mtp_norms
from qwen35_mlx.convert import main
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.cases import Tensors, golden, listing, write

TEXT = "The same water is in the sea, in the cloud and in the tree. " * 8


def byte_tokenizer() -> str:
    """A tokenizer.json with a token for each of the 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend.to_str()


def source(path: Path, name: str = "dense", **changed: mx.array) -> Path:
    config, tensors = golden(name)
    write(path, config, tensors | changed)
    (path / "tokenizer.json").write_text(byte_tokenizer())
    return path


def record(path: Path) -> dict[str, Any]:
    return json.loads((path / "conversion.json").read_text())


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_the_figures_are_those_of_a_comparison(tmp_path: Path, name: str):
    before, out = source(tmp_path / "before", name), tmp_path / "out"
    summary = convert(before, out, quantize=True, verify_text=TEXT)
    found = summary.proof.comparison
    assert found is not None
    again = compare(before, out, text=TEXT)
    assert found.divergence == again.divergence
    assert found.tensor_errors == again.tensor_errors
    assert found.divergence.mean > 1e-4 > 1e-7 > found.floor.mean
    measured = record(out)["measured"]
    assert measured["tokens"] == found.tokens == len(TEXT) - 1
    assert measured["kl_nats"]["mean"] == found.divergence.mean
    assert measured["perplexity"] == {
        "source": found.a.perplexity,
        "result": found.b.perplexity,
    }
    assert measured["mtp_agreement"]["result"] == found.b.mtp_agreement
    assert measured["relative_error"]["linear_attn.out_proj"] > 0.01
    card = (out / "README.md").read_text()
    assert f"{found.b.perplexity:.4f}" in card
    assert f"{found.divergence.mean:.4f}" in card


def test_a_plain_conversion_has_no_error(tmp_path: Path):
    found = convert(
        source(tmp_path / "before"), tmp_path / "out", verify_text=TEXT
    ).proof.comparison
    assert found is not None
    assert set(found.tensor_errors.values()) == {0.0}
    assert found.divergence.largest == 0
    assert found.divergence.top1 == 1


def test_hashes_are_those_of_the_files_and_no_path_of_the_machine_is_told(tmp_path: Path):
    out = tmp_path / "out"
    convert(source(tmp_path / "before"), out, verify=False)
    said = record(out)
    assert set(said["sha256"]) == {"model.safetensors", "mtp.safetensors"}
    for file, digest in said["sha256"].items():
        assert digest == hashlib.sha256((out / file).read_bytes()).hexdigest()
    assert said["source"] == {
        "name": "before",
        "revision": None,
        "sha256": {"model.safetensors": None},
    }
    for file in ("conversion.json", "README.md"):
        assert str(tmp_path) not in (out / file).read_text()


def test_the_revision_of_a_downloaded_source_is_told(tmp_path: Path):
    commit, digest = "0123456789" * 4, "ab" * 32
    snapshot = tmp_path / "models--Some--Model-4B" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    source(snapshot)
    blob = snapshot.parent.parent / "blobs" / digest
    blob.parent.mkdir()
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    convert(snapshot, tmp_path / "out", verify=False)
    assert record(tmp_path / "out")["source"] == {
        "name": "Some/Model-4B",
        "revision": commit,
        "sha256": {"model.safetensors": digest},
    }
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: Some/Model-4B" in card
    assert commit in card


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named_and_nothing_is_kept(tmp_path: Path, value: float):
    name = "model.language_model.layers.1.mlp.down_proj.weight"
    tensors: Tensors = golden()[1]
    spoilt = mx.where(mx.arange(tensors[name].size).reshape(tensors[name].shape) == 77, value, 0.1)
    before = source(tmp_path / "before", **{name: spoilt})
    with pytest.raises(Qwen35Error, match=r"before: tensor 'model.layers.1.mlp.down_proj.weight'"):
        convert(before, tmp_path / "out", verify_text=TEXT)
    assert listing(tmp_path) == {"before"}


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    before = source(tmp_path / "before")
    (before / "tokenizer.json").write_text("{}")
    assert main(["--hf-path", str(before), "--mlx-path", str(tmp_path / "out")]) == 0
    reason = record(tmp_path / "out")["measured"]["not_measured"]
    assert reason.startswith("tokenizer.json is not a tokenizer")
    assert f"Not measured: {reason}." in capsys.readouterr().out
    assert reason in (tmp_path / "out" / "README.md").read_text()


def test_the_command_prints_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine.txt").write_text(TEXT)
    arguments = ["--hf-path", str(source(tmp_path / "before")), "-q", "--verify-text"]
    arguments += [str(tmp_path / "mine.txt"), "--mlx-path", str(tmp_path / "out")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"Measured on {len(TEXT) - 1} tokens: perplexity" in out
    assert "Agreement of the MTP head: " in out
    assert main([*arguments[:-1], str(tmp_path / "two"), "--no-verify"]) == 0
    assert "easured" not in capsys.readouterr().out


def test_an_unreadable_text_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = source(tmp_path / "before")
    arguments = ["--hf-path", str(before), "--mlx-path", str(tmp_path / "out")]
    assert main([*arguments, "--verify-text", str(tmp_path / "none.txt")]) == 2
    assert "--verify-text" in capsys.readouterr().err
    assert listing(tmp_path) == {"before"}


@pytest.fixture
def unmarked(tmp_path: Path) -> Checkpoint:
    """The demo model with a head beside it that does not say how its norms are stored: as 1 + w."""
    folder = shutil.copytree(demo.folder(), tmp_path / "unmarked")
    head: Any = mx.load(str(folder / "mtp.safetensors"))
    head = {name: value + 1 if "norm" in name else value for name, value in head.items()}
    mx.eval(head)
    mx.save_safetensors(str(folder / "mtp.safetensors"), head)
    index = folder / "model.safetensors.index.json"
    stored = json.loads(index.read_text())
    trunk = {k: v for k, v in stored["weight_map"].items() if v == "model.safetensors"}
    index.write_text(json.dumps(stored | {"weight_map": trunk}))
    return open_checkpoint(folder)


def test_a_text_of_the_users_confirms_the_norms_of_a_head(unmarked):
    text = ", ".join(map(str, range(1, 101)))  # as the model counts
    _, (line,) = confirm_mtp_norms(unmarked, run=True, text=text)
    assert line.startswith("norms of the MTP head are read as 1 + w: it guesses ")


def test_a_text_that_is_foreign_to_the_model_changes_no_reading_of_its_head(unmarked):
    confirmed, lines = confirm_mtp_norms(unmarked, run=True)
    assert unmarked.mtp_norms is not None
    assert confirmed.mtp_norms is not None
    assert confirmed.mtp_norms.raw == unmarked.mtp_norms.raw == frozenset()
    assert len(lines) == 1
    assert "read as 1 + w, by their values only: the model predicts" in lines[0]
    assert "its guesses are rejected, and replies stay the same" in lines[0]
    assert "--verify-text FILE" in lines[0]
