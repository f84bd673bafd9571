"""LoRA adapters of PEFT and mlx-lm, against their formulas in float64 and mlx-lm's own loading."""

import json
import math
from pathlib import Path
from typing import Any

import huggingface_hub
import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model

from qwen35_mlx.checkpoint.hub import resolve_adapter
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.compare import compare
from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.prompt_cache.fingerprint import of_adapter
from qwen35_mlx.session.load import load
from tests.checkpoint.cases import (
    GOLDENS,
    Tensors,
    canonical,
    converted_weights,
    golden,
    refused,
    save,
    text_only,
    write,
)
from tests.checkpoint.gguf.cases import golden_gguf

RANK, ALPHA = 4, 12
Q_PROJ = "model.language_model.layers.3.self_attn.q_proj"
EXPERTS = "model.language_model.layers.1.mlp.experts"
IDS = mx.array(np.random.default_rng(0).integers(0, 250, (1, 40)))
Values = dict[str, np.ndarray]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(0, 0.2, shape).astype(np.float32)


def peft(path: Path, tensors: Values, **config: Any) -> Path:
    """A PEFT adapter."""
    path.mkdir()
    save(path / "adapter_model.safetensors", {n: mx.array(v) for n, v in tensors.items()})
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (path / "adapter_config.json").write_text(json.dumps(settings | config))
    return path


def pair(module: str, rows: int, columns: int, rank: int = RANK) -> Values:
    """Both factors of a linear layer, as PEFT names them."""
    return {
        f"base_model.model.{module}.lora_A.weight": draw(rank, columns),
        f"base_model.model.{module}.lora_B.weight": draw(rows, rank, seed=1),
    }


def product(tensors: Values) -> np.ndarray:
    """B @ A in float64."""
    a, b = (next(v for n, v in tensors.items() if f"lora_{f}" in n) for f in "AB")
    return b.astype(np.float64) @ a.astype(np.float64)


def plain(path: Path, adapter: Path, name: str) -> np.ndarray:
    """A whole matrix with an adapter, as conversions and comparisons read it."""
    reader = open_checkpoint(path).with_adapter(adapter).plain(name)
    parts = [np.array(reader.read(i, i + 1)) for i in range(reader.shape[0])]
    whole = np.array(reader.read(0, reader.shape[0]))
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-6)
    return whole.astype(np.float64)


def assert_fused(path: Path, adapter: Path, changes: Values) -> None:
    """Check that exactly these matrices have these values."""
    base = open_checkpoint(path)
    fused = base.with_adapter(adapter)
    fused.verify()
    for name, matrix in base.matrices.items():
        if name not in changes:
            assert fused.matrices[name] is matrix, name
    for name, expected in changes.items():
        np.testing.assert_allclose(plain(path, adapter, name), expected, rtol=0, atol=2e-6)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return write(tmp_path / "dense", *golden())


@pytest.fixture
def moe(tmp_path: Path) -> Path:
    return write(tmp_path / "moe", *golden("moe"))


def values(name: str) -> Values:
    """The canonical tensors of a golden, in float64."""
    found = canonical(golden(name)[1])
    return {n: np.array(v).astype(np.float64) for n, v in found.items()}


Q_NAME = "model.layers.3.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, ALPHA / RANK),
        ({"use_rslora": True}, ALPHA / math.sqrt(RANK)),
        ({"alpha_pattern": {"k_proj": 7, "self_attn.q_proj": 5, "q_proj": 9}}, 5 / RANK),
        ({"alpha_pattern": {"^" + Q_PROJ.replace(".", "\\."): 5}}, 5 / RANK),
        ({"alpha_pattern": {"^q_proj": 5, "roj": 3}}, ALPHA / RANK),
        ({"r": 9, "rank_pattern": {"q_proj": RANK}}, ALPHA / RANK),
        ({"fan_in_fan_out": True, "init_lora_weights": "gaussian"}, ALPHA / RANK),
    ],
)
def test_peft_scales(dense: Path, tmp_path: Path, config: dict[str, Any], scale: float):
    tensors = pair(Q_PROJ, 256, 64)
    adapter = peft(tmp_path / "adapter", tensors, **config)
    expected = values("dense")[Q_NAME] + scale * product(tensors)
    assert_fused(dense, adapter, {Q_NAME: expected})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (".weight", ".default.weight"),
        ("base_model.model.", ""),
        ("base_model.model.model.language_model.", "base_model.model.model."),
        ("base_model.model.model.language_model.", "_orig_mod.base_model.model.language_model."),
    ],
)
def test_peft_names(dense: Path, tmp_path: Path, old: str, new: str):
    tensors = pair(Q_PROJ, 256, 64)
    adapter = peft(tmp_path / "adapter", {n.replace(old, new): v for n, v in tensors.items()})
    expected = values("dense")[Q_NAME] + ALPHA / RANK * product(tensors)
    assert_fused(dense, adapter, {Q_NAME: expected})


