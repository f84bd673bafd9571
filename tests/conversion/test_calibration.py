"""The importance of inputs: how it is measured, and what the search for scales makes of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion import calibration
from qwen35_mlx.conversion.calibration import CalibrationText, measure_importance
from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.conversion.plan import plan_conversion
from qwen35_mlx.conversion.planned_tensor import TensorPlan
from qwen35_mlx.convert import main
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.linear import FusedLinear, Linear
from tests.checkpoint.cases import golden, write
from tests.test_convert_proof import byte_tokenizer

TEXT = "The same water is in the sea, in the cloud and in the tree. " * 5
IDS = [int(i) for i in np.random.default_rng(0).integers(0, 250, 70)]


def source(path: Path, name: str = "dense") -> Path:
    write(path, *golden(name))
    (path / "tokenizer.json").write_text(byte_tokenizer())
    return path


def importance(path: Path, ids: list[int] = IDS) -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(path)
    checkpoint.verify()
    found = measure_importance(checkpoint, CalibrationText([ids[:40], ids[40:]], ""))
    return {name: np.array(values) for name, values in found.items()}


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Inputs of each plain matrix product, in order."""
    inputs: list[np.ndarray] = []
    multiply = Linear._multiply

    def noting(self: Linear, x: mx.array) -> mx.array:
        inputs.append(np.array(x).reshape(-1, x.shape[-1]))
        return multiply(self, x)

    monkeypatch.setattr(Linear, "_multiply", noting)
    return inputs


def test_importance_is_the_mean_square_of_what_a_matrix_multiplies(
    tmp_path: Path, multiplied: list[np.ndarray]
):
    found = importance(source(tmp_path / "source"))
    # Layers of two documents: inputs, output, gate and up, down.
    first = [multiplied[i] for i in (0, 4)], [multiplied[i] for i in (3, 7)]
    for rows, name in zip(first, ("linear_attn.in_proj_z", "mlp.down_proj"), strict=True):
        expected = np.square(np.concatenate(rows)).mean(axis=0)
        np.testing.assert_allclose(found[f"model.layers.0.{name}.weight"], expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["dense", "moe", "dense-tied-wide-heads"])
def test_every_matrix_but_the_embeddings_is_measured(tmp_path: Path, name: str):
    found = importance(source(tmp_path / "source", name))
    checkpoint = open_checkpoint(tmp_path / "source")
    plan = plan_conversion(checkpoint, None, None)
    matrices = {
        t.name: t.shape for t in plan.tensors if len(t.shape) > 1 and "conv1d" not in t.name
    }
    if not checkpoint.model.tie_word_embeddings:
        del matrices["model.embed_tokens.weight"]
    assert found.keys() == matrices.keys()
    for key, shape in matrices.items():
        assert found[key].shape == (shape[-1:] if len(shape) == 2 else (shape[0], 1, shape[2]))
        assert (found[key] > 0).all()


def test_tied_embeddings_count_as_such_and_as_the_head(tmp_path: Path):
    tied = importance(source(tmp_path / "tied", "dense-tied-wide-heads"))
    assert "lm_head.weight" not in tied
    weights = tied["model.embed_tokens.weight"]
    assert weights.min() > 1
    assert weights.mean() == pytest.approx(2)
    assert weights.std() > 0.1


