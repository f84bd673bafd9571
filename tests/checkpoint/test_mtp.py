"""MTP heads in every place and naming, and heads that cannot be read."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx import demo
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.mtp import head_norms
from qwen35_mlx.checkpoint.mtp_norms import NormReading
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion import proof
from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.kv_cache import KVCache
from tests.checkpoint.cases import (
    Raw,
    Tensors,
    canonical,
    demo_with_unmarked_head,
    fused,
    golden,
    load,
    mlx_layout,
    one_by_one,
    save,
    write,
)
from tests.checkpoint.gguf.cases import convert as gguf_tensors
from tests.checkpoint.gguf.cases import write_gguf
from tests.goldens import assert_logits, expected

LAYER_NORMS = ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm")
# The kinds of norms that hold w, in heads of real tools.
NORMS = {
    "raw": (*LAYER_NORMS, "pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"),
    "converted": (),
    # A converter of the trunk's norms that was given the head.
    "all but the layer's are raw": ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"),
    # One that looks for names that end in norm.weight.
    "those before fc are raw": ("pre_fc_norm_embedding", "pre_fc_norm_hidden"),
    "the layer's are raw": LAYER_NORMS,
}


def parts(name: str) -> tuple[dict[str, Any], Tensors, Tensors]:
    """config.json, the trunk and the head of a golden in the published layout."""
    config, tensors = golden(name)
    head = {n: v for n, v in tensors.items() if n.startswith("mtp.")}
    return config, {n: v for n, v in tensors.items() if n not in head}, head


def with_norms(head: Tensors, kinds: tuple[str, ...]) -> Tensors:
    """A raw head with 1 + w in all norms but those of these kinds."""
    return {
        name: value + 1 if value.ndim == 1 and name.split(".")[-2] not in kinds else value
        for name, value in head.items()
    }


def bare(head: Tensors) -> Tensors:
    return {name.removeprefix("mtp."): value for name, value in head.items()}


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda head: {prefix + name: value for name, value in head.items()}


def stacked(head: Tensors) -> Tensors:
    """The experts as mlx-lm stacks them, without a prefix."""
    norms = {name: value for name, value in head.items() if value.ndim == 1}
    return bare(canonical(head) | norms)


def put_file(file_name: str, naming: Callable[[Tensors], Tensors]) -> Callable[..., None]:
    return lambda path, head: save(path / file_name, naming(head))


def put_folder(path: Path, head: Tensors) -> None:
    (path / "mtp").mkdir()
    save(path / "mtp" / "weights.safetensors", bare(head))


def put_repository(name: str) -> Callable[..., None]:
    def put(path: Path, head: Tensors) -> None:
        folder = path.with_name(name)
        folder.mkdir()
        config = {"model_type": "qwen3_5_mtp", "text_config": {}, "tie_word_embeddings": True}
        (folder / "config.json").write_text(json.dumps(config))
        save(folder / "model.safetensors", stacked(head))

    return put


def put_shards(path: Path, head: Tensors) -> None:
    for name in ("a", "b"):
        half = {n: v for n, v in head.items() if ("norm" in n) == (name == "a")}
        save(path / f"mtp-0000{1 + (name == 'b')}-of-00002.safetensors", half)


PLACES: dict[str, Callable[..., None]] = {
    "mtp.safetensors": put_file("mtp.safetensors", lambda head: head),
    "language_model.mtp": put_file("mtp.safetensors", prefixed("language_model.")),
    "model.language_model.mtp": put_file("mtp.safetensors", prefixed("model.language_model.")),
    "bare names": put_file("model-mtp.safetensors", bare),
    "bare names below model": put_file(
        "mtp_head.safetensors", lambda h: prefixed("model.")(bare(h))
    ),
    "bare names below both": put_file(
        "mtp.safetensors", lambda head: prefixed("language_model.model.")(bare(head))
    ),
    "stacks": put_file("model_mtp.safetensors", stacked),
    "fused stacks": put_file("mtp.safetensors", fused),
    "one expert each": put_file("mtp.safetensors", one_by_one),
    "shards": put_shards,
    "folder": put_folder,
    "repository": put_repository("c-MTP"),
}


def assert_reads_head(checkpoint: Checkpoint, head: Tensors) -> None:
    """Check that a checkpoint has the head of a golden, given as it is published."""
    checkpoint.verify()
    want = canonical(head)
    assert {name for name in checkpoint.names() if name.startswith("mtp.")} == set(want)
    for name, value in want.items():
        # w + 1 - 1 is not w in float32.
        np.testing.assert_allclose(np.array(checkpoint.read(name)), np.array(value), atol=1e-6)


def assert_mtp_logits(path: Path, name: str, given: Path | None = None) -> None:
    net = load_network(open_checkpoint(path, given), dtype="float32", mtp=True)
    assert net.mtp is not None
    want = expected(name)
    ids = want["prompt"][None]
    hidden = net(ids, net.make_cache())
    predicted = net.mtp(hidden[:, :-1], net.embed(ids[:, 1:]), KVCache())
    assert_logits(net.logits(predicted)[0], want["mtp_logits"])


@pytest.mark.parametrize("norms", NORMS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["dense", "moe"])
def test_every_place_naming_and_form_of_the_norms(
    tmp_path: Path, name: str, place: str, norms: str
):
    config, trunk, head = parts(name)
    path = write(tmp_path / "c", config, mlx_layout(trunk))
    PLACES[place](path, with_norms(head, NORMS[norms]))
    checkpoint = open_checkpoint(path)
    assert_reads_head(checkpoint, head)
    assert checkpoint.mtp_norms is not None
    assert not checkpoint.mtp_norms.certain
    assert {n.split(".")[-2] for n in checkpoint.mtp_norms.raw} == set(NORMS[norms])
    assert len(checkpoint.notes) == (place == "repository")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["dense", "moe"])
def test_the_logits_are_those_of_the_original(tmp_path: Path, name: str, place: str):
    config, trunk, head = parts(name)
    path = write(tmp_path / "c", config, trunk)
    PLACES[place](path, with_norms(head, NORMS["the layer's are raw"]))
    assert_mtp_logits(path, name)


@pytest.mark.parametrize("norms", NORMS)
def test_a_head_among_the_tensors_of_a_converted_trunk(tmp_path: Path, norms: str):
    config, trunk, head = parts("dense")
    stored = mlx_layout(trunk) | prefixed("language_model.")(with_norms(head, NORMS[norms]))
    checkpoint = open_checkpoint(write(tmp_path / "c", config, stored, files=2))
    assert_reads_head(checkpoint, head)
    assert checkpoint.notes == ()


def test_a_head_among_the_tensors_of_a_published_trunk_is_raw_whatever_its_values(tmp_path: Path):
    config, trunk, head = parts("dense")
    large = {n: mx.abs(v) + 1.5 if v.ndim == 1 else v for n, v in head.items()}
    checkpoint = open_checkpoint(write(tmp_path / "c", config, trunk | large))
    assert checkpoint.mtp_norms is not None
    assert checkpoint.mtp_norms.certain
    assert_reads_head(checkpoint, large)


def test_a_file_of_the_head_that_the_index_names_is_raw_with_the_trunk(tmp_path: Path):
    config, trunk, head = parts("dense")
    large = {n: mx.abs(v) + 1.5 if v.ndim == 1 else v for n, v in head.items()}
    path = write(tmp_path / "c", config, trunk)
    save(path / "mtp.safetensors", large)
    index = path / "model.safetensors.index.json"
    owners = json.loads(index.read_text())
    owners["weight_map"] |= dict.fromkeys(head, "mtp.safetensors")
    assert not open_checkpoint(path).mtp_norms.certain  # pyright: ignore[reportOptionalMemberAccess]
    index.write_text(json.dumps(owners))
    assert_reads_head(open_checkpoint(path), large)
    (path / "mtp.safetensors").unlink()
    assert_left_out(path, "mtp.safetensors")


@pytest.mark.parametrize("value", ["w", "1 + w"])
def test_the_metadata_of_a_conversion_decide(tmp_path: Path, value: str):
    config, trunk, head = parts("dense")
    path = write(tmp_path / "c", config, mlx_layout(trunk))
    gains = with_norms(head, ())
    mx.save_safetensors(str(path / "mtp.safetensors"), gains, {"norms": value})
    checkpoint = open_checkpoint(path)
    assert checkpoint.mtp_norms is not None
    assert checkpoint.mtp_norms.certain
    read = checkpoint.read("mtp.norm.weight")
    assert mx.allclose(read, gains["mtp.norm.weight"] + (1 if value == "w" else 0))


def packed(head: Tensors, rules: dict[str, Quantization]) -> Tensors:
    """Matrices as `mx.quantize` packs them, by the ends of their modules' names, the longest."""
    found: Tensors = {}
    for name, value in head.items():
        module = name.removesuffix(".weight")
        rule = rules[max((end for end in rules if module.endswith(end)), key=len)]
        if value.ndim == 1 or value.shape[-1] % rule.group_size:
            found[name] = value
            continue
        arrays = mx.quantize(value, rule.group_size, rule.bits, mode=rule.mode)
        ends = ("weight", "scales", "biases")
        found |= {f"{module}.{end}": a for end, a in zip(ends, arrays, strict=False)}
    return found


