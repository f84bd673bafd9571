"""What a list of models shows of a GGUF file, from the start of its header. No MLX.

The format: "GGUF", a u32 version, the numbers of tensors and of metadata entries as u64, then the
entries: a name, a u32 type, a value; strings have a u64 length, arrays the type and number of their
values (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). llama.cpp writes the sizes of
the network before the vocabulary, where reading ends: it has a quarter of a million strings.
"""

import struct
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from qwen35_mlx.checkpoint import gguf_names
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line, open_regular

ARCHITECTURES = {"qwen35": "qwen3_5_text", "qwen35moe": "qwen3_5_moe_text"}

_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_ARCHITECTURE, _VOCABULARY = "general.architecture", "tokenizer.ggml.tokens"
# Far beyond any file: entries before the vocabulary, bytes or numbers of one, strings in a list.
_MAX_ENTRIES, _MAX_BYTES, _MAX_STRINGS = 1000, 1 << 20, 1000


def gguf_summary(path: Path) -> tuple[dict[str, Any], int]:
    """The sizes of the network in a GGUF file, and the bytes of all its parts.

    Returns:
        The fields of config.json that the metadata has; {} and 0 for another architecture.

    Raises:
        Qwen35Error: a part is missing or cannot be read, or is not a GGUF file.
    """
    parts = [path.with_name(part) for part in gguf_names.parts_of(path.name)]
    try:
        with BufferedReader(open_regular(path)) as file:
            config = _config(_read_metadata(file))
        return config, sum(part.stat().st_size for part in parts) if config else 0
    except (OSError, ValueError) as error:
        name = Path(getattr(error, "filename", None) or path).name
        reason = getattr(error, "strerror", None) or one_line(error)
        raise Qwen35Error(f"{name} cannot be read ({reason}): download it again") from error


def _read_metadata(file: BinaryIO) -> dict[str, Any]:
    """The entries up to the vocabulary, which stands for its number of tokens."""
    magic, version, _, entries = _unpack(file, "4sIQQ")
    if magic != b"GGUF":
        raise ValueError("not a GGUF file")
    if not 2 <= version <= 3:
        raise ValueError(f"version {version} of the format is not known here")
    metadata: dict[str, Any] = {}
    for _ in range(min(entries, _MAX_ENTRIES)):
        name = _read_string(file)
        (kind,) = _unpack(file, "I")
        if name == _VOCABULARY and kind == _ARRAY:
            _, metadata[name] = _unpack(file, "IQ")
            break
        metadata[name] = _read_value(file, kind)
        if metadata.get(_ARCHITECTURE, "qwen35") not in ARCHITECTURES:
            break
    return metadata


def _read_value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _read_string(file)
    if kind != _ARRAY:
        return _read_numbers(file, kind, 1)[0]
    element, count = _unpack(file, "IQ")
    if element == _STRING:
        return [_read_string(file) for _ in range(_bounded(count, _MAX_STRINGS))]
    return list(_read_numbers(file, element, count))


def _read_numbers(file: BinaryIO, kind: int, count: int) -> tuple[Any, ...]:
    if kind not in _SCALARS:
        raise ValueError(f"its metadata has the type {kind}, which is not known here")
    return _unpack(file, f"{_bounded(count, _MAX_BYTES)}{_SCALARS[kind]}")


def _read_string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    (text,) = _unpack(file, f"{_bounded(length, _MAX_BYTES)}s")
    return text.decode("utf-8", "replace")


def _unpack(file: BinaryIO, values: str) -> tuple[Any, ...]:
    size = struct.calcsize(f"<{values}")
    data = file.read(size)
    if len(data) < size:
        raise ValueError("it ends within its header")
    return struct.unpack(f"<{values}", data)


def _bounded(size: int, limit: int) -> int:
    if size > limit:
        raise ValueError(f"its metadata has an entry of length {size:,}")
    return size


def _config(metadata: dict[str, Any]) -> dict[str, Any]:
    architecture = metadata.get(_ARCHITECTURE)
    if architecture not in ARCHITECTURES:
        return {}

    def value(name: str) -> Any:
        found = metadata.get(f"{architecture}.{name}")
        # By layer: those without attention have 0 heads.
        return max(found, default=0) if isinstance(found, list) else found

    def quotient(whole: Any, part: Any) -> Any:
        both = type(whole) is int and type(part) is int and part > 0
        return whole // part if both else None

    blocks, drafting = value("block_count"), value("nextn_predict_layers") or 0
    layers = blocks - drafting if type(blocks) is type(drafting) is int else None
    recurrent = metadata.get(f"{architecture}.attention.recurrent_layers")
    types = None
    if isinstance(recurrent, list):
        types = ["linear_attention" if one else "full_attention" for one in recurrent[:layers]]
    fields = {
        "model_type": ARCHITECTURES[architecture],
        "vocab_size": metadata.get(_VOCABULARY),
        "hidden_size": value("embedding_length"),
        "num_hidden_layers": layers,
        "layer_types": types,
        "full_attention_interval": value("full_attention_interval"),
        "max_position_embeddings": value("context_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_attention_heads": value("attention.head_count"),
        "num_key_value_heads": value("attention.head_count_kv"),
        "head_dim": value("attention.key_length"),
        "linear_num_key_heads": value("ssm.group_count"),
        "linear_num_value_heads": value("ssm.time_step_rank"),
        "linear_key_head_dim": value("ssm.state_size"),
        "linear_value_head_dim": quotient(value("ssm.inner_size"), value("ssm.time_step_rank")),
        "linear_conv_kernel_dim": value("ssm.conv_kernel"),
        "num_experts": value("expert_count"),
        "num_experts_per_tok": value("expert_used_count"),
        "moe_intermediate_size": value("expert_feed_forward_length"),
        "shared_expert_intermediate_size": value("expert_shared_feed_forward_length"),
    }
    return {name: found for name, found in fields.items() if found is not None}
