"""Ternary checkpoints with rotated matrices, model_type `prism_hadamard_qwen35`.

Matrices are packed with 2 bits in affine groups of 128, and the rows of most are rotated. The list
`modules` of config.json gives the path of each packed module and the block of its rotation (0: not
rotated); the tensor `<path>.signs` holds the signs. mlx-lm's model of that name defines the format:
schema 1 has the names of its text model, schema 2 those of mlx-vlm; paths are the same in both.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qwen35_mlx.checkpoint.safetensors import FileTensor
from qwen35_mlx.checkpoint.tensor_readers import Matrix, PackedMatrix, StoredRotation, WholeTensor
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.config import HADAMARD_MODEL_TYPE
from qwen35_mlx.model.weight_shapes import Shapes
from qwen35_mlx.untrusted_json import Fields

QUANTIZATION = Quantization(group_size=128, bits=2)
_NAMESPACES = {1: "mlx-lm-text", 2: "mlx-vlm-qwen3_5"}
_BLOCKS = (0, 512, 1024, 2048, 4096, 8192)
_EMBEDDING = "model.embed_tokens"
# Keys of config.json that describe the packing, and so not the plain model.
_PACK_KEYS = (
    *("schema_version", "tensor_namespace", "gdn_activation_layout", "modules"),
    *("quantization", "quantization_config"),
)


def blocks_by_module(config: Mapping[str, Any], shapes: Shapes) -> dict[str, int]:
    """The packed modules of a checkpoint by canonical name, each with its block; 0: not rotated.

    Args:
        config: config.json.
        shapes: of the plain tensors that the model needs.

    Returns:
        {} if the checkpoint is of another type.

    Raises:
        Qwen35Error: the pack is of an unknown schema, or its list of modules contradicts itself or
            the model.
    """
    if config.get("model_type") != HADAMARD_MODEL_TYPE:
        return {}
    _check_schema(config)
    modules = config.get("modules")
    if not isinstance(modules, list) or not modules:
        raise _error("'modules' is not a list of the packed modules", "fetch the file again")
    blocks: dict[str, int] = {}
    for i, record in enumerate(modules):
        if not isinstance(record, Mapping) or not isinstance(record.get("path"), str):
            raise _error(f"entry {i} of 'modules' names no module", "fetch the file again")
        path = record["path"]
        if path in blocks:
            raise _error(f"'modules' lists {shown(path)} twice", "fetch the file again")
        blocks[path] = _block(record, shapes.get(f"{path}.weight"))
    return blocks


def _check_schema(config: Mapping[str, Any]) -> None:
    newer = "look for a newer qwen35-mlx"
    schema = Fields(config, "config.json").whole("schema_version", 2)
    namespace = config.get("tensor_namespace")
    if _NAMESPACES.get(schema) != namespace:
        known = " or ".join(f"{number} with {name!r}" for number, name in _NAMESPACES.items())
        raise _error(
            f"schema_version {schema} with tensor_namespace {shown(namespace)} is not known here "
            f"({known} is)",
            newer,
        )
    layout = config.get("gdn_activation_layout", "grouped")
    if layout != "grouped":
        raise _error(f"gdn_activation_layout {shown(layout)} is not known here", newer)
    entry = config.get("quantization")
    wanted = {"group_size": 128, "bits": 2, "mode": "affine"}
    if not isinstance(entry, Mapping) or {"mode": "affine", **entry} != wanted:
        raise _error(
            f"quantization {shown(entry)} is not the affine 2 bits in groups of 128 of a "
            "Hadamard pack",
            newer,
        )


def _block(record: Mapping[str, Any], shape: tuple[int, ...] | None) -> int:
    """The block of one entry of `modules`, which must be a packed matrix of this plain shape."""
    path, block = record["path"], record.get("block")
    name = shown(path)
    if shape is None or len(shape) != 2:
        raise _error(
            f"'modules' lists {name}, which is no matrix of this model",
            "fetch the checkpoint again",
        )
    if record.get("embedding") is not (path == _EMBEDDING):
        raise _error(f"'modules' has a wrong 'embedding' for {name}", "fetch the file again")
    if record.get("dtype") != "float16":
        raise _error(
            f"'modules' gives {name} the dtype {shown(record.get('dtype'))}, and only float16 is "
            "known here",
            "look for a newer qwen35-mlx",
        )
    if type(block) is not int or block not in _BLOCKS:
        raise _error(
            f"'modules' gives {name} the block {shown(block)}, and only "
            f"{', '.join(map(str, _BLOCKS))} are known here",
            "look for a newer qwen35-mlx",
        )
    if shape[1] % QUANTIZATION.group_size or (block and shape[1] % block):
        raise _error(
            f"the {shape[1]} inputs of {name} are not a multiple of its block {block} and of 128",
            "fetch the checkpoint again",
        )
    return block


def _error(problem: str, advice: str) -> Qwen35Error:
    return Qwen35Error(f"config.json: {problem}: {advice}")


def rotated(module: str, matrix: Matrix, block: int, signs: FileTensor | None) -> Matrix:
    """The matrix of a listed module with its rotation.

    Args:
        module: canonical name.
        matrix: as the MLX format reads it.
        signs: the tensor `<module>.signs`; None if there is none.

    Raises:
        Qwen35Error: it is not packed, or has no signs, or signs of a wrong shape.
    """
    if not isinstance(matrix, PackedMatrix):
        raise _error(
            f"'modules' lists {module}, which is not packed in the files",
            "fetch the checkpoint again",
        )
    if not block:
        return matrix
    weight = matrix.parts["weight"].file
    if signs is None:
        raise Qwen35Error(
            f"{weight.path} has no tensor '{module}.signs', which 'modules' in config.json asks "
            "for: fetch the checkpoint again"
        )
    if signs.shape != matrix.shape[-1:]:
        raise Qwen35Error(
            f"{signs.path}: '{signs.name}' has shape {list(signs.shape)} where "
            f"{list(matrix.shape[-1:])} is needed: fetch the checkpoint again"
        )
    rotation = StoredRotation(block, WholeTensor(signs, signs.shape))
    return replace(matrix, rotation=rotation)


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the same model with plain weights; unchanged if it is of another type."""
    if config.get("model_type") != HADAMARD_MODEL_TYPE:
        return dict(config)
    text = Fields(config, "config.json").section("text_config").values or config
    plain = {key: value for key, value in config.items() if key not in _PACK_KEYS}
    return {**plain, "model_type": "qwen3_5_moe" if text.get("num_experts") else "qwen3_5"}
