"""Whole models: what llama.cpp's converter makes of a checkpoint is read back as it was."""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from qwen35_mlx.checkpoint.gguf.model import GGUFModel, read_gguf
from qwen35_mlx.checkpoint.tensor_readers import PackedMatrix
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.weights import Weights
from tests.checkpoint.cases import canonical, golden
from tests.checkpoint.gguf.cases import convert, golden_gguf, read, write_gguf
from tests.goldens import NAMES, assert_logits, expected


def assert_tensors(model: GGUFModel, wanted: dict[str, mx.array]) -> None:
    assert set(model.tensors) == set(wanted)
    for name, value in wanted.items():
        matrix = model.tensors[name]
        assert (name, matrix.shape) == (name, value.shape)
        got = read(matrix, rows=7)
        tolerance = 1e-6 if name.endswith("A_log") else 0
        np.testing.assert_allclose(got, np.array(value), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_and_setting_comes_back(tmp_path: Path, name: str):
    config, tensors = golden(name)
    path = golden_gguf(tmp_path / "f.gguf", name)
    model = read_gguf(path)
    assert ModelConfig.from_dict(model.config) == ModelConfig.from_dict(config)
    json.dumps(model.config)
    assert (model.files, model.left_out) == ((path,), ())
    assert_tensors(model, canonical(tensors))


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_a_split_file_is_found_from_any_part(tmp_path: Path, name: str):
    _, tensors = golden(name)
    metadata, arrays = convert(*golden(name))
    first = write_gguf(tmp_path / "f.gguf", metadata, arrays, tensors_per_part=30)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) > 1
    for part in parts:
        model = read_gguf(part)
        assert list(model.files) == parts
    assert model.files[0] == first
    assert_tensors(model, canonical(tensors))


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "F16", "BF16"])
def test_a_quantised_model_has_the_values_of_its_blocks(tmp_path: Path, dtype: str):
    metadata, arrays = convert(*golden("moe"), fuse_experts=True)
    kind = Type[dtype]
    dtypes = {
        name: kind
        for name, value in arrays.items()
        if value.ndim >= 2 and "conv1d" not in name and value.shape[-1] % 32 == 0
    }
    model = read_gguf(write_gguf(tmp_path / "f.gguf", metadata, arrays, dtypes))
    packed = "16" not in dtype
    assert len(dtypes) > 40
    wanted = canonical(golden("moe")[1])
    assert set(model.tensors) == set(wanted)
    for name, value in wanted.items():
        matrix = model.tensors[name]
        assert matrix.shape == value.shape
        # The gate of the shared expert is a vector in GGUF.
        if value.ndim == 1 or "conv1d" in name or value.shape[-1] % 32 or len(value) == 1:
            assert not isinstance(matrix, PackedMatrix)
            assert matrix.file.stored_dtype == "F32"
            continue
        # Permuting whole heads and quantising groups of a row commute.
        blocks = gguf.quants.quantize(np.array(value), kind)
        want = gguf.quants.dequantize(np.ascontiguousarray(blocks).view(np.uint8), kind)
        np.testing.assert_array_equal(read(matrix, rows=5), want, err_msg=name)
        assert isinstance(matrix, PackedMatrix) == packed, name


class Source:
    """The tensors of a GGUF file as the network's builder takes them; packed ones on request."""

    def __init__(self, model: GGUFModel, packed: bool = True):
        self._model = model
        self._packed = packed

    def names(self) -> frozenset[str]:
        return frozenset(self._model.tensors) | {
            f"{name.removesuffix('.weight')}.{part}"
            for name, matrix in self._model.tensors.items()
            if isinstance(matrix, PackedMatrix)
            for part in matrix.parts
        }

    def read(self, name: str) -> mx.array:
        module, _, part = name.rpartition(".")
        matrix = self._model.tensors.get(f"{module}.weight", self._model.tensors.get(name))
        assert matrix
        if not isinstance(matrix, PackedMatrix):
            return matrix.read(0, matrix.shape[0])
        if not self._packed:
            return mx.array(read(matrix))
        return matrix.parts[part].read(0, matrix.shape[0])

    def rotation(self, module: str) -> None:
        return None

    def quantization(self, module: str) -> Quantization | None:
        matrix = self._model.tensors[f"{module}.weight"]
        return matrix.quantization if isinstance(matrix, PackedMatrix) and self._packed else None


