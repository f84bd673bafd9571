"""What a conversion writes, against mlx-lm's own conversion."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model, quantize_model

from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.checkpoint.recipes import Quantization
from qwen35_mlx.conversion import plan, planned_tensor
from tests.checkpoint.cases import (
    canonical,
    converted_weights,
    float8,
    fused,
    golden,
    listing,
    load,
    mlx_layout,
    one_by_one,
    text_only,
    with_vision,
    write,
)
from tests.checkpoint.cases import unmeasured as convert

IDS = mx.array(np.random.default_rng(0).integers(0, 250, (1, 40)))


def same(one: mx.array, other: mx.array) -> bool:
    return one.dtype == other.dtype and bool(mx.array_equal(one, other))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small float32 checkpoint in the published layout."""
    return write(tmp_path / "source", *golden())


CASES = ["dense", "dense-tied-wide-heads", "dense-yarn", "moe", "moe-tied-wide-heads"]


@pytest.mark.parametrize("name", CASES)
def test_mlx_lm_computes_the_same_logits_from_source_and_plain_result(tmp_path: Path, name: str):
    config, tensors = golden(name)
    source = write(tmp_path / "source", config, with_vision(tensors), files=2)
    convert(str(source), tmp_path / "out")
    before, after = load_model(source)[0](IDS), load_model(tmp_path / "out")[0](IDS)
    assert np.abs(np.array(before) - np.array(after)).max() < 1e-5
    assert np.abs(np.array(before)).max() > 1


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("dense", Quantization(64, 4)),
        ("dense", Quantization(32, 8)),
        ("moe", Quantization(32, 3)),
        ("moe", Quantization(32, 4, "mxfp4")),
        ("moe", Quantization(32, 8, "mxfp8")),
        ("dense-tied-wide-heads", Quantization(16, 4, "nvfp4")),
    ],
)
def test_quantised_result_equals_mlx_lms(tmp_path: Path, name: str, quantization: Quantization):
    config, tensors = golden(name)
    source = write(tmp_path / "source", config, fused(tensors))
    summary = convert(
        str(source),
        tmp_path / "out",
        quantize=True,
        q_bits=quantization.bits,
        q_group_size=quantization.group_size,
        q_mode=quantization.mode,
    )
    model, config = load_model(source)
    quantize_model(
        model, config, quantization.group_size, quantization.bits, mode=quantization.mode
    )
    reloaded, _ = load_model(tmp_path / "out")
    assert mx.array_equal(model(IDS), reloaded(IDS))
    assert summary.quantization == quantization
    assert summary.bits_per_weight < 16  # tiny rows: scales are a large part


def test_quantised_bfloat16_result_equals_mlx_lms(tmp_path: Path):
    config, tensors = golden()
    half = {n: v.astype(mx.bfloat16) if "A_log" not in n else v for n, v in tensors.items()}
    source = write(tmp_path / "source", config, half)
    convert(str(source), tmp_path / "out", quantize=True, q_bits=4)
    model, config = load_model(source)
    quantize_model(model, config, 64, 4)
    assert mx.array_equal(model(IDS), load_model(tmp_path / "out")[0](IDS))


@pytest.mark.parametrize("layout", ["fused", "one by one", "text only", "mlx", "float8"])
def test_every_layout_gives_the_same_result(tmp_path: Path, layout: str):
    config, tensors = golden("moe")
    tensors = {n: v.astype(mx.bfloat16) for n, v in tensors.items()}
    stored: Any = tensors
    meant = tensors
    if layout == "fused":
        stored = fused(tensors)
    elif layout == "one by one":
        stored = one_by_one(tensors)
    elif layout == "text only":
        config, stored = text_only(config, tensors)
    elif layout == "mlx":
        # Norms are 1 + w, which is not exact in bfloat16.
        stored = mlx_layout(
            {n: v.astype(mx.float32) if "norm" in n else v for n, v in tensors.items()}
        )
        for name, value in stored.items():
            if name.endswith("linear_attn.norm.weight"):
                stored[name] = value.astype(mx.bfloat16)
    elif layout == "float8":
        floats = {n: v.astype(mx.float32) for n, v in one_by_one(tensors).items()}
        config, stored, meant = float8(config, floats)
        stored = {n: v.astype(mx.bfloat16) if n in tensors and isinstance(v, mx.array) else v
                  for n, v in stored.items()}  # fmt: skip
    source = write(tmp_path / "source", config, stored)
    convert(str(source), tmp_path / "out", dtype="bfloat16")
    found = converted_weights(tmp_path / "out")
    expected = canonical({n: v.astype(mx.float32) for n, v in meant.items()})
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert same(found[name], as_written(name, value, mx.bfloat16)), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "qwen3_5_moe"
    assert "quantization_config" not in config
    load_model(tmp_path / "out")


def test_mtp_is_kept_and_quantised_in_a_file_mlx_lm_does_not_read(source: Path, tmp_path: Path):
    convert(str(source), tmp_path / "out", quantize=True, q_bits=4)
    out = tmp_path / "out"
    mtp = load(out / "mtp.safetensors")
    assert all(name.startswith("language_model.mtp.") for name in mtp)
    assert not any(".mtp." in name for name in load(out / "model.safetensors"))
    checkpoint = open_checkpoint(out)
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