def test_peft_embeddings_modules_to_save_and_the_vision_tower(dense: Path, tmp_path: Path):
    prefix = "base_model.model.model.language_model."
    vocabulary = golden()[1]["lm_head.weight"].shape[0]
    a, b = draw(RANK, vocabulary), draw(64, RANK, seed=1)
    head, norm = draw(vocabulary, 64, seed=2), draw(64, seed=3)
    tensors = {
        f"{prefix}embed_tokens.lora_embedding_A": a,
        f"{prefix}embed_tokens.lora_embedding_B": b,
        "base_model.model.lm_head.modules_to_save.default.weight": head,
        "base_model.model.lm_head.original_module.weight": head + 1,
        f"{prefix}norm.weight": norm,
        **pair("model.visual.blocks.0.attn.qkv", 8, 8),
    }
    adapter = peft(tmp_path / "adapter", tensors)
    product = (b.astype(np.float64) @ a.astype(np.float64)).T
    base = values("dense")["model.embed_tokens.weight"]
    changes = {
        "model.embed_tokens.weight": base + ALPHA / RANK * product,
        "lm_head.weight": head.astype(np.float64),
        "model.norm.weight": 1 + norm.astype(np.float64),
    }
    assert_fused(dense, adapter, changes)
    (note,) = open_checkpoint(dense).with_adapter(adapter).notes
    assert "3 tensors" in note
    assert "2 of the vision tower are not read" in note


def test_peft_dora(dense: Path, tmp_path: Path):
    tensors = pair(Q_PROJ, 256, 64)
    length = np.abs(draw(256)) + 1
    name = f"base_model.model.{Q_PROJ}.lora_magnitude_vector"
    adapter = peft(tmp_path / "adapter", tensors | {name: length}, use_dora=True)
    changed = values("dense")[Q_NAME] + ALPHA / RANK * product(tensors)
    changed *= length[:, None] / np.linalg.norm(changed, axis=1, keepdims=True)
    assert_fused(dense, adapter, {Q_NAME: changed})


def expert_products(a: np.ndarray, b: np.ndarray, experts: int) -> np.ndarray:
    """[experts, rows of B, columns of A]: expert e has rows e*r... of A, and every E-th of B."""
    rank = len(a) // experts
    return np.stack(
        [
            b[:, e::experts].astype(np.float64) @ a[e * rank : (e + 1) * rank].astype(np.float64)
            for e in range(experts)
        ]
    )


@pytest.mark.parametrize("version", ["0.21.2", "0.18.1"])
@pytest.mark.parametrize("inner", ["gate_up_proj", "down_proj"])
def test_peft_parameters_of_experts(moe: Path, tmp_path: Path, version: str, inner: str):
    """PEFT up to 0.19.0 took [experts, out, in] for [experts, in, out]; the order of both varies.

    Gate and up are square here, 64 x 64, so only the version tells them apart.
    """
    old = version == "0.18.1"
    sizes = {"gate_up_proj": (64, 64), "down_proj": (64, 32)}
    tensors, deltas = {}, {}
    for name, (rows, columns) in sizes.items():
        module = f"base_model.model.{EXPERTS}" + (".base_layer" if name == inner else "")
        inputs, outputs = (rows, columns) if old else (columns, rows)
        a, b = draw(8 * RANK, inputs, seed=2), draw(outputs, RANK * 8, seed=3)
        tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        delta = expert_products(a, b, 8) * (ALPHA / RANK)
        deltas[name] = delta.swapaxes(1, 2) if old else delta
    adapter = peft(tmp_path / "adapter", tensors, peft_version=version)
    stem, base = "model.layers.1.mlp.switch_mlp.", values("moe")
    expected = {
        "gate_proj": deltas["gate_up_proj"][:, :32],
        "up_proj": deltas["gate_up_proj"][:, 32:],
        "down_proj": deltas["down_proj"],
    }
    named = {f"{stem}{name}.weight": delta for name, delta in expected.items()}
    assert_fused(moe, adapter, {name: base[name] + delta for name, delta in named.items()})