@pytest.mark.parametrize("name", NAMES)
def test_the_network_has_the_logits_of_the_reference(tmp_path: Path, name: str):
    model = read_gguf(golden_gguf(tmp_path / "f.gguf", name))
    config = ModelConfig.from_dict(model.config)
    network = Network(config, Weights(config, Source(model), mx.float32), True)
    wanted = expected(name)
    hidden = network(wanted["prompt"][None], network.make_cache())
    assert_logits(network.logits(hidden)[0], wanted["prefill_logits"])
    assert network.mtp is not None
    embedded = network.embed(wanted["prompt"][None, 1:])
    guesses = network.logits(network.mtp(hidden[:, :-1], embedded, KVCache()))[0]
    assert_logits(guesses, wanted["mtp_logits"])


@pytest.mark.parametrize("dtype", [Type.Q8_0, Type.Q4_1, Type.Q5_0])
def test_packed_matrices_compute_what_their_values_do(tmp_path: Path, dtype: Type):
    metadata, arrays = convert(*golden("moe"), mtp=False)
    matrices = [n for n, v in arrays.items() if v.ndim > 1 and v.shape[-1] % 32 == 0]
    path = write_gguf(tmp_path / "f.gguf", metadata, arrays, dict.fromkeys(matrices, dtype))
    model = read_gguf(path)
    config = ModelConfig.from_dict(model.config)
    prompt = expected("moe")["prompt"][None, :20]
    logits = []
    for packed in (True, False):
        network = Network(config, Weights(config, Source(model, packed), mx.float32))
        logits.append(network.logits(network(prompt, network.make_cache())))
    assert_logits(*logits)
    assert mx.abs(logits[0] - expected("moe")["prefill_logits"][:20]).max() > 1e-3


def change(path: Path, golden_name: str = "dense", **settings: Any) -> Path:
    """A golden's file with other settings of its architecture; None removes one."""
    metadata, arrays = convert(*golden(golden_name))
    arch = metadata["general.architecture"]
    for name, value in settings.items():
        full = name if name.startswith("general.") else f"{arch}.{name}"
        if value is None:
            metadata.pop(full, None)
        else:
            metadata[full] = value
    return write_gguf(path, metadata, arrays)


@pytest.mark.parametrize(
    ("settings", "key", "value"),
    [
        ({"attention.head_count_kv": [0, 0, 0, 2, 2]}, "num_key_value_heads", 2),
        ({"feed_forward_length": [96] * 5}, "intermediate_size", 96),
        (
            {"full_attention_interval": None},
            "layer_types",
            ["linear_attention"] * 3 + ["full_attention"],
        ),
        (
            {
                "full_attention_interval": 2,
                "attention.recurrent_layers": [True, True, True, False, False],
            },
            "layer_types",
            ["linear_attention"] * 3 + ["full_attention"],
        ),
        ({"rope.scaling.type": "none"}, "rope_parameters", None),
    ],
)
def test_other_ways_to_write_a_setting(
    tmp_path: Path, settings: dict[str, Any], key: str, value: Any
):
    model = read_gguf(change(tmp_path / "f.gguf", **settings))
    if value is not None:
        assert model.config["text_config"][key] == value
    config, _ = golden("dense")
    assert ModelConfig.from_dict(model.config) == ModelConfig.from_dict(config)


