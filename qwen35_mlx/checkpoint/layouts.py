"""From the tensors of Hugging Face and MLX files to matrices under canonical names.

What is done here is the same for every quantisation method: names, stacks of experts, norms and
convolutions. `Format` makes a matrix of the tensors that store it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.checkpoint.folder import missing_tensor_advice
from qwen35_mlx.checkpoint.names import EXPERTS, canonical_name, is_unread, split_part
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import (
    Matrix,
    OnePlus,
    StoredTensor,
    WholeTensor,
    plain,
    row_range,
    stack,
)
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.weight_shapes import is_zero_centred_norm

# The stored tensors of one weight, by the ends of their names.
Parts = Mapping[str, FileTensor]
# Makes a matrix of the parts of a module's weight. Returns it, or None if they are no weight, and
# the parts that do not belong to it.
Format = Callable[[str, Parts], tuple[Matrix | None, set[str]]]


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of a checkpoint.

    Attributes:
        matrices: by canonical name, that of the plain tensor; without the vision tower.
        unread: names in the files of tensors that the network does not need.
    """

    matrices: Mapping[str, Matrix]
    unread: tuple[str, ...]


def read_layout(
    files: Mapping[str, FileTensor], folder: Path, experts: int, tied: bool, read: Format
) -> Layout:
    """The matrices that the tensors of a folder's files make.

    Args:
        files: by the names in the files.
        experts: of a layer; each stack must have as many.
        tied: whether the embedding is the output head too, and a head of its own is not read.

    Raises:
        Qwen35Error: two tensors have one canonical name, or experts do not fit together.
    """
    modules, unread = _by_module(files, tied)
    zero_centred = _norms_are_zero_centred(files, modules)
    matrices: dict[str, Matrix] = {}
    stacks: dict[str, dict[int, Matrix]] = {}  # name -> expert -> its matrix

    def add(name: str, matrix: Matrix) -> None:
        other = matrices.setdefault(name, matrix)
        if other is not matrix:
            raise _twice(name, other.file, matrix.file)

    for module, parts in modules.items():
        match = EXPERTS.fullmatch(module)
        if match is None:
            for name, matrix in _matrices(module, parts, read):
                add(name, _network_form(name, matrix, zero_centred))
        elif match["projection"]:
            stack_name = f"{match['mlp']}.switch_mlp.{match['projection']}.weight"
            for name, matrix in _matrices(module, parts, read):
                if name == f"{module}.weight" and len(matrix.shape) == 2:
                    stacks.setdefault(stack_name, {})[int(match["expert"])] = matrix
                else:
                    add(name, matrix)
        elif any(len(part.shape) == 3 for part in parts.values()):
            for projection, stacked in _fused_experts(match["fused"], module, parts, read):
                name = f"{match['mlp']}.switch_mlp.{projection}.weight"
                add(name, _stack(name, stacked, experts, folder))
        else:
            for part, tensor in parts.items():
                add(f"{module}.{part}", WholeTensor(tensor, tensor.shape))
    for name, stacked in stacks.items():
        add(name, _stack(name, stacked, experts, folder))
    return Layout(matrices, tuple(unread))


def _by_module(
    files: Mapping[str, FileTensor], tied: bool
) -> tuple[dict[str, dict[str, FileTensor]], list[str]]:
    """The tensors that the text model may use, by module and part; and names of those unread."""
    modules: dict[str, dict[str, FileTensor]] = {}
    unread: list[str] = []
    for stored_name, tensor in files.items():
        name = canonical_name(stored_name)
        if name is None or (tied and name.startswith("lm_head.")):
            continue
        if is_unread(name):
            unread.append(stored_name)
            continue
        module, part = split_part(name)
        other = modules.setdefault(module, {}).setdefault(part, tensor)
        if other is not tensor:
            raise _twice(name, other, tensor)
    return modules, unread