def test_peft_experts_one_by_one_and_the_router(moe: Path, tmp_path: Path):
    single, router = pair(f"{EXPERTS}.5.down_proj", 64, 32), EXPERTS.replace("experts", "gate")
    gate = pair(router, 8, 64)
    adapter = peft(tmp_path / "adapter", single | gate)
    base = values("moe")
    down = base["model.layers.1.mlp.switch_mlp.down_proj.weight"].copy()
    down[5] += ALPHA / RANK * product(single)
    changes = {
        "model.layers.1.mlp.switch_mlp.down_proj.weight": down,
        "model.layers.1.mlp.gate.weight": base["model.layers.1.mlp.gate.weight"]
        + ALPHA / RANK * product(gate),
    }
    assert_fused(moe, adapter, changes)


def mlx_lm(path: Path, tensors: Values, kind: str = "lora", **parameters: Any) -> Path:
    """An mlx-lm adapter."""
    path.mkdir()
    save(path / "adapters.safetensors", {n: mx.array(v) for n, v in tensors.items()})
    settings = {"rank": RANK, "scale": 3.0, "dropout": 0.0, **parameters}
    config = {"fine_tune_type": kind, "num_layers": 4, "lora_parameters": settings}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def mlx_pair(module: str, rows: int, columns: int) -> Values:
    name = f"language_model.model.{module}"
    return {f"{name}.lora_a": draw(columns, RANK), f"{name}.lora_b": draw(RANK, rows, seed=1)}


def case(kind: str) -> tuple[str, Values, dict[str, Any]]:
    """A golden, the tensors of an adapter for it, and the keys that mlx-lm is trained with."""
    if kind == "experts":
        name = "language_model.model.layers.1.mlp.switch_mlp.up_proj"
        tensors = {f"{name}.lora_a": draw(8, RANK, 64), f"{name}.lora_b": draw(8, 32, RANK, seed=1)}
        return "moe", tensors, {"keys": ["mlp.switch_mlp.up_proj"]}
    if kind == "tied embeddings":
        name = "language_model.model.embed_tokens"
        tensors = {f"{name}.lora_a": draw(256, RANK), f"{name}.lora_b": draw(RANK, 64, seed=1)}
        return "dense-tied-wide-heads", tensors, {"keys": [name]}
    tensors = mlx_pair("layers.3.self_attn.q_proj", 256, 64)
    if kind == "dora":
        tensors["language_model.model.layers.3.self_attn.q_proj.m"] = np.abs(draw(256)) + 1
    return "dense", tensors, {"keys": ["self_attn.q_proj"]}


@pytest.mark.parametrize("kind", ["lora", "dora", "experts", "tied embeddings"])
def test_mlx_lm_computes_the_same_logits_with_its_adapters(tmp_path: Path, kind: str):
    name, tensors, keys = case(kind)
    source = write(tmp_path / "source", *golden(name))
    adapter = mlx_lm(tmp_path / "adapter", tensors, "dora" if kind == "dora" else "lora", **keys)
    model = load_model(source)[0]
    before = np.array(model(IDS))
    expected = np.array(load_adapters(model, str(adapter))(IDS))
    network = load_network(open_checkpoint(source).with_adapter(adapter), "float32")
    got = np.array(network.logits(network(IDS, network.make_cache())))
    assert np.abs(got - expected).max() < 1e-4
    assert np.abs(before - expected).max() > 0.1


def test_full_fine_tuning_of_mlx_lm_replaces_tensors(dense: Path, tmp_path: Path):
    norm, matrix = draw(64) + 1, draw(256, 64)
    tensors = {
        "language_model.model.norm.weight": norm,
        "language_model." + Q_NAME: matrix,
    }
    adapter = mlx_lm(tmp_path / "adapter", tensors, "full")
    expected = {"model.norm.weight": norm, Q_NAME: matrix}
    assert_fused(dense, adapter, {n: v.astype(np.float64) for n, v in expected.items()})


