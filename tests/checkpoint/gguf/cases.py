"""GGUF files made from the goldens by the rules of llama.cpp's converter, and what to read back."""

from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType as Type

from qwen35_mlx.checkpoint.tensor_readers import Matrix, PackedMatrix
from tests.checkpoint.cases import Tensors, golden, one_by_one

Arrays = dict[str, np.ndarray]

_SIMPLE = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
_MTP = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head_norm",
}


def tiled(values: np.ndarray, axis: int, key_heads: int, width: int) -> np.ndarray:
    """Value heads grouped by key head -> repeating the key heads."""
    shape = values.shape
    heads = (key_heads, shape[axis] // key_heads // width, width)
    split = values.reshape(*shape[:axis], *heads, *shape[axis + 1 :])
    return split.swapaxes(axis, axis + 1).reshape(shape)


def convert(
    config: dict[str, Any],
    tensors: Tensors,
    *,
    fuse_experts: bool = False,
    mtp: bool = True,
    tile: bool = True,
) -> tuple[dict[str, Any], Arrays]:
    """Metadata and float32 tensors of the GGUF file of a published checkpoint.

    Args:
        tile: whether the value heads repeat the key heads, as llama.cpp needs it.
    """
    text = config["text_config"]
    layers = text["num_hidden_layers"]
    nk, dk = text["linear_num_key_heads"], text["linear_key_head_dim"]
    nv, dv = text["linear_num_value_heads"], text["linear_value_head_dim"]
    reorder = tiled if tile else lambda values, *_: values
    rope = text["rope_parameters"]
    arch = "qwen35moe" if "moe" in config["model_type"] else "qwen35"
    fields: dict[str, Any] = {
        "block_count": layers + mtp,
        "context_length": text["max_position_embeddings"],
        "embedding_length": text["hidden_size"],
        "attention.head_count": text["num_attention_heads"],
        "attention.head_count_kv": text["num_key_value_heads"],
        "attention.key_length": text["head_dim"],
        "attention.value_length": text["head_dim"],
        "attention.layer_norm_rms_epsilon": text["rms_norm_eps"],
        "rope.dimension_sections": [*rope["mrope_section"], 0],
        "rope.freq_base": rope["rope_theta"],
        "rope.dimension_count": int(text["head_dim"] * rope["partial_rotary_factor"]),
        "ssm.conv_kernel": text["linear_conv_kernel_dim"],
        "ssm.state_size": dk,
        "ssm.group_count": nk,
        "ssm.time_step_rank": nv,
        "ssm.inner_size": nv * dv,
        "full_attention_interval": 4,
    }
    if mtp:
        fields["nextn_predict_layers"] = 1
    if rope["rope_type"] == "yarn":
        fields |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope["factor"],
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        }
    if arch == "qwen35":
        fields["feed_forward_length"] = text["intermediate_size"]
    else:
        fields |= {
            "expert_count": text["num_experts"],
            "expert_used_count": text["num_experts_per_tok"],
            "expert_feed_forward_length": text["moe_intermediate_size"],
            "expert_shared_feed_forward_length": text["shared_expert_intermediate_size"],
        }
    metadata = {f"{arch}.{name}": value for name, value in fields.items()}
    metadata |= {
        "general.architecture": arch,
        "general.type": "model",
        "tokenizer.ggml.eos_token_id": text["eos_token_id"],
    }
    found: Arrays = {}
    experts: dict[str, dict[int, np.ndarray]] = {}
    for raw, array in one_by_one(tensors).items():
        name = raw.replace("model.language_model.", "model.")
        value = np.array(array)
        if name.startswith("mtp.") and not mtp:
            continue
        module = name.removesuffix(".weight")
        if module.endswith(("norm", "norm_embedding", "norm_hidden")) and (
            not module.endswith("linear_attn.norm")
        ):
            value = value + 1
        if name == "model.embed_tokens.weight":
            found["token_embd.weight"] = value
            continue
        if name == "model.norm.weight":
            found["output_norm.weight"] = value
            continue
        if name == "lm_head.weight":
            found["output.weight"] = value
            continue
        parts = name.split(".")
        if parts[0] == "mtp" and parts[1] != "layers":
            found[f"blk.{layers}.nextn.{_MTP[parts[1]]}.weight"] = value
            continue
        block = int(parts[2]) + (layers if parts[0] == "mtp" else 0)
        rest = ".".join(parts[3:])
        prefix = f"blk.{block}."
        if ".experts." in name:
            expert, projection = name.split(".experts.")[1].split(".")[:2]
            stack = f"{prefix}ffn_{projection.removesuffix('_proj')}_exps.weight"
            experts.setdefault(stack, {})[int(expert)] = value
            continue
        if "linear_attn.conv1d" in rest:
            value = value.squeeze()
        if "in_proj_qkv" in rest or "conv1d" in rest:
            values = reorder(value[2 * nk * dk :], 0, nk, dv)
            value = np.concatenate([value[: 2 * nk * dk], values])
        elif "in_proj_z" in rest:
            value = reorder(value, 0, nk, dv)
        elif "in_proj_a" in rest or "in_proj_b" in rest or "A_log" in rest or "dt_bias" in rest:
            value = reorder(value, 0, nk, 1)
        elif "linear_attn.out_proj" in rest:
            value = reorder(value, 1, nk, dv)
        if rest == "linear_attn.A_log":
            found[prefix + "ssm_a"] = -np.exp(value)
        elif rest == "linear_attn.dt_bias":
            found[prefix + "ssm_dt.bias"] = value
        elif rest == "mlp.shared_expert_gate.weight":
            found[prefix + "ffn_gate_inp_shexp.weight"] = value.squeeze()
        else:
            found[f"{prefix}{_SIMPLE[rest.removesuffix('.weight')]}.weight"] = value
    stacks = {name: np.stack([s[i] for i in range(len(s))]) for name, s in experts.items()}
    if fuse_experts:
        for name in [name for name in stacks if "gate_exps" in name]:
            halves = [stacks.pop(name), stacks.pop(name.replace("gate", "up"))]
            stacks[name.replace("gate", "gate_up")] = np.concatenate(halves, axis=1)
    return metadata, found | stacks