def test_yarn_with_its_own_numbers(tmp_path: Path):
    numbers = {"yarn_attn_factor": 1.25, "yarn_beta_fast": 30.0, "yarn_beta_slow": 2.0}
    settings = {f"rope.scaling.{name}": value for name, value in numbers.items()}
    model = read_gguf(change(tmp_path / "f.gguf", "dense-yarn", **settings))
    rope = model.config["text_config"]["rope_parameters"]
    assert rope["rope_theta"] == 1e7
    assert (rope["attention_factor"], rope["beta_fast"], rope["beta_slow"]) == (1.25, 30, 2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"block_count": None}, "has no 'block_count'"),
        ({"block_count": "four"}, "'block_count' is 'four', not a number"),
        ({"block_count": 1 << 30}, "'block_count' is 1073741824, more than 1,024"),
        ({"nextn_predict_layers": 5}, "'nextn_predict_layers' 5 is not less than 'block_count' 5"),
        ({"ssm.inner_size": 193}, "'ssm.inner_size' 193 is not a multiple"),
        ({"ssm.inner_size": 384}, r"has shape .* where its metadata asks for"),
        ({"attention.head_count_kv": [1, 2, 1, 2, 2]}, "'attention.head_count_kv' is array"),
        ({"rope.scaling.type": "linear"}, "'rope.scaling.type' is 'linear'"),
        ({"rope.scaling.attn_factor": 2.0}, "'rope.scaling.attn_factor' is 2.0"),
        ({"rope.scaling.type": "yarn"}, "has no 'rope.scaling.factor'"),
        ({"attention.recurrent_layers": [True, False]}, "is not a list of 5"),
        ({"ssm.v_head_reordered": 0}, "v_head_reordered' is 0, neither true nor false"),
        ({"general.type": "mmproj"}, "is the vision part of a model"),
        ({"general.type": "adapter"}, "is a LoRA adapter"),
        ({"general.architecture": "llama"}, "has the architecture 'llama', which is not Qwen3.5"),
        ({"general.architecture": "clip"}, "is the vision part of a model"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, settings: dict[str, Any], says: str):
    path = change(tmp_path / "f.gguf", **settings)
    with pytest.raises(Qwen35Error, match=says) as caught:
        read_gguf(path)
    assert str(path) in str(caught.value)


def test_a_model_without_its_mtp_layer(tmp_path: Path):
    _, tensors = golden("dense")
    model = read_gguf(golden_gguf(tmp_path / "f.gguf", mtp=False))
    assert model.config["text_config"]["mtp_num_hidden_layers"] == 0
    names = {name: v for name, v in canonical(tensors).items() if not name.startswith("mtp.")}
    assert_tensors(model, names)


def test_a_count_of_mtp_layers_without_their_tensors(tmp_path: Path):
    metadata, arrays = convert(*golden("dense"))
    trunk = {name: value for name, value in arrays.items() if not name.startswith("blk.4.")}
    model = read_gguf(write_gguf(tmp_path / "f.gguf", metadata, trunk))
    assert model.config["text_config"]["num_hidden_layers"] == 4
    assert not any(name.startswith("mtp.") for name in model.tensors)


@pytest.mark.parametrize("tile", [True, False])
@pytest.mark.parametrize("name", ["dense", "moe"])
def test_a_file_of_ollama(tmp_path: Path, name: str, tile: bool):
    metadata, arrays = convert(*golden(name), mtp=False, tile=tile)
    arch = metadata["general.architecture"]
    del metadata[f"{arch}.rope.dimension_sections"]
    metadata |= {
        f"{arch}.ssm.v_head_reordered": tile,
        f"{arch}.attention.head_count_kv": [0, 0, 0, 2],
        f"{arch}.rope.mrope_section": [3, 3, 2],
    }
    arrays = {name.replace("ssm_dt.bias", "ssm_dt"): value for name, value in arrays.items()}
    others = ("v.blk.0.attn_q.weight", "mtp.fc.weight")
    arrays |= {name: np.ones(8, np.float32) for name in others}
    model = read_gguf(write_gguf(tmp_path / "f.gguf", metadata, arrays))
    assert model.left_out == others
    wanted = canonical(golden(name)[1])
    assert_tensors(model, {n: v for n, v in wanted.items() if not n.startswith("mtp.")})


def test_an_mtp_layer_without_a_norm_has_that_of_the_trunk(tmp_path: Path):
    metadata, arrays = convert(*golden("dense"))
    del arrays["blk.4.nextn.shared_head_norm.weight"]
    model = read_gguf(write_gguf(tmp_path / "f.gguf", metadata, arrays))
    norms = read(model.tensors["mtp.norm.weight"]), read(model.tensors["model.norm.weight"])
    np.testing.assert_array_equal(*norms)