def test_a_checkpoint_without_mtp_stays_without(tmp_path: Path):
    config, tensors = golden()
    kept = {n: v for n, v in tensors.items() if not n.startswith("mtp.")}
    convert(str(write(tmp_path / "source", config, kept)), tmp_path / "out")
    assert not (tmp_path / "out" / "mtp.safetensors").exists()
    assert not open_checkpoint(tmp_path / "out").has_mtp


def as_written(name: str, value: mx.array, dtype: mx.Dtype) -> mx.array:
    """A canonical tensor of a bfloat16 source as a conversion to `dtype` writes it."""
    if name.endswith("A_log"):
        return value
    if name.endswith(("dt_bias", "linear_attn.norm.weight")):
        return value.astype(mx.bfloat16)
    if name.endswith("conv1d.weight"):
        value = mx.moveaxis(value, 2, 1)
    elif value.ndim == 1:
        value = value - 1
    return value.astype(dtype)


@pytest.mark.parametrize("dtype", [None, "float32", "float16", "bfloat16"])
def test_dtypes_of_a_plain_result(tmp_path: Path, dtype: str | None):
    config, tensors = golden()
    half = {n: v.astype(mx.bfloat16) for n, v in tensors.items()}
    convert(str(write(tmp_path / "source", config, half)), tmp_path / "out", dtype=dtype)
    found = converted_weights(tmp_path / "out")
    for name, value in canonical({n: v.astype(mx.float32) for n, v in half.items()}).items():
        assert same(found[name], as_written(name, value, getattr(mx, dtype or "bfloat16"))), name
    text = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert text["dtype"] == (dtype or "bfloat16")


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_a_plain_conversion_of_bfloat16_loses_nothing(tmp_path: Path, name: str):
    config, tensors = golden(name)
    half = {n: v.astype(mx.bfloat16) for n, v in tensors.items()}
    source = write(tmp_path / "source", config, half)
    convert(str(source), tmp_path / "out")
    convert(tmp_path / "out", tmp_path / "again")
    before = load_network(open_checkpoint(source))
    for path in (tmp_path / "out", tmp_path / "again"):
        after = load_network(open_checkpoint(path))
        logits = [net.logits(net(IDS, net.make_cache())) for net in (before, after)]
        assert mx.array_equal(*logits)


def test_one_tensor_in_float32_does_not_make_the_model_float32(tmp_path: Path):
    config, tensors = golden()
    half = {n: v.astype(mx.bfloat16) for n, v in tensors.items()}
    name = "model.language_model.embed_tokens.weight"
    source = write(tmp_path / "source", config, half | {name: tensors[name]})
    convert(str(source), tmp_path / "out")
    found = converted_weights(tmp_path / "out")
    assert found["model.embed_tokens.weight"].dtype == mx.float32  # nothing is lost
    assert found["lm_head.weight"].dtype == mx.bfloat16
    assert open_checkpoint(tmp_path / "out").dtype_of_most == mx.bfloat16
    text = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert text["dtype"] == "bfloat16"


def test_router_has_eight_bits_and_odd_rows_stay_plain(tmp_path: Path):
    source = write(tmp_path / "source", *golden("moe"))
    summary = convert(str(source), tmp_path / "out", quantize=True, q_mode="mxfp4")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"]
    entry = config["quantization"]
    assert {k: entry[k] for k in ("group_size", "bits", "mode")} == {
        "group_size": 32,
        "bits": 4,
        "mode": "mxfp4",
    }
    layer = "language_model.model.layers.0.mlp."
    eight = {"group_size": 64, "bits": 8, "mode": "affine"}
    assert entry[layer + "gate"] == entry[layer + "shared_expert_gate"] == eight
    assert entry["language_model.mtp.layers.0.mlp.gate"] == eight
    assert entry[layer + "shared_expert.down_proj"] is False
    assert "model.layers.0.mlp.shared_expert.down_proj.weight" in summary.plain
    assert len(summary.plain) == 5  # of four layers and the MTP head


def test_small_chunks_give_the_same_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    convert(str(source), tmp_path / "one", quantize=True)
    monkeypatch.setattr(planned_tensor, "CHUNK_ELEMENTS", 300)
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
    one, many = converted_weights(tmp_path / "one"), converted_weights(tmp_path / "many")
    assert one.keys() == many.keys()
    assert all(same(one[name], many[name]) for name in one)
    load_model(tmp_path / "many")


def test_the_text_config_has_what_mlx_lm_reads_from_it(tmp_path: Path):
    # Embeddings are tied by the outer config only, and full attention is in `layer_types` only.
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


def test_the_other_files_are_copied(source: Path, tmp_path: Path):
    (source / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    (source / "README.md").write_text("not this")
    summary = convert(str(source), tmp_path / "out")
    assert listing(tmp_path / "out") == {
        "README.md",
        "config.json",
        "conversion.json",
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


def test_a_missing_template_is_warned_of(source: Path, tmp_path: Path):
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
    sizes = sum(v.nbytes for v in converted_weights(tmp_path / "out").values())
    assert summary.nbytes == sizes
    assert summary.parameters == sum(v.size for v in canonical(golden()[1]).values())
