"""Which files the weights of a checkpoint folder are in. No MLX."""

import os
import re
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import read_json_object

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
INDEX = "model.safetensors.index.json"
# The file of a checkpoint that has no shards.
WHOLE = "model.safetensors"
# Of a file name; no file system takes much more.
MAX_NAME_BYTES = 250
_HEAD_FILE = re.compile(r"(?:.*[-_.])?mtp(?:[-_.].*)?\.safetensors", re.IGNORECASE | re.DOTALL)


def is_head_file(name: str) -> bool:
    """Whether a file has the name of one for the MTP head, such as model-mtp.safetensors."""
    return bool(_HEAD_FILE.fullmatch(name))


def read_index(path: Path) -> dict[str, str] | None:
    """Tensor names to file names, from the index of a checkpoint folder.

    None if it has none, or a left-over one: as in transformers, model.safetensors is the whole
    checkpoint where an index does not name it.

    Raises:
        Qwen35Error: the index is damaged, or names a file that is missing or is not in the folder.
            That of the MTP head may be missing.
    """
    index = path / INDEX
    if not os.path.lexists(index):
        return None
    owners = read_json_object(index).get("weight_map")
    if not isinstance(owners, dict) or not all(isinstance(name, str) for name in owners.values()):
        raise Qwen35Error(f"{index} has no weight_map of tensors to files: fetch it again")
    for name in sorted(set(owners.values())):
        if not _is_weight_file(name):
            raise Qwen35Error(
                f"{index} names the file {shown(name)}, which is outside its folder or has no "
                "name of a safetensors file: fetch it again"
            )
    if WHOLE not in owners.values() and _exists(path / WHOLE):
        return None
    for name in sorted(set(owners.values())):
        if not _exists(path / name) and not is_head_file(name):
            raise Qwen35Error(
                f"{path / name} is missing, which {INDEX} names: "
                "fetch it, or delete the index if it is out of date"
            )
    return owners


def index_notes(path: Path) -> tuple[str, ...]:
    """A line for the user if the folder has an index that is not read."""
    if not os.path.lexists(path / INDEX) or read_index(path) is not None:
        return ()
    return (
        f"{WHOLE} is read; {INDEX} and the files that it names are not, as it does not name it",
    )


def weight_bytes(path: Path) -> int:
    """Bytes of all *.safetensors files in a folder.

    Raises:
        Qwen35Error: there is none, or one cannot be found, such as a link to nothing.
    """
    try:
        sizes = [file.stat().st_size for file in path.glob("*.safetensors")]
    except OSError as error:
        raise Qwen35Error(
            f"{error.filename} cannot be read ({error.strerror}): download it again"
        ) from error
    if not sizes:
        raise Qwen35Error(f"{path} has no weights: download the checkpoint again")
    return sum(sizes)


def _is_weight_file(name: str) -> bool:
    """Whether an index may name this file: a printable name, without a folder."""
    return (name.endswith(".safetensors") and name.isprintable() and "/" not in name) and len(
        os.fsencode(name)
    ) <= MAX_NAME_BYTES


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # of a folder that may not be searched
        return False
