"""Ternary checkpoints with rotated matrices: against mlx-lm, and against the plain model."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from qwen35_mlx.checkpoint.formats.hadamard import plain_config
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from tests.checkpoint.cases import Tensors, golden, load, refused, save, write
from tests.kernels.cases import hadamard

PROMPT = mx.array([[7, 3, 250, 11, 0, 99, 42, 42, 5, 180, 31]])
GROUP = 128
NAMESPACES = {1: "mlx-lm-text", 2: "mlx-vlm-qwen3_5"}
# As published: the small projections of a DeltaNet layer stay plain.
PLAIN_MODULES = ("in_proj_a", "in_proj_b")
UNROTATED = "model.layers.1.mlp.down_proj"
Q_PROJ = "model.layers.1.self_attn.q_proj"


@dataclass(frozen=True, slots=True)
class Pack:
    """A checkpoint with rotated matrices, and the same model with plain ones.

    Attributes:
        tensors: of the pack, by canonical name.
        plain: every plain tensor, float32.
    """

    config: dict[str, Any]
    tensors: Tensors
    plain: Tensors


def sizes(*, tied: bool = False) -> dict[str, Any]:
    """config.json of a model that is just wide enough for blocks of 512 and 1,024."""
    config, _ = golden("dense")
    text = {
        **config["text_config"],
        **{"hidden_size": 512, "intermediate_size": 1024, "head_dim": 128},
        **{"linear_num_value_heads": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128},
        **{"tie_word_embeddings": tied, "full_attention_interval": 2},
        **{"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]},
    }
    return {**config, "tie_word_embeddings": tied, "text_config": text}


def ternary(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes 0, 1, 2 for -scale, 0, scale, and float16 scales, one for each group."""
    groups = rows.reshape(len(rows), -1, GROUP)
    scales = (1.4 * np.abs(groups).mean(-1)).astype(np.float16)
    codes = np.clip(np.rint(groups / scales[..., None]), -1, 1) + 1
    return codes.reshape(rows.shape).astype(np.uint32), scales


def packed(codes: np.ndarray) -> np.ndarray:
    """Two bits each, the first in the lowest bits of a word of 32."""
    words = codes.reshape(len(codes), -1, 16) << np.arange(0, 32, 2, dtype=np.uint32)
    return np.bitwise_or.reduce(words, axis=-1)


@cache
def pack(*, schema: int = 2, tied: bool = False, mtp: bool = False) -> Pack:
    config, rng = sizes(tied=tied), np.random.default_rng(schema)
    model = ModelConfig.from_dict(config)
    shapes = trunk_tensors(model) | (mtp_tensors(model) if mtp else {})
    tensors: Tensors = {}
    plain: Tensors = {}
    modules: list[dict[str, Any]] = []
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if name.endswith("A_log"):
            value = rng.uniform(-5, 0.5, shape)
        elif name.endswith("dt_bias"):
            value = rng.uniform(-4, 1, shape)
        elif len(shape) == 1:
            value = rng.normal(1, 0.2, shape)
        else:
            value = rng.normal(0, 0.4 if "conv1d" in name else shape[-1] ** -0.5, shape)
        if len(shape) != 2 or module.endswith(PLAIN_MODULES) or name.startswith("mtp."):
            tensors[name] = plain[name] = mx.array(value.astype(np.float32))
            continue
        block = 0 if module == UNROTATED else 1024 if shape[1] == 1024 else 512
        # Outliers, which the rotation spreads.
        value[:, ::37] *= 4
        signs = rng.choice([-1.0, 1.0], shape[1])
        codes, scales = ternary(hadamard(value * signs, block) if block else value)
        dequantised = (codes - 1.0) * np.repeat(scales.astype(np.float64), GROUP, axis=1)
        value = hadamard(dequantised, block) * signs if block else dequantised
        plain[name] = mx.array(value.astype(np.float32))
        tensors[name] = mx.array(packed(codes))
        tensors |= {f"{module}.scales": mx.array(scales), f"{module}.biases": mx.array(-scales)}
        if block:
            tensors[f"{module}.signs"] = mx.array(signs.astype(np.float32))
        embedding = module == "model.embed_tokens"
        modules.append({"path": module, "embedding": embedding, "dtype": "float16", "block": block})
    config |= {
        "model_type": "prism_hadamard_qwen35",
        "schema_version": schema,
        "tensor_namespace": NAMESPACES[schema],
        "gdn_activation_layout": "grouped",
        "quantization": {"bits": 2, "group_size": GROUP, "mode": "affine"},
        "modules": modules,
    }
    return Pack(config, tensors, plain)


def store(path: Path, pack: Pack) -> Path:
    """Under the names of the pack's schema."""
    prefix = "language_model." if pack.config["schema_version"] == 2 else ""
    tensors = {prefix + name: value for name, value in pack.tensors.items()}
    if prefix:
        tensors["vision_tower.patch_embed.proj.weight"] = mx.ones((8, 3, 2, 4, 4))
    return write(path, pack.config, tensors)