def quantised(source: Path, out: Path) -> Path:
    convert(source, out, quantize=True, q_group_size=32)
    return out


def test_of_a_quantised_model_only_changed_matrices_become_plain(dense: Path, tmp_path: Path):
    source = quantised(dense, tmp_path / "quantised")
    tensors = pair(Q_PROJ, 256, 64)
    adapter = peft(tmp_path / "adapter", tensors)
    base = np.array(open_checkpoint(source).plain(Q_NAME).read(0, 256)).astype(np.float64)
    assert_fused(source, adapter, {Q_NAME: base + ALPHA / RANK * product(tensors)})
    fused = open_checkpoint(source).with_adapter(adapter)
    assert "1 are quantised in the model" in fused.notes[-1]
    changed = np.array(fused.read(Q_NAME))
    network = load_network(fused, "float32")
    assert changed.shape == (256, 64)
    assert np.isfinite(np.array(network.logits(network(IDS, network.make_cache())))).all()


def test_bfloat16_stays_the_dtype_of_the_model(tmp_path: Path):
    config, tensors = golden()
    half = {n: v.astype(mx.bfloat16) for n, v in tensors.items()}
    source = write(tmp_path / "source", config, half)
    every = {
        name.removesuffix(".weight"): value.shape
        for name, value in half.items()
        if value.ndim == 2 and "embed" not in name and "conv1d" not in name
    }
    factors: Values = {}
    for module, (rows, columns) in every.items():
        factors |= pair(module, rows, columns)
    adapter = peft(tmp_path / "adapter", factors)
    assert open_checkpoint(source).with_adapter(adapter).dtype_of_most == mx.bfloat16
    convert(source, tmp_path / "out", adapter_path=adapter)
    assert converted_weights(tmp_path / "out")[Q_NAME].dtype == mx.bfloat16


def test_conversion_quantises_after_fusing(dense: Path, tmp_path: Path):
    tensors = pair(Q_PROJ, 256, 64)
    adapter = peft(tmp_path / "adapter", tensors)
    summary = convert(dense, tmp_path / "out", quantize=True, q_bits=4, adapter_path=adapter)
    fused = (values("dense")[Q_NAME] + ALPHA / RANK * product(tensors)).astype(np.float32)
    want, *_ = mx.quantize(mx.array(fused), 64, 4)
    got = converted_weights(summary.path)[Q_NAME]
    # A code may fall on the other side of a boundary between two of them.
    assert np.mean(np.array(got) != np.array(want)) < 0.01


def test_converting_a_quantised_model_quantises_changed_matrices_as_before(
    dense: Path, tmp_path: Path
):
    source = quantised(dense, tmp_path / "quantised")
    adapter = peft(tmp_path / "adapter", pair(Q_PROJ, 256, 64))
    convert(source, tmp_path / "out", adapter_path=adapter)
    before, after = (open_checkpoint(path) for path in (source, tmp_path / "out"))
    module = Q_NAME.removesuffix(".weight")
    assert after.quantization(module) == before.quantization(module)
    assert not mx.array_equal(after.read(Q_NAME), before.read(Q_NAME))
    other = Q_NAME.replace("q_proj", "k_proj")
    assert mx.array_equal(after.read(other), before.read(other))


def test_of_a_gguf_file_heads_are_in_the_order_of_the_network(dense: Path, tmp_path: Path):
    """There, value heads are stored in another order, and the adapter is not."""
    file = golden_gguf(tmp_path / "m.gguf")
    names = ("in_proj_z", "out_proj")
    modules = {f"model.layers.0.linear_attn.{name}.weight": name for name in names}
    shapes = open_checkpoint(dense).expected
    factors = {name: pair(name.removesuffix(".weight"), *shapes[name]) for name in modules}
    adapter = peft(tmp_path / "adapter", {n: v for p in factors.values() for n, v in p.items()})
    base = values("dense")
    changes = {n: base[n] + ALPHA / RANK * product(factors[n]) for n in modules}
    assert_fused(file, adapter, changes)


