"""A LoRA adapter as a whole, whatever program wrote it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from qwen35_mlx.checkpoint.adapters.low_rank import Change, FusedMatrix, RecentFactors
from qwen35_mlx.checkpoint.formats.matrices import read_matrix
from qwen35_mlx.checkpoint.layouts import read_layout
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import Matrix, PackedMatrix, StoredTensor
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.model.weight_shapes import Shapes

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
# Of an adapter; far more than any has, and little beside the matrix that it changes.
MAX_RANK = 1 << 14


@dataclass(frozen=True, slots=True)
class Target:
    """The model that an adapter is read for.

    Attributes:
        shapes: of its plain tensors, by canonical name.
        experts: of a layer; 0 if dense.
        tied: whether the embeddings are the output head, too.
    """

    shapes: Shapes
    experts: int
    tied: bool


@dataclass(frozen=True, slots=True)
class Adapter:
    """Changes of a model's tensors.

    Attributes:
        file: that holds them.
        changes: low-rank ones, by canonical name.
        replaced: what takes the place of the model's tensors, before `changes`, by canonical name.
        left_out: names in the file of tensors of the vision tower.
        base: the model that it was trained on, as the adapter names it; "" if it does not.
    """

    file: Path
    changes: Mapping[str, Change]
    replaced: Mapping[str, Matrix]
    left_out: Sequence[str] = ()
    base: str = ""

    def fuse(self, matrices: Mapping[str, Matrix], shapes: Shapes) -> dict[str, Matrix]:
        """The matrices of a model with all changes.

        Args:
            shapes: of the model's plain tensors.

        Raises:
            Qwen35Error: the model lacks a tensor that is changed, or has it in another shape.
        """
        fused, recent = dict(matrices), RecentFactors()
        for name, matrix in self.replaced.items():
            if name not in matrices:
                raise no_target(matrix.file, name, self.base)
            if matrix.shape != shapes[name] or matrix.dtype not in FLOATS:
                raise misfit(matrix.file, name, shapes[name], self.base)
            fused[name] = matrix
        for name, change in self.changes.items():
            if name not in matrices:
                raise no_target(change.file, name, self.base)
            fused[name] = FusedMatrix.of(fused[name], change, recent)
        return fused

    def note(self, matrices: Mapping[str, Matrix]) -> str:
        """A line for the user.

        Args:
            matrices: of the model, without the changes.
        """
        names = {*self.changes, *self.replaced}
        line = f"the adapter {self.file} is applied: it changes {len(names)} tensors"
        packed = [one for name in names if isinstance(one := matrices[name], PackedMatrix)]
        if packed:
            parts = [part for one in packed for part in one.parts.values()]
            before = sum(math.prod(part.shape) * part.dtype.size for part in parts)
            after = sum(math.prod(one.shape) * one.dtype.size for one in packed)
            line += (
                f"; {len(packed)} are quantised in the model ({before / 1e9:.2f} GB), and plain "
                f"once they are loaded ({after / 1e9:.2f} GB)"
            )
        if self.left_out:
            line += f"; {len(self.left_out)} of the vision tower are not read"
        return line


def read_replacements(
    tensors: Mapping[str, FileTensor], folder: Path, experts: int
) -> Mapping[str, Matrix]:
    """Whole tensors of an adapter, by canonical name, as `read_layout` reads those of a model.

    Args:
        tensors: by the names that they have in a checkpoint.

    Raises:
        Qwen35Error: they do not fit together.
    """
    if not tensors:
        return {}
    return read_layout(
        tensors, folder, experts, lambda module, parts: read_matrix(module, parts, None)
    ).matrices


def no_target(file: StoredTensor, name: str, base: str) -> Qwen35Error:
    return Qwen35Error(
        f"{file.path}: '{file.name}' changes '{name}', which this model does not have: "
        f"{_other_model(base)}"
    )


def misfit(file: StoredTensor, name: str, shape: Sequence[int], base: str) -> Qwen35Error:
    return Qwen35Error(
        f"{file.path}: '{file.name}' is {file.stored_dtype} {list(file.shape)}, which does not fit "
        f"'{name}' {list(shape)}: {_other_model(base)}"
    )


def _other_model(base: str) -> str:
    named = f", {shown(base)}" if base else ""
    return f"apply the adapter to the model that it was trained on{named}"