def test_queries_keys_and_values_in_one_matrix(tmp_path: Path):
    metadata, arrays = convert(*golden("dense"))
    parts = [arrays.pop(f"blk.3.attn_{part}.weight") for part in "qkv"]
    arrays["blk.3.attn_qkv.weight"] = np.concatenate(parts)
    assert_tensors(
        read_gguf(write_gguf(tmp_path / "f.gguf", metadata, arrays)), canonical(golden("dense")[1])
    )


def test_tensors_that_are_not_used_are_listed(tmp_path: Path):
    metadata, arrays = convert(*golden("dense"))
    extra = (
        *("v.blk.0.ln1.weight", "rope_freqs.weight", "blk.0.attn_qkv.input_scale"),
        *("blk.4.nextn.embed_tokens.weight", "blk.4.nextn.shared_head_head.weight"),
    )
    arrays |= {name: np.ones(8, np.float32) for name in extra}
    model = read_gguf(write_gguf(tmp_path / "f.gguf", metadata, arrays))
    assert model.left_out == extra
    assert_tensors(model, canonical(golden("dense")[1]))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("blk.0.attn_q.bias", "has the unknown tensor 'blk.0.attn_q.bias'"),
        ("blk.9.attn_norm.weight", "has the unknown tensor"),
        ("blk.0.nextn.eh_proj.weight", "has the unknown tensor"),
        ("blk.0.attn_norm.scale", "is F32 .* no factor of its matrix"),
        ("blk.0.other.scale", "has 'blk.0.other.scale' without its matrix"),
        ("blk.0.ffn_gate_up_exps.weight", "has the unknown tensor"),
    ],
)
def test_a_tensor_that_would_change_the_result_is_refused(tmp_path: Path, name: str, says: str):
    metadata, arrays = convert(*golden("dense"))
    path = write_gguf(tmp_path / "f.gguf", metadata, arrays | {name: np.ones(8, np.float32)})
    with pytest.raises(Qwen35Error, match=says):
        read_gguf(path)


def test_a_factor_of_a_matrix_is_applied(tmp_path: Path):
    metadata, arrays = convert(*golden("moe"))
    experts = np.arange(1, 9, dtype=np.float32)
    arrays |= {
        "blk.0.ffn_down_exps.scale": experts,
        "blk.1.attn_qkv.scale": np.full(1, 3, np.float32),
    }
    model = read_gguf(write_gguf(tmp_path / "f.gguf", metadata, arrays))
    wanted = canonical(golden("moe")[1])
    for name, factor in (
        ("model.layers.0.mlp.switch_mlp.down_proj.weight", experts[:, None, None]),
        ("model.layers.1.linear_attn.in_proj_qkv.weight", np.float32(3)),
    ):
        got = read(model.tensors[name], rows=3)
        np.testing.assert_array_equal(got, np.array(wanted[name]) * factor)


def test_a_type_without_known_values_is_named(tmp_path: Path):
    metadata, arrays = convert(*golden("dense"))
    arrays["blk.0.ffn_up.weight"] = np.zeros((96, 64 * 8), np.uint8)
    path = write_gguf(tmp_path / "f.gguf", metadata, arrays, {"blk.0.ffn_up.weight": Type.F64})
    with pytest.raises(
        Qwen35Error, match=r"tensor 'blk.0.ffn_up.weight' is F64, which is not read"
    ):
        read_gguf(path)


def test_a_file_of_the_mtp_layer_alone_is_named(tmp_path: Path):
    metadata, arrays = convert(*golden("dense"))
    kept = {n: v for n, v in arrays.items() if not n.startswith("blk.") or "blk.4" in n}
    path = write_gguf(tmp_path / "f.gguf", metadata, kept)
    with pytest.raises(Qwen35Error, match="has no layers of the model"):
        read_gguf(path)


def test_numbers_of_metadata_are_the_shortest_decimals(tmp_path: Path):
    model = read_gguf(golden_gguf(tmp_path / "f.gguf"))
    stored = model.metadata["qwen35.attention.layer_norm_rms_epsilon"]
    assert stored == struct.unpack("f", struct.pack("f", 1e-6))[0] != 1e-6
    assert model.config["text_config"]["rms_norm_eps"] == 1e-6