def write_gguf(
    path: Path,
    metadata: dict[str, Any],
    tensors: Arrays,
    dtypes: dict[str, Type] | None = None,
    *,
    tensors_per_part: int = 0,
) -> Path:
    """Write a file, or parts of it; returns the path of the first.

    Args:
        dtypes: of tensors that are not float32. One of uint8 has its blocks already.
    """
    writer = gguf.GGUFWriter(
        path, metadata["general.architecture"], split_max_tensors=tensors_per_part
    )
    for name, value in metadata.items():
        if name == "general.architecture":
            continue
        match value:
            case bool():
                writer.add_bool(name, value)
            case int():
                writer.add_uint32(name, value)
            case float():
                writer.add_float32(name, value)
            case str():
                writer.add_string(name, value)
            case _:
                writer.add_array(name, value)
    for name, value in tensors.items():
        dtype = (dtypes or {}).get(name, Type.F32)
        data = value if value.dtype == np.uint8 else gguf.quants.quantize(value, dtype)
        writer.add_tensor(name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if tensors_per_part:
        return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))
    return path


def golden_gguf(path: Path, name: str = "dense", **options: Any) -> Path:
    """The file of a golden, all float32."""
    return write_gguf(path, *convert(*golden(name), **options))


def read(matrix: Matrix, rows: int = 0) -> np.ndarray:
    """All values of a matrix in float32, `rows` at a time."""
    if not isinstance(matrix, PackedMatrix):
        return _read_rows(matrix, rows)
    q = matrix.quantization
    parts = {name: mx.array(_read_rows(part, rows)) for name, part in matrix.parts.items()}
    for name, shape in q.packed(matrix.shape).items():
        assert parts[name].shape == shape == matrix.parts[name].shape
    biases = parts.get("biases")
    scales = parts["scales"] if q.mode != "affine" else parts["scales"].astype(mx.float32)
    values = mx.dequantize(
        parts["weight"], scales, biases, q.group_size, q.bits, q.mode, dtype=mx.float32
    )
    return np.array(values)


def _read_rows(reader: Any, rows: int) -> np.ndarray:
    total = reader.shape[0]
    pieces = []
    for start in range(0, total, rows or total):
        array = reader.read(start, min(start + (rows or total), total))
        assert array.dtype == reader.dtype
        pieces.append(np.array(array if array.dtype.size != 2 else array.astype(mx.float32)))
    found = np.concatenate(pieces)
    assert found.shape == reader.shape
    return found
