"""Writing a model to a GGUF file that llama.cpp loads, a few rows at a time.

Values and metadata are those of llama.cpp's own converter, `convert_hf_to_gguf.py`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.hub import Progress
from qwen35_mlx.conversion.gguf_plan import (
    GgufType,
    PlannedTensor,
    TensorSource,
    has_mtp,
    plan_tensors,
)
from qwen35_mlx.conversion.gguf_text import sampling_metadata, text_metadata
from qwen35_mlx.conversion.new_folder import partial_file
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import write_all
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.user_paths import exists

_FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
# The largest value of each type. A block of Q8_0 is 127 steps of a float16 scale.
_LARGEST = {
    GgufType.F32: float(np.finfo(np.float32).max),
    GgufType.BF16: float.fromhex("0x1.fep127"),
    GgufType.F16: 65504.0,
    GgufType.Q8_0: 65504.0 * 127,
}
# YaRN settings that have no key in GGUF: at these values llama.cpp computes the same.
_YARN_DEFAULTS = {"mscale": 0, "mscale_all_dim": 0, "attention_factor": None, "truncate": True}


def write_gguf(
    out: Path,
    source: TensorSource,
    config: ModelConfig,
    text: TextFiles,
    kind: str,
    *,
    name: str,
    progress: Progress | None = None,
) -> tuple[PlannedTensor, ...]:
    """Write the new file `out`, which appears when it is complete.

    Args:
        kind: of most matrices: F32, F16, BF16 or Q8_0. See `plan_tensors`.
        name: of the model, for `general.name`.
        progress: called after each chunk with (bytes written, bytes in total, tensor).

    Returns:
        The tensors of the file.

    Raises:
        Qwen35Error: `out` exists, a value does not fit its type, or the model or its tokenizer
            cannot be said in GGUF.
        OSError: from the file system, such as a full disk.
    """
    if os.path.lexists(out):
        raise Qwen35Error(f"{out} exists already: remove it or choose another name")
    plan = plan_tensors(source, config, kind)
    writer = gguf.GGUFWriter(None, "qwen35moe" if config.num_experts else "qwen35")
    for tensor in plan:
        # With a type of its own, the writer takes the shape as that of the values.
        dtype = np.dtype(np.float32)
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, tensor.nbytes, tensor.kind)
    metadata = {
        "general.type": "model",
        **sampling_metadata(text.generation_config),
        "general.name": name,
        "general.size_label": gguf.size_label(*writer.get_total_parameter_count()),
        **model_metadata(config, writer.arch, has_mtp(source)),
        "general.file_type": int(_FILE_TYPES[kind]),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **text_metadata(text, config.vocab_size),
    }
    add_metadata(writer, metadata)
    parents = [parent for parent in out.parents if not exists(parent)]
    with partial_file(out, parents) as file:
        try:
            writer.write_header_to_file(file)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        with file.open("ab", buffering=0) as opened:
            _write_padding(opened)
            _write_values(opened, plan, source, progress)
            os.fsync(opened.fileno())
    return plan


def model_metadata(config: ModelConfig, arch: str, mtp: bool) -> dict[str, Any]:
    """What describes the network, in the order of llama.cpp's converter.

    Raises:
        Qwen35Error: the positions are scaled in a way that GGUF cannot say.
    """
    mtp_layers = max(1, config.mtp_num_hidden_layers) if mtp else 0
    full = [kind == "full_attention" for kind in config.layer_types]
    values: dict[str, Any] = {
        "block_count": config.num_hidden_layers + mtp_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
    }
    if not config.num_experts:
        values["feed_forward_length"] = config.intermediate_size
    values |= {
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        **_yarn_metadata(config.rope.scaling),
        # Pairs of dimensions for time, height and width, which take turns; and none for a fourth.
        "rope.dimension_sections": [len(range(i, config.rotary_dim // 2, 3)) for i in range(3)]
        + [0],
        "rope.freq_base": float(config.rope.theta),
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
    }
    if config.num_experts:
        values |= {
            "expert_count": config.num_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
            "expert_shared_feed_forward_length": config.shared_expert_intermediate_size,
        }
    values |= {
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "ssm.conv_kernel": config.linear_conv_kernel_dim,
        "ssm.state_size": config.linear_key_head_dim,
        "ssm.group_count": config.linear_num_key_heads,
        "ssm.time_step_rank": config.linear_num_value_heads,
        "ssm.inner_size": config.linear_value_dim,
        # Exact for any order of layers; older versions of llama.cpp read only the interval.
        "attention.recurrent_layers": [not is_full for is_full in full] + [False] * mtp_layers,
        "full_attention_interval": full.index(True) + 1 if any(full) else len(full) + 1,
        "rope.dimension_count": config.rotary_dim,
    }
    if mtp_layers:
        values["nextn_predict_layers"] = mtp_layers
    return {f"{arch}.{key}": value for key, value in values.items()}


def _yarn_metadata(scaling: Mapping[str, Any] | None) -> dict[str, Any]:
    if scaling is None:
        return {}
    for name, default in _YARN_DEFAULTS.items():
        if scaling.get(name, default) not in (default, None):
            raise Qwen35Error(
                f"config.json: the YaRN setting '{name}' has no counterpart in GGUF: remove it"
            )
    values: dict[str, Any] = {
        "type": gguf.RopeScalingType.YARN.value,
        "factor": float(scaling["factor"]),
        "original_context_length": int(scaling["original_max_position_embeddings"]),
    }
    for name in ("beta_fast", "beta_slow"):
        if scaling.get(name) is not None:
            values[f"yarn_{name}"] = float(scaling[name])
    return {f"rope.scaling.{key}": value for key, value in values.items()}


def add_metadata(writer: gguf.GGUFWriter, metadata: Mapping[str, Any]) -> None:
    """Add metadata with the types that llama.cpp's converter gives them."""
    for key, value in metadata.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int() if key.startswith("general.sampling."):
                writer.add_int32(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)