def store_plain(path: Path, pack: Pack) -> Path:
    tensors = {f"language_model.{name}": value for name, value in pack.plain.items()}
    return write(path, plain_config(pack.config), tensors)


def logits(net: Network, split: int) -> np.ndarray:
    """Of the prompt: the first `split` tokens at once, then one by one."""
    cache, rows = net.make_cache(), []
    for ids in [PROMPT[:, :split], *mx.split(PROMPT[:, split:], PROMPT.shape[1] - split, axis=1)]:
        rows.append(net.logits(net(ids, cache)))
    return np.array(mx.concatenate(rows, axis=1))[0]


def network(path: Path, *, mtp: bool = False) -> Network:
    return load_network(open_checkpoint(path), dtype="float32", mtp=mtp)


@pytest.mark.parametrize(("schema", "tied"), [(1, False), (2, False), (2, True)])
def test_logits_equal_those_of_mlx_lm_and_of_the_plain_model(tmp_path: Path, schema, tied):
    made = pack(schema=schema, tied=tied)
    path = store(tmp_path / "pack", made)
    got = logits(network(path), split=6)
    assert np.abs(got).max() > 1
    want = logits(network(store_plain(tmp_path / "plain", made)), split=6)
    np.testing.assert_allclose(got, want, atol=1e-4)
    theirs, _ = load_model(path)
    # mlx-lm rounds embeddings to float16, so it gets them in float32.
    embedded = made.plain["model.embed_tokens.weight"][PROMPT]
    cache = make_prompt_cache(theirs)
    rows = [theirs(PROMPT[:, :6], cache=cache, input_embeddings=embedded[:, :6])]
    for i in range(6, PROMPT.shape[1]):
        step = slice(i, i + 1)
        rows.append(theirs(PROMPT[:, step], cache=cache, input_embeddings=embedded[:, step]))
    np.testing.assert_allclose(got, np.array(mx.concatenate(rows, axis=1))[0], atol=1e-4)


def test_embeddings_equal_those_of_mlx_lm(tmp_path: Path):
    path = store(tmp_path / "pack", pack())
    theirs: Any = load_model(path)[0]
    want = theirs.language_model.model.embed_tokens(PROMPT)
    got = network(path).embed_tokens.rows(PROMPT, mx.float16)
    np.testing.assert_allclose(np.array(got), np.array(want), rtol=2**-10, atol=1e-6)


def test_an_mtp_head_beside_rotated_matrices(tmp_path: Path):
    """It shares the rotated embedding and output head."""
    made = pack(mtp=True)
    outputs = []
    for path in (store(tmp_path / "pack", made), store_plain(tmp_path / "plain", made)):
        net = network(path, mtp=True)
        assert net.mtp is not None
        cache = net.make_cache()
        hidden = net(PROMPT, cache)
        drafted = net.mtp(hidden[:, :-1], net.embed(PROMPT[:, 1:]), KVCache())
        outputs.append(np.array(net.logits(drafted)))
    np.testing.assert_allclose(*outputs, atol=1e-4)


def test_plain_rows_are_read_back_in_parts(tmp_path: Path):
    made = pack()
    checkpoint = open_checkpoint(store(tmp_path / "pack", made))
    checkpoint.verify()
    for module in ("model.embed_tokens", "model.layers.1.self_attn.q_proj", UNROTATED):
        assert checkpoint.quantization(module) == Quantization(GROUP, 2)
        reader, want = checkpoint.plain(f"{module}.weight"), made.plain[f"{module}.weight"]
        assert (reader.shape, reader.dtype) == (want.shape, mx.float32)
        for start, stop in ((0, 5), (5, want.shape[0]), (3, 3)):
            got = reader.read(start, stop)
            want_rows = np.array(want[start:stop])
            np.testing.assert_allclose(np.array(got), want_rows, rtol=2**-11, atol=1e-6)
    assert checkpoint.rotation(UNROTATED) is None
    assert checkpoint.rotation("model.layers.0.linear_attn.in_proj_a") is None
    rotation = checkpoint.rotation("model.embed_tokens")
    assert rotation is not None
    assert rotation.block == 512
    assert not [name for name in checkpoint.names() if name.endswith(".signs")]


def test_a_conversion_has_plain_matrices(tmp_path: Path):
    """What is packed but not rotated is copied as it is."""
    made = pack()
    convert(store(tmp_path / "pack", made), tmp_path / "out")
    converted = open_checkpoint(tmp_path / "out")
    converted.verify()
    assert converted.config["model_type"] == "qwen3_5"
    assert not {"modules", "schema_version"} & set(converted.config)
    assert converted.quantization(UNROTATED) == Quantization(GROUP, 2)
    assert converted.quantization(Q_PROJ) is None
    for name, want in made.plain.items():
        got = np.array(converted.plain(name).read(0, want.shape[0]).astype(mx.float32))
        np.testing.assert_allclose(got, np.array(want), rtol=2**-10, atol=1e-6, err_msg=name)


