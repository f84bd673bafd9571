"""What a list of models shows of a GGUF file, from the start of its header. No MLX, no numpy."""

from pathlib import Path
from typing import Any

from qwen35_mlx.checkpoint.gguf.config import config_from_metadata
from qwen35_mlx.checkpoint.gguf.file import ARCHITECTURES
from qwen35_mlx.checkpoint.gguf.header import VOCABULARY, read_settings
from qwen35_mlx.checkpoint.gguf_names import parts_of
from qwen35_mlx.checkpoint.index import sum_of_sizes
from qwen35_mlx.errors import Qwen35Error


def gguf_summary(path: Path) -> tuple[dict[str, Any], int]:
    """The sizes of the network in a GGUF file, and the bytes of all its parts.

    Returns:
        config.json, of which only the sizes count: the embeddings may be tied, and the end tokens
        follow the vocabulary, which is not read. {} and 0 for another architecture.

    Raises:
        Qwen35Error: a part is missing or cannot be read, or is not a GGUF file.
    """
    metadata = read_settings(path)
    kind = metadata.get("general.type", "model"), metadata.get("general.architecture")
    if kind[0] != "model" or kind[1] not in ARCHITECTURES:
        return {}, 0
    tokens = metadata.get(VOCABULARY)
    if type(tokens) is not int:
        raise Qwen35Error(f"{path} has no '{VOCABULARY}': download it again")
    config = config_from_metadata(metadata, str(path), tokens, tied=False)
    return config, sum_of_sizes(path.with_name(part) for part in parts_of(path.name))
