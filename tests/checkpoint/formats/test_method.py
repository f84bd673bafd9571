"""What config files say of a quantisation, and what they are refused for."""

from typing import Any

import pytest

from qwen35_mlx.checkpoint.formats.method import Method, read_method
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization

COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}


def method(entry: dict[str, Any] | None, quant_file: dict[str, Any] | None = None) -> Method:
    found = read_method({"quantization_config": entry}, quant_file)
    assert found is not None
    return found


def refused(entry: dict[str, Any] | None, quant_file: dict[str, Any] | None = None) -> str:
    with pytest.raises(Qwen35Error) as caught:
        read_method({"quantization_config": entry}, quant_file)
    message = str(caught.value)
    assert message.startswith(("config.json", "hf_quant_config.json"))
    assert "\n" not in message
    return message


def group(**weights: Any) -> dict[str, Any]:
    return {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int"} | weights}


def test_a_plain_checkpoint_has_no_method():
    assert read_method({}, None) is None
    assert read_method({"quantization_config": None, "text_config": {}}, {}) is None


def test_the_entry_may_stand_in_text_config_but_not_differ_there():
    inner = {"quant_method": "awq"}
    assert read_method({"text_config": {"quantization_config": inner}}, None) == method(inner)
    both = {"quantization_config": inner, "text_config": {"quantization_config": inner}}
    assert read_method(both, None) == method(inner)
    both["quantization_config"] = {"quant_method": "gptq"}
    with pytest.raises(Qwen35Error, match="'quantization_config' and the one in 'text_config'"):
        read_method(both, None)


def test_float8_blocks():
    assert method({"quant_method": "fp8"}).block_shapes == ((128, 128),)
    assert method({"quant_method": "fp8", "weight_block_size": [64, 32]}).block_shapes == (
        (64, 32),
    )
    assert method({"quant_method": "fp8", "weight_block_size": None}).block_shapes == ()
    assert method({"quant_method": "fbgemm_fp8"}).block_shapes == ()
    for block in ([128], [0, 128], [128, 2000], "128", [1.5, 2], [True, 128]):
        assert "weight_block_size" in refused({"quant_method": "fp8", "weight_block_size": block})


@pytest.mark.parametrize(
    ("entry", "bits", "symmetric", "less_one"),
    [
        ({"bits": 4, "sym": True}, 4, True, True),
        ({"bits": 8, "sym": False, "checkpoint_format": "gptq_v2"}, 8, False, False),
        ({"bits": 4, "format": "GPTQ_V2"}, 4, False, False),
        ({"bits": 4, "sym": True, "format": "gptq", "checkpoint_format": "gptq"}, 4, True, True),
        ({"bits": 4, "sym": True, "dynamic": {"+:.*down": {"bits": 8}}}, None, True, True),
        ({"bits": 4, "sym": True, "dynamic": {"x": {"sym": False}, "-:y": {}}}, 4, False, True),
    ],
)
def test_gptq(entry: dict[str, Any], bits: int | None, symmetric: bool, less_one: bool):
    found = method({"quant_method": "gptq"} | entry)
    assert (found.bits, found.symmetric, found.zeros_less_one) == (bits, symmetric, less_one)


@pytest.mark.parametrize(
    ("entry", "bits", "less_one"),
    [
        ({"bits": 4, "packing_format": "auto_round:auto_gptq"}, 4, True),
        ({"bits": 4, "packing_format": "auto_round:gptqmodel"}, 4, False),
        ({"bits": 4, "packing_format": "auto_round:exllamav2"}, 4, False),
        ({"bits": 4}, 4, True),
        ({"bits": 4, "packing_format": "auto_round:auto_awq"}, 4, False),
        ({"bits": 2, "extra_config": {"lm_head": {"bits": 8}}}, None, True),
    ],
)
@pytest.mark.parametrize("name", ["auto-round", "intel/auto-round"])
def test_auto_round(name: str, entry: dict[str, Any], bits: int | None, less_one: bool):
    found = method({"quant_method": name, "sym": True} | entry)
    assert (found.bits, found.symmetric, found.zeros_less_one) == (bits, True, less_one)


def test_awq():
    assert not method({"quant_method": "awq", "bits": 4, "version": "GEMM"}).symmetric
    assert method({"quant_method": "awq", "zero_point": False}).symmetric


def test_compressed_tensors():
    assert method(COMPRESSED | {"config_groups": {"a": group()}}).bits == 4
    mixed = {"a": group(), "b": group(num_bits=8, type="float"), "c": {"targets": ["x"]}}
    for groups in ({}, mixed):
        assert method(COMPRESSED | {"config_groups": groups}).bits is None
    blocks = {
        "a": group(strategy="block", block_structure=[128, 128]),
        "b": group(strategy="block", block_structure="64x32"),
        "c": group(strategy="channel", block_structure=[1, 2]),
    }
    found = method(COMPRESSED | {"config_groups": blocks})
    assert found.block_shapes == ((128, 128), (64, 32))


@pytest.mark.parametrize("algorithm", ["NVFP4", "FP8", "MIXED_PRECISION", "nvfp4"])
def test_modelopt_in_either_file(algorithm: str):
    quantization = {"quant_algo": algorithm, "group_size": 16, "exclude_modules": ["lm_head"]}
    quant_file = {"producer": {"name": "modelopt"}, "quantization": quantization}
    assert method(None, quant_file).name == "modelopt"
    assert method({"quant_method": "modelopt"} | quantization, quant_file) == method(quantization)


def test_mlx_modules_differ_from_the_default():
    entry = {
        "group_size": 64,
        "bits": 4,
        "language_model.model.layers.0.mlp.down_proj": {"group_size": 32, "bits": 8},
        "model.layers.1.mlp.down_proj": {"bits": 6},
        "lm_head": False,
        "model.embed_tokens": True,
        "model.layers.2.mlp.up_proj": {"mode": "mxfp4", "bits": 4},
    }
    for config in ({"quantization": entry}, {"quantization_config": entry}):
        found = read_method(config, None)
        assert found
        assert found.name == "mlx"
        assert found.default == Quantization(64, 4)
        for module, expected in {
            "model.layers.0.mlp.down_proj": Quantization(32, 8),
            "language_model.model.layers.0.mlp.down_proj": Quantization(32, 8),
            # The group size that is left out is the mode's own, as in mlx-lm.
            "model.language_model.layers.1.mlp.down_proj": Quantization(64, 6),
            "model.layers.2.mlp.up_proj": Quantization(32, 4, "mxfp4"),
            "lm_head": None,
            "model.embed_tokens": Quantization(64, 4),
            "elsewhere": Quantization(64, 4),
        }.items():
            assert found.quantization(module) == expected, module


def test_incomplete_mlx_entries():
    for entry in ({"group_size": 64}, {"group_size": 64, "bits": 4, "a": {"mode": "affine"}}):
        assert "group_size and bits" in refused(entry)
    assert "MLX does not have" in refused({"group_size": 48, "bits": 4})


@pytest.mark.parametrize(
    "name",
    [
        *("bitsandbytes", "quark", "torchao", "hqq", "eetq", "aqlm", "spqr", "vptq", "quanto"),
        *("higgs", "bitnet", "mxfp4", "fp_quant", "gguf", "exl3", None, 3, ["fp8"]),
    ],
)
def test_methods_that_are_not_read(name: Any):
    message = refused({"quant_method": name, "bits": 4})
    assert "not supported" in message
    assert name is None or str(name) in message


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "gptq", "is_marlin_format": True}, "marlin"),
        ({"quant_method": "gptq", "format": "gptq_p"}, "gptq_p"),
        ({"quant_method": "gptq", "format": "gptq", "checkpoint_format": "gptq_v2"}, "and format"),
        ({"quant_method": "gptq", "bits": "four"}, "'bits' is 'four'"),
        ({"quant_method": "gptq", "dynamic": 3}, "'dynamic' is 3"),
        ({"quant_method": "awq", "version": "gemv"}, "gemv"),
        ({"quant_method": "awq", "bits": 8}, "8 bits"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:mlx"}, "mlx"),
        ({"quant_method": "auto-round", "rotation_config": {"a": 1}}, "rotation_config"),
        (COMPRESSED | {"transform_config": {"a": 1}}, "transform_config"),
        (COMPRESSED | {"format": "marlin-24"}, "marlin-24"),
        (COMPRESSED | {"config_groups": {"a": group() | {"format": "mxfp6"}}}, "mxfp6"),
        (COMPRESSED | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
        (COMPRESSED | {"config_groups": {"a": group(strategy="block")}}, "block_structure None"),
        (COMPRESSED | {"config_groups": {"a": []}}, "'a' is []"),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, "W4A16_AWQ"),
    ],
)
def test_variants_that_are_not_read(entry: dict[str, Any], words: str):
    assert words in refused(entry)


def test_a_layer_of_modelopt_that_is_not_read():
    layers = {"model.layers.0": {"quant_algo": "W4A8_AWQ"}}
    file = {"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}}
    assert "W4A8_AWQ" in refused(None, file)