RULES = {
    "": Quantization(32, 4),
    ".mlp.gate": Quantization(64, 8),
    "fc": Quantization(32, 8, "mxfp8"),
}


@pytest.mark.parametrize("arrange", [stacked, lambda head: bare(one_by_one(head))])
@pytest.mark.parametrize("name", ["dense", "moe"])
def test_a_repository_with_a_quantisation_of_its_own(tmp_path: Path, name: str, arrange: Any):
    config, trunk, head = parts(name)
    head = one_by_one(head)
    path = write(tmp_path / "c", config | {"quantization": {"group_size": 64, "bits": 2}}, trunk)
    folder = tmp_path / "c-mtp"
    folder.mkdir()
    entry: dict[str, Any] = {
        "group_size": 32,
        "bits": 4,
        "fc": {"group_size": 32, "bits": 8, "mode": "mxfp8"},
    }
    entry["layers.0.mlp.gate"] = {"group_size": 64, "bits": 8}
    (folder / "config.json").write_text(json.dumps({"quantization": entry}))
    save(folder / "model.safetensors", packed(arrange(head), RULES))
    checkpoint = open_checkpoint(path)
    checkpoint.verify()
    assert checkpoint.notes == (f"the MTP head is that of {folder}",)
    want = packed({f"mtp.{n}": v for n, v in stacked(with_norms(head, ())).items()}, RULES)
    assert {n for n in checkpoint.names() if n.startswith("mtp.")} == set(want)
    for tensor, value in want.items():
        assert mx.array_equal(checkpoint.read(tensor), value), tensor
    assert checkpoint.quantization("mtp.fc") == RULES["fc"]


