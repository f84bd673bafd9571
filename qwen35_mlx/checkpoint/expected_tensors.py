"""Whether the tensors of a checkpoint are exactly those that the model needs, by headers alone."""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.folder import missing_tensor_advice
from qwen35_mlx.checkpoint.tensor_readers import Matrix, PackedMatrix, RowReader
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.weight_shapes import Shapes

_FLOATS = (mx.float32, mx.float16, mx.bfloat16)
# Dtypes of the parts of a quantised matrix; mxfp4, mxfp8 and nvfp4 have float-8 scales, as bytes.
_PACKED = {"weight": (mx.uint32,), "scales": (*_FLOATS, mx.uint8), "biases": _FLOATS}


def readers_of(matrices: Mapping[str, Matrix]) -> dict[str, RowReader]:
    """What is read, by canonical name; a packed matrix is one reader for each part."""
    readers: dict[str, RowReader] = {}
    for name, matrix in matrices.items():
        if isinstance(matrix, PackedMatrix):
            module = name.removesuffix(".weight")
            readers |= {f"{module}.{end}": part for end, part in matrix.parts.items()}
        else:
            readers[name] = matrix
    return readers


def check_tensors(path: Path, matrices: Mapping[str, Matrix], expected: Shapes) -> None:
    """Check that `matrices` are those of `expected`.

    Args:
        path: of the checkpoint, for messages.
        expected: shapes of the plain tensors, by canonical name.

    Raises:
        Qwen35Error: a tensor is missing, unknown, or of a wrong shape or dtype.
    """
    readers = readers_of(matrices)
    unknown = set(readers)
    for name, shape in expected.items():
        matrix = matrices.get(name)
        if not isinstance(matrix, PackedMatrix) or not recipes.is_quantizable(name, shape):
            _check(path, readers, name, shape, _FLOATS)
            unknown.discard(name)
            continue
        module = name.removesuffix(".weight")
        for part, packed_shape in matrix.quantization.packed(shape).items():
            _check(path, readers, f"{module}.{part}", packed_shape, _PACKED[part])
            unknown.discard(f"{module}.{part}")
    if unknown:
        first = min(unknown)
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise Qwen35Error(
            f"{readers[first].file.path} has the unknown tensor '{first}'{more}: "
            "are config.json and the weights of the same model?"
        )


def _check(
    path: Path,
    readers: Mapping[str, RowReader],
    name: str,
    shape: tuple[int, ...],
    dtypes: tuple[mx.Dtype, ...],
) -> None:
    reader = readers.get(name)
    if reader is None:
        raise Qwen35Error(f"{path} has no tensor '{name}': {missing_tensor_advice(path)}")
    if reader.shape != shape:
        raise Qwen35Error(
            f"{reader.file.path}: tensor '{name}' has shape {list(reader.shape)} where "
            f"config.json asks for {list(shape)}: are they of the same model?"
        )
    if reader.dtype not in dtypes:
        raise Qwen35Error(
            f"{reader.file.path}: tensor '{name}' has the dtype {reader.file.stored_dtype}, "
            "which its layout does not have there: fetch the checkpoint again or choose another"
        )
