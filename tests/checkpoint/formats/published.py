"""The kinds of quantised checkpoints that are published, by a short name."""

import json
import re
from typing import Any

import mlx.core as mx

from qwen35_mlx.kernels.quantized import Quantization
from tests.checkpoint.formats.sources import (
    GROUP,
    MODULES,
    Source,
    awq,
    float8,
    gptq,
    int8,
    mlx_affine,
    mlx_mxfp8,
    mxfp4,
    nvfp4,
    pack_quantized,
)

_ALL = re.compile(r"^(?!.*(conv1d|norm))")
_DENSE = re.compile(r"^(?!mtp)(?!.*experts).*(linear_attn|self_attn|mlp)\.\w+_proj$")
_FOUR, _EIGHT = Quantization(GROUP, 4), Quantization(GROUP, 8)
_HALF, _BRAIN, _SINGLE = mx.float16, mx.bfloat16, mx.float32


def _gptq(**changes: Any) -> dict[str, Any]:
    entry = {
        **{"bits": 4, "checkpoint_format": "gptq", "desc_act": False, "group_size": GROUP},
        **{"lm_head": False, "pack_dtype": "int32", "quant_method": "gptq", "sym": True},
        "dynamic": {"-:.*mtp.*": {}, "-:.*visual.*": {}, "-:.*shared_expert.*": {}},
    }
    return entry | changes


def _auto_round(**changes: Any) -> dict[str, Any]:
    entry = {
        **{"autoround_version": "0.9.2", "bits": 4, "data_type": "int", "group_size": GROUP},
        **{"packing_format": "auto_round:auto_gptq", "quant_method": "auto-round", "sym": True},
        "extra_config": {"lm_head": {"bits": 16}, "mtp.fc": {"bits": 16, "data_type": "float"}},
    }
    return entry | changes


def _compressed(form: str, bits: int, kind: str, **weights: Any) -> dict[str, Any]:
    group = {"weights": {"num_bits": bits, "type": kind, "dynamic": False, **weights}}
    return {
        "config_groups": {"group_0": {"targets": ["Linear"], "format": form, **group}},
        "format": form,
        "ignore": ["lm_head", "re:.*mtp.*", "re:.*in_proj_[ab]", "re:.*mlp.gate$"],
        **{"kv_cache_scheme": None, "quant_method": "compressed-tensors"},
        "quantization_status": "compressed",
    }


def _integers(**weights: Any) -> dict[str, Any]:
    options = {"group_size": GROUP, "strategy": "group", "symmetric": True, "actorder": None}
    return _compressed("pack-quantized", 4, "int", **options | weights)


def _modelopt(algorithm: str, **more: Any) -> dict[str, Any]:
    return {
        **{"quant_algo": algorithm, "kv_cache_scheme": {"num_bits": 8, "type": "float"}, **more},
        "ignore": ["lm_head", "mtp*", "model.visual*"],
        **{"producer": {"name": "modelopt", "version": "0.45.0"}, "quant_method": "modelopt"},
    }


_MODELOPT_FILE = {
    "producer": {"name": "modelopt", "version": "0.45.0"},
    "quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]},
}


def _fp8(block: list[int] | None = None, **more: Any) -> dict[str, Any]:
    entry = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8"}
    return {**entry, "weight_block_size": block, **more}


def _mlx(bits: int, group: int = GROUP, mode: str = "affine", **overrides: Any) -> dict[str, Any]:
    return {"group_size": group, "bits": bits, "mode": mode, **overrides}