def test_a_float_8_head_beside_a_packed_trunk(tmp_path: Path):
    config, trunk, head = parts("dense")
    path = write(tmp_path / "c", config, mlx_layout(trunk))
    folder = tmp_path / "c-MTP"
    folder.mkdir()
    method = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps({"quantization_config": method}))
    name = "mtp.layers.0.self_attn.v_proj.weight"
    bits = mx.to_fp8(head[name])
    stored = dict(head) | {
        name: Raw("F8_E4M3", head[name].shape, np.array(bits).tobytes()),
        name + "_scale_inv": mx.array([[2.0]]),
    }
    save(folder / "model.safetensors", stored)
    read = open_checkpoint(path).plain(name).read(0, head[name].shape[0])
    assert mx.array_equal(read, (mx.from_fp8(bits, mx.float32) * 2).astype(read.dtype))


@pytest.mark.parametrize("given", ["folder", "file", "checkpoint", "gguf"])
@pytest.mark.parametrize("name", ["dense", "moe"])
def test_a_head_that_is_given(tmp_path: Path, name: str, given: str):
    config, trunk, head = parts(name)
    path = write(tmp_path / "c", config, trunk)
    save(path / "mtp.safetensors", {n: mx.zeros_like(v) for n, v in head.items()})
    other = tmp_path / "other"
    if given == "gguf":
        fields, tensors = gguf_tensors(config, trunk | head)
        layers = config["text_config"]["num_hidden_layers"]
        tensors = {n: v for n, v in tensors.items() if n.startswith(f"blk.{layers}.")}
        write_gguf(tmp_path / "mtp.gguf", fields, tensors)
        other = tmp_path / "mtp.gguf"
    elif given == "checkpoint":
        write(other, config, trunk | head, files=3)
    else:
        other.mkdir()
        save(other / "anything.safetensors", bare(with_norms(head, ())))
        other = other / "anything.safetensors" if given == "file" else other
    assert_mtp_logits(path, name, other)