def test_the_plain_config_is_of_qwen35_without_the_pack():
    config = plain_config(pack().config)
    assert config == sizes()
    for sparse in ({"text_config": {"num_experts": 8}}, {"num_experts": 8}):
        packed = {"model_type": "prism_hadamard_qwen35", **sparse}
        assert plain_config(packed)["model_type"] == "qwen3_5_moe"


def record(module: str, **changes: Any) -> dict[str, Any]:
    return {"path": module, "embedding": False, "dtype": "float16", "block": 512} | changes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 3}, "schema_version 3 with tensor_namespace 'mlx-vlm-qwen3_5'"),
        ({"schema_version": 1}, "schema_version 1 with tensor_namespace 'mlx-vlm-qwen3_5'"),
        ({"schema_version": "2"}, "'schema_version' is '2', not a number"),
        ({"tensor_namespace": None}, "tensor_namespace None is not known"),
        ({"tensor_namespace": ["x"]}, "tensor_namespace ['x'] is not known"),
        ({"gdn_activation_layout": "tiled"}, "gdn_activation_layout 'tiled' is not known"),
        ({"quantization": {"bits": 2, "group_size": 64}}, "is not the affine 2 bits in groups"),
        ({"quantization": None}, "quantization None is not the affine 2 bits"),
        ({"modules": []}, "'modules' is not a list"),
        ({"modules": {"path": Q_PROJ}}, "'modules' is not a list"),
        ({"modules": [record(Q_PROJ), Q_PROJ]}, "entry 1 of 'modules' names no module"),
        ({"modules": [record(Q_PROJ, path=7)]}, "entry 0 of 'modules' names no module"),
        ({"modules": [record(Q_PROJ)] * 2}, f"'modules' lists '{Q_PROJ}' twice"),
        ({"modules": [record("model.layers.9.mlp.up_proj")]}, "no matrix of this model"),
        ({"modules": [record("model.norm")]}, "'model.norm', which is no matrix of this model"),
        ({"modules": [record(Q_PROJ, embedding=True)]}, "a wrong 'embedding' for"),
        ({"modules": [record("model.embed_tokens")]}, "a wrong 'embedding' for"),
        ({"modules": [record(Q_PROJ, embedding=0)]}, "a wrong 'embedding' for"),
        ({"modules": [record(Q_PROJ, dtype="bfloat16")]}, "the dtype 'bfloat16', and only"),
        ({"modules": [record(Q_PROJ, block=256)]}, "the block 256, and only 0, 512"),
        ({"modules": [record(Q_PROJ, block=True)]}, "the block True, and only"),
        ({"modules": [record(Q_PROJ, block=1024)]}, "512 inputs of"),
    ],
    ids=str,
)
def test_a_list_of_modules_that_cannot_be_obeyed_is_refused(tmp_path: Path, change, says):
    made = pack()
    message = refused(store(tmp_path / "pack", Pack(made.config | change, made.tensors, {})))
    assert says in message
    assert message.startswith("config.json: ")


def test_missing_unknown_and_misshapen_signs_are_refused(tmp_path: Path):
    made = pack()
    path = store(tmp_path / "pack", made)
    file = path / "model.safetensors"
    name = f"language_model.{Q_PROJ}.signs"
    tensors = load(file)

    def with_signs(**changed: mx.array) -> str:
        rest = {key: value for key, value in tensors.items() if key != name}
        save(file, rest | {f"language_model.{key}": v for key, v in changed.items()})
        (path / "model.safetensors.index.json").unlink(missing_ok=True)
        return refused(path)

    assert f"has no tensor '{Q_PROJ}.signs'" in with_signs()
    assert "has shape [256] where [512] is needed" in with_signs(
        **{f"{Q_PROJ}.signs": mx.ones(256)}
    )
    unlisted = {f"{Q_PROJ}.signs": tensors[name], f"{UNROTATED}.signs": mx.ones(1024)}
    assert f"{UNROTATED}.signs' is F32 [1024], which does not belong to" in with_signs(**unlisted)


@pytest.mark.parametrize("value", [0.0, 2.0, float("nan")])
def test_signs_that_are_no_signs_are_refused(tmp_path: Path, value):
    made = pack()
    signs = mx.where(mx.arange(512) == 511, value, made.tensors[f"{Q_PROJ}.signs"])
    tensors = made.tensors | {f"{Q_PROJ}.signs": signs}
    path = store(tmp_path / "pack", Pack(made.config, tensors, {}))
    with pytest.raises(Qwen35Error, match=f"{Q_PROJ}.signs' has signs other than 1 and -1"):
        network(path)


def test_the_list_of_another_model_type_is_not_read(tmp_path: Path):
    made = pack()
    config = json.loads(json.dumps(made.config)) | {"model_type": "qwen3_5"}
    assert "signs' is F32 [512], which does not belong to" in refused(
        store(tmp_path / "pack", Pack(config, made.tensors, {}))
    )