def _write_values(
    file: Any, plan: Sequence[PlannedTensor], source: TensorSource, progress: Progress | None
) -> None:
    total = sum(tensor.nbytes for tensor in plan)
    done = 0
    for tensor in plan:
        for chunk in tensor.chunks(source):
            data = _encoded(chunk, tensor)
            write_all(file, data)
            done += data.nbytes
            if progress:
                progress(done, total, tensor.name)
        _write_padding(file)


def _write_padding(file: Any) -> None:
    """Zeros up to where the next tensor may begin."""
    write_all(file, memoryview(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT)))


def _encoded(values: mx.array, tensor: PlannedTensor) -> memoryview:
    """Values as the bytes of the tensor's type.

    Raises:
        Qwen35Error: a value is too large for it, or is not a number.
    """
    kind = tensor.kind
    largest: Any = mx.max(mx.abs(values)).item()
    if not largest <= _LARGEST[kind]:  # also if it is NaN
        raise Qwen35Error(
            f"'{tensor.source}' holds {largest:g}, which is no value of {kind.name}: "
            + ("choose BF16" if np.isfinite(largest) else "fetch the checkpoint again")
        )
    if kind == GgufType.Q8_0:
        # A scale below the smallest of float32 has no reciprocal; it is stored as 0 anyway.
        with np.errstate(all="ignore"):
            blocks = gguf.quants.quantize(np.asarray(values.astype(mx.float32)), kind)
        return blocks.reshape(-1).data
    dtypes = {GgufType.F32: mx.float32, GgufType.F16: mx.float16, GgufType.BF16: mx.bfloat16}
    # Python's buffer protocol has no bfloat16, hence bytes.
    data: Any = np.asarray(mx.contiguous(values.astype(dtypes[kind]).reshape(-1)).view(mx.uint8))
    return data.data