def test_an_adapter_of_the_hub_is_downloaded_without_the_rest(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    adapter = peft(tmp_path / "adapter", pair(Q_PROJ, 256, 64))
    asked: list[Any] = []

    def snapshot_download(name: str, **options: Any) -> str:
        asked.append((name, sorted(options["allow_patterns"])))
        return str(adapter)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = resolve_adapter("org/adapter", progress=lambda *_: None)
    open_checkpoint(dense).with_adapter(found)
    files = ["adapter_config.json", "adapter_model.safetensors", "adapters.safetensors"]
    assert asked == [("org/adapter", files)]
    assert resolve_adapter(str(adapter)) == adapter
    with pytest.raises(Qwen35Error, match="--adapter-path"):
        resolve_adapter("no such adapter")


def test_load_and_compare_apply_it_and_states_do_not_mix(model_folder: Path, tmp_path: Path):
    shapes = open_checkpoint(model_folder).expected
    name = next(name for name in shapes if name.endswith("o_proj.weight"))
    tensors = pair(name.removesuffix(".weight"), *shapes[name])
    adapter = peft(tmp_path / "adapter", tensors)
    prints = set()
    for path in (None, adapter, peft(tmp_path / "louder", tensors, lora_alpha=99)):
        with load(model_folder, adapter_path=path) as model:
            prints.add(model.open_states(tmp_path)._model_folder)
    assert len(prints) == 3
    same = compare(model_folder, model_folder, tokens=40)
    other = compare(model_folder, model_folder, tokens=40, adapter_path=adapter)
    assert same.divergence.mean < 1e-6 < other.divergence.mean


def test_an_adapter_in_the_folder_of_a_model_is_mentioned(dense: Path):
    (dense / "adapters.safetensors").write_bytes(b"")
    (note,) = open_checkpoint(dense).notes
    assert "not applied: --adapter-path" in note


def test_an_adapter_that_is_applied_is_not_called_unused(dense: Path, tmp_path: Path):
    adapter = peft(tmp_path / "adapter", pair(Q_PROJ, 256, 64))
    for file in adapter.iterdir():
        file.rename(dense / file.name)
    (note,) = open_checkpoint(dense).with_adapter(dense).notes
    assert "is applied" in note


def unmerged(path: Path) -> tuple[Path, Values]:
    """A model saved with an adapter in it, without its settings."""
    config, tensors = golden()
    factors = pair(Q_PROJ, 256, 64)
    saved: Tensors = {}
    for name, value in tensors.items():
        saved["base_model.model." + name.replace("q_proj.", "q_proj.base_layer.")] = value
    for name, value in factors.items():
        saved[name.replace(".weight", ".default.weight")] = mx.array(value)
    return write(path, config, saved), factors


def test_a_save_with_an_unmerged_adapter_is_fused_or_refused(tmp_path: Path):
    path, factors = unmerged(tmp_path / "unmerged")
    assert "was not merged" in refused(path)
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
    (path / "adapter_config.json").write_text(json.dumps(settings))
    checkpoint = open_checkpoint(path)
    checkpoint.verify()
    got = np.array(checkpoint.plain(Q_NAME).read(0, 256))
    expected = values("dense")[Q_NAME] + ALPHA / RANK * product(factors)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def test_the_folder_of_an_adapter_is_no_model(tmp_path: Path):
    assert "is an adapter" in refused(peft(tmp_path / "adapter", pair(Q_PROJ, 256, 64)))


@pytest.mark.parametrize(
    ("tensors", "config", "said"),
    [
        (pair(Q_PROJ, 128, 64), {}, "does not fit 'model.layers.3.self_attn.q_proj.weight'"),
        (pair(Q_PROJ, 256, 128), {"base_model_name_or_path": "org/big"}, "trained on, 'org/big'"),
        (pair(Q_PROJ, 256, 64), {"r": 8}, "has the rank 4"),
        (pair(Q_PROJ.replace("3", "9"), 256, 64), {}, "this model does not have"),
        (pair(Q_PROJ, 256, 64), {"peft_type": "IA3"}, "the kind 'IA3'"),
        (pair(Q_PROJ, 256, 64), {"use_dora": True}, "no lora_magnitude_vector"),
        (pair(Q_PROJ, 256, 64), {"use_qalora": True}, "use_qalora is set"),
        (pair(Q_PROJ, 256, 64), {"init_lora_weights": "pissa"}, "changes the model as well"),
        (pair(Q_PROJ, 256, 64), {"lora_alpha": "12"}, "not a number"),
        (pair(Q_PROJ, 256, 64), {"alpha_pattern": {"(a+)+$": 1}}, "is a pattern"),
        (dict(list(pair(Q_PROJ, 256, 64).items())[:1]), {}, "but no lora_B"),
        (
            pair(Q_PROJ, 256, 64) | {f"base_model.model.{Q_PROJ}.lora_B.bias": draw(256)},
            {},
            "q_proj.bias', which this model does not have",
        ),
        ({f"base_model.model.{Q_PROJ}.lora_A": draw(4)}, {}, "but no lora_B"),
        ({"base_model.model.lm_head.weight": draw(8, 64)}, {}, "does not fit 'lm_head.weight'"),
        (
            {
                n.replace(".weight", f".{a}.weight"): v
                for a in "xy"
                for n, v in pair("a", 2, 2).items()
            },
            {},
            "holds the adapters 'x', 'y'",
        ),
        ({}, {}, "has no tensors"),
    ],
)
def test_what_does_not_fit_is_one_line(
    dense: Path, tmp_path: Path, tensors: Values, config: dict[str, Any], said: str
):
    adapter = peft(tmp_path / "adapter", tensors, **config)
    with pytest.raises(Qwen35Error) as caught:
        open_checkpoint(dense).with_adapter(adapter)
    assert said in str(caught.value)
    assert str(adapter) in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "kind", "parameters", "said"),
    [
        (mlx_pair("layers.3.self_attn.q_proj", 64, 256), "lora", {}, "does not fit"),
        (mlx_pair("layers.9.self_attn.q_proj", 256, 64), "lora", {}, "does not have"),
        (mlx_pair("layers.3.self_attn.q_proj", 256, 64), "dora", {}, "but no m"),
        (mlx_pair("layers.3.self_attn.q_proj", 256, 64), "other", {}, "fine_tune_type 'other'"),
        (mlx_pair("layers.3.self_attn.q_proj", 256, 64), "lora", {"scale": None}, "no scale"),
        ({"language_model.x.A": draw(2, 2)}, "lora", {}, "does not have"),
    ],
)
def test_what_does_not_fit_of_mlx_lm_is_one_line(
    dense: Path, tmp_path: Path, tensors: Values, kind: str, parameters: dict[str, Any], said: str
):
    adapter = mlx_lm(tmp_path / "adapter", tensors, kind, **parameters)
    with pytest.raises(Qwen35Error, match=said):
        open_checkpoint(dense).with_adapter(adapter)