@pytest.mark.parametrize(
    ("own", "other", "found"),
    [
        ("Qwen3.5-4B-4bit", "Qwen3.5-4B-MTP-4bit", True),
        ("Qwen3.5-4B-MLX-4bit", "Qwen3.5-4B-MTP-bf16", True),
        ("Qwen3.5-4B", "Qwen3.5-4B-mtp", True),
        ("Qwen3.5-4B", "Qwen3.5-9B-MTP", False),
        ("Qwen3.5-4B", "Qwen3.5-4B-Instruct-MTP", False),
        ("Qwen3.5-4B", "Qwen3.5-4B-8bit", False),
        ("Qwen3.5-4B", "Qwen3.5-4B-smtp", False),
    ],
)
@pytest.mark.parametrize("in_cache", [False, True])
def test_which_folders_beside_a_checkpoint_have_its_head(
    tmp_path: Path, own: str, other: str, found: bool, in_cache: bool
):
    config, trunk, head = parts("dense")
    path, sibling = tmp_path / own, tmp_path / other
    if in_cache:
        path = tmp_path / f"models--org--{own}" / "snapshots" / "1"
        sibling = tmp_path / f"models--org--{other}" / "snapshots" / "2"
        path.parent.mkdir(parents=True)
    sibling.mkdir(parents=True)
    write(path, config, trunk)
    save(sibling / "model.safetensors", bare(head))
    checkpoint = open_checkpoint(path)
    checkpoint.verify()
    assert checkpoint.has_mtp == found
    assert checkpoint.notes == ((f"the MTP head is that of {sibling}",) if found else ())


def test_shared_tensors_are_not_read_and_another_vocabulary_is_named(tmp_path: Path):
    config, trunk, head = parts("dense")
    path = write(tmp_path / "c", config, trunk)
    shared = {"embed_tokens.weight": mx.zeros((256, 64)), "mtp.lm_head.weight": mx.zeros((9, 64))}
    save(path / "mtp.safetensors", head | shared)
    checkpoint = open_checkpoint(path)
    assert_reads_head(checkpoint, head)
    assert open_checkpoint(path, path / "mtp.safetensors").notes == checkpoint.notes
    (note,) = checkpoint.notes
    assert "'mtp.lm_head.weight' of the MTP head in" in note
    assert "is [9, 64] where the model has [256, 64]: the model's own is used" in note


def test_a_second_head_takes_the_place_of_one_that_is_not_complete(tmp_path: Path):
    config, trunk, head = parts("dense")
    path = write(tmp_path / "c", config, trunk | {"mtp.fc.weight": head["mtp.fc.weight"]})
    put_folder(path, head)
    checkpoint = open_checkpoint(path)
    assert_reads_head(checkpoint, head)
    (note,) = checkpoint.notes
    assert "left out" in note


def assert_left_out(path: Path, says: str) -> None:
    """Check that a trunk loads without its head, and that one line says why."""
    checkpoint = open_checkpoint(path)
    checkpoint.verify()
    assert not checkpoint.has_mtp
    assert checkpoint.mtp_norms is None
    (note,) = checkpoint.notes
    assert note.startswith("an MTP head is left out: ")
    assert "\n" not in note
    assert says in note
    assert load_network(checkpoint, dtype="float32", mtp=True).mtp is None


