"""The text side of a checkpoint of any kind. No MLX."""

from pathlib import Path

from qwen35_mlx.checkpoint.gguf.file import open_gguf
from qwen35_mlx.checkpoint.gguf.tokenizer import text_files
from qwen35_mlx.checkpoint.gguf_names import is_gguf_file
from qwen35_mlx.text.text_files import TextFiles


def read_text_files(path: Path) -> TextFiles:
    """Tokenizer, chat template and generation settings of a checkpoint folder or a GGUF file.

    Raises:
        Qwen35Error: a file is unreadable or damaged.
    """
    if is_gguf_file(path):
        return text_files(open_gguf(path).metadata, path)
    return TextFiles.from_folder(path)