def test_experts_have_inputs_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the tokens of each expert counted one by one."""
    seen: dict[int, list[np.ndarray]] = {}
    gather = FusedLinear.gather

    def noting(self: FusedLinear, x: mx.array, experts: mx.array, **options: Any) -> list[mx.array]:
        for row, expert in zip(np.array(x)[:, 0], np.array(experts), strict=True):
            seen.setdefault(int(expert), []).append(row)
        return gather(self, x, experts, **options)

    monkeypatch.setattr(FusedLinear, "gather", noting)
    path = source(tmp_path / "source", "moe")
    monkeypatch.setattr(calibration, "_PRIOR_TOKENS", 0)
    checkpoint = open_checkpoint(path)
    checkpoint.verify()
    moments: Any = {}
    trunk = calibration.Trunk(checkpoint, [calibration.Passage(IDS)], "the source")
    trunk.advance(0, lambda layer: calibration._watch_layer(layer, "", moments))
    found = moments["mlp.switch_mlp.gate_proj.weight", "mlp.switch_mlp.up_proj.weight"]
    means = np.array(found.mean_squares())
    assert len(seen) > 2
    for expert, rows in seen.items():
        expected = np.square(np.stack(rows)).mean(axis=0)
        np.testing.assert_allclose(means[expert, 0], expected, rtol=1e-4)


def test_an_expert_without_tokens_has_the_mean_of_its_layer():
    moments = calibration._Moments(3)
    x = mx.array(np.random.default_rng(0).normal(size=(2000, 1, 8)).astype(np.float32))
    x = x * mx.arange(1, 9)
    moments.add(x, mx.array([0] * 1999 + [2]))
    means = np.array(moments.mean_squares())[:, 0]
    squares = np.square(np.array(x)[:, 0])
    np.testing.assert_allclose(means[0], squares[:1999].mean(axis=0), rtol=0.05)
    np.testing.assert_allclose(means[1], squares.mean(axis=0), rtol=1e-4)
    # One token moves an expert by a 33rd.
    moved = (squares[1999] + 32 * squares.mean(axis=0)) / 33
    np.testing.assert_allclose(means[2], moved, rtol=1e-4)


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "stack"])
def test_the_error_of_an_important_input_falls(tmp_path: Path, monkeypatch, name: str):
    """Also in a stack that is converted one matrix at a time, each with its own inputs."""
    rows = mx.array(np.random.default_rng(1).normal(size=(3, 64, 128)).astype(np.float32))
    weights = np.ones((3, 1, 128), np.float32)
    weights[0, :, 5] = weights[1, :, 70] = weights[2, :, 9] = 1000
    if name != "stack":
        rows, weights = rows[0], weights[0, 0]
    monkeypatch.setattr("qwen35_mlx.conversion.planned_tensor.CHUNK_ELEMENTS", 64 * 128)

    class Source:
        def plain(self, _: str) -> Any:
            return type("Rows", (), {"read": lambda self, a, b: rows[a:b]})()

    def errors(importance: mx.array | None) -> np.ndarray:
        q = Quantization(64, 4)
        plan = TensorPlan(name, rows.shape, mx.float32, q, search=True, importance=importance)
        parts = [mx.concatenate(p) for p in zip(*plan.chunks(Source()), strict=True)]  # pyright: ignore[reportArgumentType]
        return np.square(np.array(mx.dequantize(*parts, 64, 4) - rows))

    plain, weighted = errors(None), errors(mx.array(weights))
    chosen = np.broadcast_to(weights > 1, plain.shape)
    assert weighted[chosen].mean() < 0.2 * plain[chosen].mean()
    assert weighted[~chosen].mean() < 1.5 * plain[~chosen].mean()


def test_a_calibrated_result_is_recorded_and_loads(tmp_path: Path):
    path = source(tmp_path / "source", "moe")
    options: Any = {"recipe": "4bit", "verify": False}
    convert(path, tmp_path / "plain", **options)
    reports: list[str] = []
    convert(
        path,
        tmp_path / "out",
        calibrate=TEXT,
        progress=lambda done, total, what: reports.append(what),
        **options,
    )
    values = json.loads((tmp_path / "out" / "conversion.json").read_text())["options"]
    assert values["calibration"]["tokens"] == len(TEXT)
    assert len(values["calibration"]["sha256"]) == 64
    assert reports[0].startswith("inputs of layer 1 of ")
    files = [tmp_path / name / "model.safetensors" for name in ("plain", "out")]
    one, other = (open_checkpoint(file.parent).names() for file in files)
    assert one == other
    assert files[0].stat().st_size == files[1].stat().st_size
    assert files[0].read_bytes() != files[1].read_bytes()
    network = load_network(open_checkpoint(tmp_path / "out"))
    assert mx.all(mx.isfinite(network(mx.array([IDS]), network.make_cache()))).item()


def test_a_conversion_with_another_text_is_not_resumed(tmp_path: Path):
    path, out = source(tmp_path / "source"), tmp_path / "out"
    options: Any = {"recipe": "4bit", "verify": False}

    def stop(done: int, total: int, what: str) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(path, out, calibrate=TEXT, progress=stop, **options)
    for other in (None, TEXT + "."):
        with pytest.raises(Qwen35Error, match="another source or other options"):
            convert(path, out, calibrate=other, resume=True, **options)
    convert(path, out, calibrate=TEXT, resume=True, **options)
    convert(path, tmp_path / "whole", calibrate=TEXT, **options)
    for name in ("model.safetensors", "conversion.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def no_file(path: Path) -> None:
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (no_file, "is not a text file in UTF-8 that can be read"),
        (lambda path: path.write_bytes(b"\xff\xfe\0\1" * 99), "is not a text file in UTF-8"),
        (lambda path: path.write_text(""), "the calibration text has 0 tokens"),
        (lambda path: path.write_text("a" * 255), "has 255 tokens: give one of 256 or more"),
    ],
)
def test_texts_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prepare: Callable[[Path], Any], words: str
):
    path, file = source(tmp_path / "source"), tmp_path / "text.txt"
    prepare(file)
    out = str(tmp_path / "out")
    command = ["--hf-path", str(path), "--mlx-path", out, "-q", "--calibrate", str(file)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("error: ") == 1
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs a recipe that searches scales: add --recipe 4bit"),
        ({"quantize": True, "q_bits": 4}, "needs a recipe that searches scales"),
        ({"recipe": "mixed_4_6"}, "needs a recipe that searches scales"),
        ({"recipe": "4bit", "stream": True}, "reads the model twice"),
        ({"recipe": "4bit", "verify_text": TEXT}, "measures nothing: verify on another"),
    ],
)
def test_options_that_calibration_excludes(tmp_path: Path, options: dict[str, Any], words: str):
    with pytest.raises(Qwen35Error, match=words):
        convert(tmp_path / "absent", tmp_path / "out", calibrate=TEXT, **options)