def changed(**tensors: mx.array | None) -> Callable[[Path, Tensors], None]:
    def put(path: Path, head: Tensors) -> None:
        new = {n.replace("__", "."): v for n, v in tensors.items()}
        kept = {n: v for n, v in (head | new).items() if v is not None}
        save(path / "mtp.safetensors", kept)

    return put


def put_truncated(path: Path, head: Tensors) -> None:
    file = path / "mtp.safetensors"
    save(file, head)
    file.write_bytes(file.read_bytes()[:-1])


def put_in_folder(config: str) -> Callable[[Path, Tensors], None]:
    def put(path: Path, head: Tensors) -> None:
        put_folder(path, head)
        (path / "mtp" / "config.json").write_text(config)

    return put


def put_two_files(path: Path, head: Tensors) -> None:
    save(path / "mtp.safetensors", head)
    save(path / "model-mtp.safetensors", head)


UNREADABLE: dict[str, tuple[Callable[[Path, Tensors], Any], str]] = {
    "no fc": (changed(mtp__fc__weight=None), "no tensor 'mtp.fc.weight'"),
    "a tensor less": (changed(mtp__norm__weight=None), "has no tensor 'mtp.norm.weight'"),
    "a shape": (changed(mtp__fc__weight=mx.zeros((64, 64))), "'mtp.fc.weight' has shape [64, 64]"),
    "a norm's shape": (changed(mtp__norm__weight=mx.zeros((63,))), "'mtp.norm.weight' has shape"),
    "a dtype": (changed(mtp__norm__weight=mx.zeros((64,), mx.uint8)), "'mtp.norm.weight' is U8"),
    "a second layer": (
        changed(mtp__layers__1__input_layernorm__weight=mx.zeros((64,))),
        "unknown tensor 'mtp.layers.1.input_layernorm.weight'",
    ),
    "one name twice": (
        changed(model__mtp__norm__weight=mx.zeros((64,))),
        "are one tensor, 'mtp.norm.weight'",
    ),
    "an end": (put_truncated, "mtp.safetensors is truncated"),
    "a folder for a file": (lambda path, _: (path / "mtp.safetensors").mkdir(), "cannot"),
    "a pipe": (lambda path, _: os.mkfifo(path / "mtp.safetensors"), "not a regular file"),
    "a dead link": (lambda path, _: (path / "mtp.safetensors").symlink_to("x"), "cannot read"),
    "two files": (put_two_files, "both hold 'mtp."),
    "a broken config": (put_in_folder("{"), "config.json is not JSON"),
    "a method": (
        put_in_folder('{"quantization_config": {"quant_method": "bitsandbytes"}}'),
        "bitsandbytes",
    ),
    "other weights": (
        lambda path, _: save(path / "mtp.safetensors", {"a.b": mx.zeros((1,))}),
        "no tensor 'mtp.fc.weight'",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("index", [True, False])
def test_a_head_that_cannot_be_read_is_left_out(tmp_path: Path, case: str, index: bool):
    config, trunk, head = parts("dense")
    path = write(tmp_path / "c", config, trunk, index=index)
    put, says = UNREADABLE[case]
    put(path, head)
    assert_left_out(path, says)


@pytest.mark.parametrize(
    "change",
    [
        {"mtp.fc.weight": None},
        {"mtp.layers.0.mlp.experts.3.gate_proj.weight": None},
        {"mtp.layers.0.mlp.experts.3.gate_proj.weight": mx.zeros((31, 64))},
        {"mtp.layers.0.mlp.experts.01.up_proj.weight": mx.zeros((32, 64))},
    ],
)
def test_a_head_among_the_trunk_that_cannot_be_read_is_left_out(
    tmp_path: Path, change: dict[str, mx.array | None]
):
    config, trunk, head = parts("moe")
    kept = {n: v for n, v in (trunk | one_by_one(head) | change).items() if v is not None}
    (name,) = change
    says = re.sub(r"\.experts\.3\.(\w+)", r".switch_mlp.\1", name) if change[name] is None else name
    assert_left_out(write(tmp_path / "c", config, kept), says)


def test_config_json_may_promise_a_head_that_is_not_there(tmp_path: Path):
    config, trunk, _ = parts("dense")
    assert config["text_config"]["mtp_num_hidden_layers"] == 1
    checkpoint = open_checkpoint(write(tmp_path / "c", config, trunk))
    checkpoint.verify()
    assert (checkpoint.has_mtp, checkpoint.notes) == (False, ())


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ("nothing", "has no MTP head"),
        ("model", "has no MTP head"),
        ("shape", "'mtp.fc.weight' has shape"),
        ("trunk.gguf", "has no MTP head"),
    ],
)
def test_a_given_head_that_does_not_fit_is_an_error(tmp_path: Path, made: str, says: str):
    config, trunk, head = parts("dense")
    path = write(tmp_path / "c", config, trunk | head)
    other = tmp_path / made
    if made.endswith("gguf"):
        write_gguf(other, *gguf_tensors(config, trunk, mtp=False))
    elif made == "model":
        write(other, config, trunk)
    else:
        other.mkdir()
        if made == "shape":
            save(other / "a.safetensors", head | {"mtp.fc.weight": mx.zeros((1, 2))})
    with pytest.raises(Qwen35Error) as caught:
        open_checkpoint(path, other)
    assert says in str(caught.value)
    assert str(other) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quantize", [False, True])