SOURCES = {
    "fp8 per tensor": Source(_fp8(), {MODULES: float8("tensor")}, None),
    "fp8 per channel": Source(
        _compressed("float-quantized", 8, "float", strategy="channel"),
        {MODULES: float8("channel", dtype="BF16")},
        None,
    ),
    "fp8 blocks, one by one": Source(
        _fp8([32, 32]),
        {MODULES: float8("block", "weight_scale_inv", "BF16", (32, 32))},
        None,
        model="moe",
        experts="one by one",
    ),
    "fp8 blocks, stacked": Source(
        _fp8([32, 32]),
        {MODULES: float8("block", "weight_scale_inv", block=(32, 32))},
        None,
        model="moe",
    ),
    "compressed-tensors fp8 blocks": Source(
        _compressed("float-quantized", 8, "float", strategy="block", block_structure=[32, 32]),
        {MODULES: float8("block", block=(32, 32))},
        None,
    ),
    "modelopt fp8": Source(_modelopt("FP8"), {MODULES: float8("tensor")}, None),
    "gptq": Source(_gptq(), {MODULES: gptq()}, _FOUR, _HALF),
    "gptq v2, asymmetric": Source(
        _gptq(checkpoint_format="gptq_v2", sym=False),
        {MODULES: gptq(symmetric=False, less_one=False)},
        _FOUR,
        _SINGLE,
    ),
    "gptq asymmetric": Source(
        _gptq(sym=False), {MODULES: gptq(symmetric=False)}, _FOUR, _SINGLE, model="moe"
    ),
    "gptq in bfloat16": Source(_gptq(), {MODULES: gptq(scales="BF16")}, _FOUR, _BRAIN),
    "gptq of 8 bits": Source(_gptq(bits=8), {MODULES: gptq(8)}, _EIGHT, _HALF, model="moe"),
    "gptq in the order of activations": Source(
        _gptq(desc_act=True), {MODULES: gptq(permuted=True)}, None
    ),
    "awq": Source(
        {
            **{"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"},
            **{"zero_point": True, "modules_to_not_convert": ["mtp", "lm_head", "visual"]},
        },
        {MODULES: awq},
        _FOUR,
        _SINGLE,
        model="moe",
        experts="one by one",
    ),
    "auto-round": Source(_auto_round(), {MODULES: gptq(g_idx=False)}, _FOUR, _HALF),
    "auto-round of experts": Source(
        _auto_round(), {MODULES: gptq(g_idx=False)}, _FOUR, _HALF, "moe", "one by one"
    ),
    "auto-round of stacks": Source(
        _auto_round(), {MODULES: gptq(g_idx=False)}, _FOUR, _HALF, model="moe"
    ),
    "auto-round of experts alone": Source(
        _auto_round(packing_format="auto_round:gptqmodel"),
        {re.compile(r"^(?!mtp).*experts\."): gptq(g_idx=False, less_one=False)},
        _FOUR,
        _HALF,
        "moe",
        "one by one",
    ),
    "compressed-tensors int4": Source(
        _integers(), {MODULES: pack_quantized()}, _FOUR, _BRAIN, "moe", "one by one"
    ),
    "compressed-tensors int4, asymmetric": Source(
        _integers(symmetric=False), {MODULES: pack_quantized(symmetric=False)}, _FOUR, _SINGLE
    ),
    "compressed-tensors int4 in the order of activations": Source(
        _integers(actorder="group"), {MODULES: pack_quantized(permuted=True)}, None
    ),
    "compressed-tensors int8": Source(
        _compressed("int-quantized", 8, "int", strategy="channel", symmetric=True),
        {_DENSE: int8},
        _EIGHT,
        _BRAIN,
    ),
    "compressed-tensors nvfp4": Source(
        _compressed("nvfp4-pack-quantized", 4, "float", group_size=16, strategy="tensor_group"),
        {MODULES: nvfp4("compressed-tensors")},
        None,
        model="moe",
        experts="one by one",
    ),
    "compressed-tensors nvfp4 that folds": Source(
        _compressed("nvfp4-pack-quantized", 4, "float", group_size=16, strategy="tensor_group"),
        {MODULES: nvfp4("compressed-tensors", 2.0**-6)},
        Quantization(16, 4, "nvfp4"),
    ),
    "compressed-tensors mxfp4": Source(
        _compressed("mxfp4-pack-quantized", 4, "float", group_size=32, strategy="group"),
        {MODULES: mxfp4()},
        Quantization(32, 4, "mxfp4"),
        model="moe",
        experts="one by one",
    ),
    "modelopt nvfp4": Source(
        _modelopt("NVFP4"), {MODULES: nvfp4("modelopt")}, None, model="moe", experts="one by one"
    ),
    "modelopt nvfp4 by its own file": Source(
        {},
        {MODULES: nvfp4("modelopt")},
        None,
        files={"hf_quant_config.json": json.dumps(_MODELOPT_FILE)},
    ),
    "modelopt mixed": Source(
        _modelopt("MIXED_PRECISION", quantized_layers={}),
        {re.compile(r".*linear_attn\.\w+_proj$"): float8("tensor"), _DENSE: nvfp4("modelopt")},
        None,
    ),
    **{
        f"mlx affine, {bits} bits": Source(
            _mlx(bits), {_ALL: mlx_affine(bits)}, Quantization(GROUP, bits), _BRAIN, mlx=True
        )
        for bits in (1, 2, 3, 5, 6)
    },
    "mlx affine, 4 bits": Source(
        _mlx(4), {_ALL: mlx_affine(4)}, _FOUR, _BRAIN, model="moe", mlx=True
    ),
    "mlx affine, 8 bits and others": Source(
        _mlx(
            *(8, 64),
            **{"language_model.lm_head": {"group_size": GROUP, "bits": 4}},
            **{"language_model.model.embed_tokens": False},
        ),
        {
            re.compile("lm_head"): mlx_affine(4),
            re.compile("(?!.*(down_proj|conv1d|norm|embed))"): mlx_affine(8, 64),
        },
        Quantization(64, 8),
        _BRAIN,
        mlx=True,
    ),
    "mlx mxfp4": Source(
        _mlx(4, 32, "mxfp4"),
        {_ALL: mxfp4("scales")},
        Quantization(32, 4, "mxfp4"),
        model="moe",
        mlx=True,
    ),
    "mlx mxfp8": Source(
        _mlx(8, 32, "mxfp8"), {_ALL: mlx_mxfp8}, Quantization(32, 8, "mxfp8"), mlx=True
    ),
    "mlx nvfp4": Source(
        _mlx(4, 16, "nvfp4"), {_ALL: nvfp4("mlx", 1.0)}, Quantization(16, 4, "nvfp4"), mlx=True
    ),
}
