"""Conversion to float16: what does not fit is named first, and the M1 and M2 get it by default."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen35_mlx import demo
from qwen35_mlx.checkpoint import remote
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion import float16
from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.convert import main
from qwen35_mlx.errors import Qwen35Error
from tests.checkpoint.cases import converted_weights, golden, listing, save, write
from tests.fake_hub import REPOSITORY, serve, use

NAME = "model.language_model.layers.1.mlp.up_proj.weight"


@pytest.fixture(autouse=True)
def short_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float16, "_TOKENS", 48)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "device_info", lambda: {"architecture": "applegpu_g14s"})


def spoilt(path: Path, value: float, name: str = NAME, dtype: mx.Dtype = mx.bfloat16) -> Path:
    config, tensors = golden()
    tensors = {key: tensor.astype(dtype) for key, tensor in tensors.items()}
    tensors[name][-1, -1] = value
    return write(path, config, tensors)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-70000.0, r"'model\.(language_model\.)?layers\.1\.mlp\.up_proj\.weight' has the value "
                   r"70\d\d\d\.?\d*, and float16 ends at 65504: choose --dtype bfloat16"),
        (float("nan"), "mlp.up_proj.weight' has values that are not finite"),
        (float("-inf"), "mlp.up_proj.weight' has values that are not finite"),
    ],
)  # fmt: skip
def test_a_weight_that_does_not_fit_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, words: str, dtype: mx.Dtype
):
    monkeypatch.setattr(float16, "CHUNK_ELEMENTS", 1000)  # the last of many chunks
    source = spoilt(tmp_path / "source", value, dtype=dtype)
    for options in ({}, {"quantize": True}, {"dequantize": True}):
        with pytest.raises(Qwen35Error, match=words):
            convert(source, tmp_path / "new" / "out", dtype="float16", **options)
    assert listing(tmp_path) == {"source"}


def test_the_largest_value_fits(tmp_path: Path):
    source = spoilt(tmp_path / "source", 65504.0, dtype=mx.float32)
    convert(source, tmp_path / "out", dtype="float16")
    written = converted_weights(tmp_path / "out")["model.layers.1.mlp.up_proj.weight"]
    assert written[-1, -1].item() == 65504


def test_other_dtypes_are_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = spoilt(tmp_path / "source", 1e30)
    monkeypatch.setattr(float16, "_range_problem", None)
    convert(source, tmp_path / "out", dtype="bfloat16")


def test_what_is_float16_already_is_not_read_twice(tmp_path: Path):
    source = spoilt(tmp_path / "source", 1.0, dtype=mx.float16)
    seen: set[str] = set()
    convert(source, tmp_path / "out", dtype="float16", progress=lambda *now: seen.add(now[2]))
    checked = {what for what in seen if what.startswith("checking ")}
    assert all("norm" in what for what in checked)  # 1 + w is float32
    assert len(seen) > 2 * len(checked)


def test_progress_counts_the_check_and_the_writing(tmp_path: Path):
    source = spoilt(tmp_path / "source", 1.0)
    seen: list[tuple[int, int, str]] = []
    convert(source, tmp_path / "out", dtype="float16", progress=lambda *now: seen.append(now))
    done = [now[0] for now in seen]
    assert done == sorted(done)
    assert len({now[1] for now in seen}) == 1
    assert done[-1] == seen[-1][1]
    assert seen[0][2].startswith("checking ")
    assert not seen[-1][2].startswith("checking ")


def test_a_streamed_weight_that_does_not_fit_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = spoilt(tmp_path / "source", 70000.0)
    monkeypatch.setattr(remote, "SMALL_BYTES", 4000)
    with serve(source) as (_, address):
        use(address, monkeypatch)
        for options in ({}, {"quantize": True}):
            with pytest.raises(Qwen35Error, match=r"up_proj\.weight' has values that do not fit"):
                convert(REPOSITORY, tmp_path / "out", stream=True, dtype="float16", **options)
    assert listing(tmp_path) == {"source"}


# The default on GPUs that emulate bfloat16


@pytest.mark.parametrize(
    ("architecture", "emulates"),
    [
        ("applegpu_g13g", True),
        ("applegpu_g13d", True),
        ("applegpu_g14s", True),
        ("applegpu_g15s", False),
        ("applegpu_g16p", False),
        ("x86_64", False),
        (None, False),
    ],
)
def test_which_gpus_emulate_bfloat16(
    monkeypatch: pytest.MonkeyPatch, architecture: str | None, emulates: bool
):
    monkeypatch.setattr(mx, "device_info", lambda: {"architecture": architecture})
    assert float16.lacks_bfloat16() == emulates


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 checkpoint with a tokenizer that reads the built-in text."""
    path = tmp_path_factory.mktemp("bfloat16") / "source"
    return demo_in_bfloat16(path)