def test_peft_keeps_the_head_apart_from_tied_embeddings(tmp_path: Path):
    config, tensors = golden("dense-tied-wide-heads")
    source = write(tmp_path / "source", *text_only(config, tensors))
    factors = {
        "base_model.model.model.embed_tokens.lora_embedding_A": draw(RANK, 256),
        "base_model.model.model.embed_tokens.lora_embedding_B": draw(64, RANK),
    }
    with pytest.raises(Qwen35Error, match="but not the output head"):
        open_checkpoint(source).with_adapter(peft(tmp_path / "adapter", factors))
    tying = peft(tmp_path / "tying", factors, ensure_weight_tying=True)
    open_checkpoint(source).with_adapter(tying).verify()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no adapter"),
        ({"adapter_model.bin": b""}, "is a pickle"),
        ({"adapter_model.safetensors": b""}, "has no adapter_config.json"),
    ],
)
def test_a_folder_without_a_whole_adapter(tmp_path: Path, files: dict[str, bytes], said: str):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Qwen35Error, match=said):
        open_checkpoint(GOLDENS / "dense").with_adapter(tmp_path)


def test_the_scale_is_part_of_the_fingerprint(tmp_path: Path):
    tensors = pair(Q_PROJ, 256, 64)
    one, other = (peft(tmp_path / str(a), tensors, lora_alpha=a) for a in (1, 2))
    files = [path / "adapter_model.safetensors" for path in (one, other)]
    assert of_adapter(files[0]) != of_adapter(files[1])