def _matrices(module: str, parts: Parts, read: Format) -> Iterator[tuple[str, Matrix]]:
    """The weight of a module, and under names of their own the tensors that are no part of it."""
    matrix, rest = (None, set(parts)) if "" in parts else read(module, parts)
    if matrix is not None:
        yield f"{module}.weight", matrix
    for part in sorted(rest):
        name = f"{module}.{part}" if part else module
        yield name, WholeTensor(parts[part], parts[part].shape)


def _network_form(name: str, matrix: Matrix, zero_centred: bool) -> Matrix:
    """Convolutions in the shape of mlx-lm, and norms as 1 + w."""
    if not isinstance(matrix, WholeTensor):
        return matrix
    shape = matrix.shape
    if name.endswith(".conv1d.weight") and len(shape) == 3 and shape[1] == 1:
        return WholeTensor(matrix.file, (shape[0], shape[2], 1))
    return OnePlus(matrix) if zero_centred and is_zero_centred_norm(name) else matrix


def _norms_are_zero_centred(files: Mapping[str, FileTensor], modules: Mapping[str, Parts]) -> bool:
    """Whether the norms are stored as w, for (1 + w).

    They are wherever the convolutions have the layout of PyTorch, [channels, 1, kernel]: mlx-lm
    converts both. In a model without convolutions, mlx-lm's prefix decides.
    """
    convolutions = [
        parts["weight"]
        for module, parts in modules.items()
        if module.endswith(".conv1d") and "weight" in parts
    ]
    if convolutions:
        return any(tensor.shape[-1:] != (1,) for tensor in convolutions)
    return not any(stored_name.startswith("language_model.") for stored_name in files)


def _fused_experts(
    fused: str, module: str, parts: Parts, read: Format
) -> Iterator[tuple[str, dict[int, Matrix]]]:
    """The matrices of each expert, by projection, of tensors that hold those of all experts.

    Raises:
        Qwen35Error: the rows of gate and up together do not divide into two.
    """
    count = next(part.shape[0] for part in parts.values() if len(part.shape) == 3)
    matrices: dict[int, Matrix] = {}
    for expert in range(count):
        own = {
            name: part[expert] if part.shape[:1] == (count,) else part
            for name, part in parts.items()
        }
        matrix, rest = read(f"{module}.{expert}", own)
        if matrix is None or rest:
            tensor = parts[min(rest)]
            raise Qwen35Error(
                f"{tensor.path} has the unknown tensor '{tensor.name}': "
                "are config.json and the weights of the same model?"
            )
        matrices[expert] = matrix
    if fused != "gate_up_proj":
        yield fused, matrices
        return
    for half, projection in enumerate(("gate_proj", "up_proj")):
        yield projection, {e: _half(matrix, half) for e, matrix in matrices.items()}


def _half(matrix: Matrix, half: int) -> Matrix:
    rows = matrix.shape[0]
    if rows % 2:
        raise Qwen35Error(
            f"{matrix.file.path}: '{matrix.file.name}' has {rows} rows, which are not 2 matrices "
            "of equal size: fetch the checkpoint again"
        )
    return row_range(matrix, half * rows // 2, rows // 2)


def _stack(name: str, matrices: Mapping[int, Matrix], experts: int, folder: Path) -> Matrix:
    """The matrices of all experts, which must be there and alike."""
    for expert in range(max(experts, 1 + max(matrices, default=0))):
        if expert not in matrices:
            advice = missing_tensor_advice(folder)
            raise Qwen35Error(f"{folder} has no expert {expert} for '{name}': {advice}")
        first, other = plain(matrices[0]), plain(matrices[expert])
        if (other.shape, other.dtype) != (first.shape, first.dtype):
            raise Qwen35Error(
                f"{other.file.path}: '{other.file.name}' is {other.file.stored_dtype} "
                f"{list(other.shape)}, expert 0 is {first.file.stored_dtype} "
                f"{list(first.shape)}: fetch the file again"
            )
    return stack([matrices[expert] for expert in sorted(matrices)])


def _twice(name: str, one: StoredTensor, other: StoredTensor) -> Qwen35Error:
    return Qwen35Error(
        f"{one.path} and {other.path} both hold '{name}': "
        "remove the files that do not belong to this checkpoint"
    )
