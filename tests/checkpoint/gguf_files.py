"""GGUF files with the metadata of a model and no tensors to speak of, by the `gguf` package."""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

# The shape of the 4B model, with its MTP layer, under the names of llama.cpp.
SIZES: dict[str, Any] = {
    "block_count": 33,
    "nextn_predict_layers": 1,
    "context_length": 262_144,
    "embedding_length": 2560,
    "feed_forward_length": 9216,
    "attention.head_count": 16,
    "attention.head_count_kv": 4,
    "attention.key_length": 256,
    "full_attention_interval": 4,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 128,
    "ssm.group_count": 16,
    "ssm.time_step_rank": 32,
    "ssm.inner_size": 4096,
}


def write_gguf(
    path: Path,
    sizes: dict[str, Any] = SIZES,
    architecture: str = "qwen35",
    *,
    vocabulary: int = 1000,
    values: int = 8,
) -> Path:
    """Write a file as llama.cpp's converter does: general, sizes, vocabulary, tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture)
    writer.add_name("A model")
    writer.add_tags(["text-generation", "test"])
    for name, value in sizes.items():
        key = f"{architecture}.{name}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token {number}" for number in range(vocabulary)])
    writer.add_token_merges(["a b"] * vocabulary)
    writer.add_tensor("output_norm.weight", np.zeros(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
