"""From the tensors of Hugging Face and MLX files to matrices under canonical names.

What is done here is the same for every quantisation method: names, stacks of experts, norms and
convolutions. `Format` makes a matrix of the tensors that store it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.checkpoint.folder import missing_tensor_advice
from qwen35_mlx.checkpoint.formats.matrices import ACTIVATION_PARTS, split_name
from qwen35_mlx.checkpoint.names import EXPERTS, canonical_name
from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import (
    Matrix,
    OnePlus,
    StoredTensor,
    WholeTensor,
    row_range,
    stack,
)
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.weight_shapes import is_zero_centred_norm

# The stored tensors of one weight, by the ends of their names.
Parts = Mapping[str, FileTensor]
# Makes a matrix of the parts of a module's weight. Returns it, and those that it does not need.
Format = Callable[[str, Parts], tuple[Matrix, list[str]]]

# Parts that tensors of all experts may share.
_OF_ALL_EXPERTS = ("weight_shape", "g_idx", "weight_g_idx")


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of a checkpoint.

    Attributes:
        matrices: by canonical name, that of the plain tensor; without the vision tower.
        unread: names in the files of tensors that the network does not need.
        zero_centred: whether the files hold w of the norms, for (1 + w).
    """

    matrices: Mapping[str, Matrix]
    unread: tuple[str, ...]
    zero_centred: bool


def read_layout(
    files: Mapping[str, FileTensor],
    folder: Path,
    experts: int,
    read: Format,
    zero_centred: bool | None = None,
) -> Layout:
    """The matrices that the tensors of a folder's files make.

    Args:
        files: by the names in the files.
        experts: of a layer; each stack must have as many.
        zero_centred: whether the files hold w of the norms; None to decide by the other tensors.

    Raises:
        Qwen35Error: two tensors have one canonical name, or experts do not fit together.
    """
    modules, bare = _by_module(files)
    if zero_centred is None:
        zero_centred = _norms_are_zero_centred(files, modules)
    matrices: dict[str, Matrix] = {}
    stacks: dict[str, dict[int, Matrix]] = {}  # name -> expert -> its matrix
    unread: list[str] = []

    def add(name: str, matrix: Matrix) -> None:
        other = matrices.setdefault(name, matrix)
        if other is not matrix:
            raise _twice(name, other.file, matrix.file)

    def matrix_of(module: str, parts: Parts) -> Matrix:
        matrix, unused = read(module, parts)
        unread.extend(parts[part].name for part in unused)
        return matrix

    for module, parts in modules.items():
        match = EXPERTS.fullmatch(module)
        if ACTIVATION_PARTS.issuperset(parts):
            unread += [tensor.name for tensor in parts.values()]
        elif match is None:
            name = f"{module}.weight"
            add(name, _network_form(name, matrix_of(module, parts), zero_centred))
        elif match["projection"]:
            name = f"{match['mlp']}.switch_mlp.{match['projection']}.weight"
            stacks.setdefault(name, {})[int(match["expert"])] = matrix_of(module, parts)
        else:
            own = parts_of_experts(parts, experts)
            fused = {expert: matrix_of(f"{module}.{expert}", own[expert]) for expert in own}
            for projection, stacked in _projections(match["fused"], fused):
                name = f"{match['mlp']}.switch_mlp.{projection}.weight"
                add(name, _stack(name, stacked, experts, folder))
    for name, tensor in bare.items():
        add(name, WholeTensor(tensor, tensor.shape))
    for name, stacked in stacks.items():
        add(name, _stack(name, stacked, experts, folder))
    # A stack's are there once for each expert.
    return Layout(matrices, tuple(dict.fromkeys(unread)), zero_centred)


def _by_module(
    files: Mapping[str, FileTensor],
) -> tuple[dict[str, dict[str, FileTensor]], dict[str, FileTensor]]:
    """The tensors of the text model by module and part, and those that are no part of one."""
    modules: dict[str, dict[str, FileTensor]] = {}
    bare: dict[str, FileTensor] = {}
    for stored_name, tensor in files.items():
        name = canonical_name(stored_name)
        if name is None:
            continue
        module, part = split_name(name) or ("", name)
        place = modules.setdefault(module, {}) if module else bare
        other = place.setdefault(part, tensor)
        if other is not tensor:
            raise _twice(name, other, tensor)
    return modules, bare


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


def parts_of_experts(parts: Parts, experts: int) -> dict[int, Parts]:
    """The tensors of each expert, of tensors that hold those of all experts.

    Raises:
        Qwen35Error: no tensor is a stack of so many matrices.
    """
    if not any(len(tensor.shape) == 3 and tensor.shape[0] == experts for tensor in parts.values()):
        tensor = max(parts.values(), key=lambda tensor: len(tensor.shape))
        raise Qwen35Error(
            f"{tensor.path}: '{tensor.name}' has the shape {list(tensor.shape)}, which is no stack "
            f"of matrices for {experts} experts: are config.json and the weights of the same model?"
        )

    def own(name: str, tensor: FileTensor, expert: int) -> FileTensor:
        shared = name in _OF_ALL_EXPERTS and len(tensor.shape) < 2
        return tensor if shared or tensor.shape[:1] != (experts,) else tensor[expert]

    return {
        expert: {name: own(name, tensor, expert) for name, tensor in parts.items()}
        for expert in range(experts)
    }


def _projections(
    fused: str, matrices: Mapping[int, Matrix]
) -> Iterator[tuple[str, dict[int, Matrix]]]:
    """The matrices of experts by projection: gate and up may be in one, gate first."""
    if fused != "gate_up_proj":
        yield fused, dict(matrices)
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
        first, other = matrices[0], matrices[expert]
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