def test_a_conversion_takes_a_given_head_and_says_how_its_norms_are_stored(
    tmp_path: Path, model_folder: Path, quantize: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(proof, "DEFAULT_TOKENS", 400)
    source = tmp_path / "source"
    shutil.copytree(model_folder, source)
    tensors = load(source / "model.safetensors")
    mx.eval(tensors)  # before its file is replaced
    head = {n.partition("mtp.")[2]: v for n, v in tensors.items() if ".mtp." in n}
    save(source / "model.safetensors", {n: v for n, v in tensors.items() if ".mtp." not in n})
    save(tmp_path / "head.safetensors", head)
    summary = convert(
        source, tmp_path / "out", quantize=quantize, mtp=tmp_path / "head.safetensors"
    )
    assert sum("norms of the MTP head are read as 1 + w" in line for line in summary.warnings) == 1
    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint.mtp_norms is not None
    assert checkpoint.mtp_norms.certain
    for name in head_norms(checkpoint.model):
        want = np.array(head[name.removeprefix("mtp.")])
        np.testing.assert_allclose(np.array(checkpoint.read(name)), want, atol=1e-6)
    untried = convert(source, tmp_path / "b", mtp=tmp_path / "head.safetensors", verify=False)
    (line,) = (line for line in untried.warnings if "norms" in line)
    assert line.startswith("norms of the MTP head are read as 1 + w, by their values only: if that")
    again = convert(tmp_path / "out", tmp_path / "again", verify=False)
    assert not any("norms" in line for line in again.warnings)


@pytest.mark.parametrize("raw", [False, True])
def test_the_demo_models_head_is_read_as_it_is_stored(raw: bool, tmp_path: Path):
    checkpoint = open_checkpoint(demo.folder())
    names = head_norms(checkpoint.model)
    assert checkpoint.mtp_norms == NormReading(names, certain=True)
    unmarked = open_checkpoint(demo_with_unmarked_head(tmp_path / "m", raw=raw))
    assert unmarked.mtp_norms == NormReading(names if raw else frozenset(), certain=False)
    for name in names:
        np.testing.assert_allclose(
            np.array(unmarked.read(name)), np.array(checkpoint.read(name)), atol=1e-6
        )


def test_unread_tensors_of_a_head_are_named(tmp_path: Path):
    config, trunk, head = parts("dense")
    path = write(tmp_path / "c", config, trunk)
    save(path / "mtp.safetensors", head | {"mtp.fc.input_scale": mx.ones((1,))})
    (note,) = open_checkpoint(path).notes
    assert "'mtp.fc.input_scale'" in note
    (note,) = open_checkpoint(path, path / "mtp.safetensors").notes
    assert "'mtp.fc.input_scale'" in note
