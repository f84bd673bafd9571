"""Error lines about stored tensors."""

from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.errors import Qwen35Error


def damaged(tensor: FileTensor, problem: str) -> Qwen35Error:
    """An error line about a stored tensor; `problem` continues "'NAME' is I32 [2, 3], "."""
    return Qwen35Error(
        f"{tensor.path}: '{tensor.name}' is {tensor.stored_dtype} {list(tensor.shape)}, {problem}: "
        "fetch the checkpoint again"
    )