def demo_in_bfloat16(path: Path, experts: str = "switch_mlp", scale: float = 1.0) -> Path:
    """The demo model, plain, with an up projection that is scaled, and a down projection back."""

    checkpoint = open_checkpoint(demo.folder())
    path.mkdir()
    tensors: dict[str, Any] = {}
    for name, shape in checkpoint.expected.items():
        tensors[f"language_model.{name}"] = (
            checkpoint.plain(name).read(0, shape[0]).astype(mx.bfloat16)
        )
    for part, factor in (("up_proj", scale), ("down_proj", 1 / scale)):
        tensors[f"language_model.model.layers.1.mlp.{experts}.{part}.weight"] *= factor
    save(path / "model.safetensors", tensors)
    config = {k: v for k, v in checkpoint.config.items() if not k.startswith("quantization")}
    (path / "config.json").write_text(json.dumps(config))
    for file in demo.folder().iterdir():
        if (
            file.name not in ("config.json",)
            and file.suffix in (".json", ".jinja")
            and "index" not in file.name
        ):
            shutil.copy(file, path / file.name)
    return path


def dtype_of(out: Path) -> str:
    return json.loads((out / "config.json").read_text())["text_config"]["dtype"]


def test_float16_is_the_default_where_bfloat16_is_emulated(
    source: Path, tmp_path: Path, emulated: None, capsys: Any
):
    out = tmp_path / "out"
    assert main(["--hf-path", str(source), "--mlx-path", str(out), "-q", "--no-verify"]) == 0
    assert dtype_of(out) == "float16"
    assert "dtype float16, as this chip emulates bfloat16" in capsys.readouterr().err
    summary = convert(source, tmp_path / "kept", dtype="bfloat16", verify=False)
    assert dtype_of(tmp_path / "kept") == "bfloat16"
    assert not any("emulates" in line for line in summary.warnings)


def test_elsewhere_nothing_changes(source: Path, tmp_path: Path):
    summary = convert(source, tmp_path / "out", verify=False)
    assert dtype_of(tmp_path / "out") == "bfloat16"
    assert not any("emulates" in line for line in summary.warnings)


def test_a_weight_that_does_not_fit_keeps_bfloat16(
    source: Path, tmp_path: Path, emulated: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(float16, "activation_problem", lambda _: None)
    spoilt(tmp_path / "source", 70000.0)
    summary = convert(tmp_path / "source", tmp_path / "out", verify=False)
    assert dtype_of(tmp_path / "out") == "bfloat16"
    line = next(line for line in summary.warnings if "emulates" in line)
    assert "because 'model.layers.1.mlp.up_proj.weight' has the value" in line


@pytest.mark.parametrize("experts", ["switch_mlp", "shared_expert"])
def test_a_product_of_activations_that_may_not_fit_keeps_bfloat16(
    tmp_path: Path, emulated: None, experts: str
):
    # The residual stream stays as it is: only the input of the down projection grows.
    source = demo_in_bfloat16(tmp_path / "source", experts, scale=2.0**15)
    summary = convert(source, tmp_path / "out", verify=False)
    assert dtype_of(tmp_path / "out") == "bfloat16"
    line = next(line for line in summary.warnings if "emulates" in line)
    assert "because layer 1 computes" in line


def test_a_residual_stream_that_may_not_fit(source: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoint = open_checkpoint(source)
    assert float16.activation_problem(checkpoint) is None
    monkeypatch.setattr(float16, "_watch_products", lambda *_: None)
    monkeypatch.setattr(float16, "LARGEST", 1.0)
    problem = float16.activation_problem(checkpoint)
    assert problem is not None
    assert problem.startswith("layer 0 computes")


def test_without_a_text_to_read_bfloat16_is_kept(tmp_path: Path, emulated: None):
    source = spoilt(tmp_path / "source", 1.0)  # its tokenizer is none
    summary = convert(source, tmp_path / "out", verify=False)
    assert dtype_of(tmp_path / "out") == "bfloat16"
    assert any("because its tokenizer reads no text" in line for line in summary.warnings)
