"""The multi-token-prediction (MTP) head of a checkpoint, wherever it is stored.

It is found, in this order,

- among the tensors of the model, as `mtp.*`;
- in a file beside them: `mtp.safetensors`, `model-mtp.safetensors`, and others of such names,
  whether the index names it or not;
- in a folder `mtp` in that of the model, perhaps with a config.json of its own;
- in a folder or a repository of its own beside the model's, of the same name with `-MTP` in it.

Names may lack the prefix `mtp.`, as in repositories of the model type `qwen3_5_mtp`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.formats.matrices import read_matrix
from qwen35_mlx.checkpoint.formats.method import MODELOPT_CONFIG, Method, read_method
from qwen35_mlx.checkpoint.gguf.file import open_gguf
from qwen35_mlx.checkpoint.gguf.names import model_tensors
from qwen35_mlx.checkpoint.gguf_names import is_gguf_file
from qwen35_mlx.checkpoint.index import CONFIG, is_head_file, read_index
from qwen35_mlx.checkpoint.layouts import Parts, read_layout
from qwen35_mlx.checkpoint.mtp_norms import NormReading, infer_raw_norms
from qwen35_mlx.checkpoint.names import canonical_name
from qwen35_mlx.checkpoint.safetensors import (
    FileTensor,
    RemoteFile,
    list_tensors,
    read_metadata,
)
from qwen35_mlx.checkpoint.tensor_readers import Matrix, OnePlus, PackedMatrix, plain
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import is_zero_centred_norm, mtp_tensors
from qwen35_mlx.user_paths import is_dir, is_file

FOLDER = "mtp"
# In the metadata of a safetensors file that this project wrote: how it stores the head's norms.
NORMS_KEY = "norms"
RAW_NORMS, GAINS = "w", "1 + w"

_PREFIXES = ("mtp.", "model.", "language_model.")
_SHARED = ("embed_tokens.", "lm_head.")
_OTHER_WEIGHTS = ("consolidated", "adapter")
# Ends of a repository's name that say how its weights are stored.
_STORAGE = re.compile(
    r"[-_.](?:mlx|mtp|optiq|dwq|\d+bit|q\d|bf16|fp16|f16|fp8|mxfp4|mxfp8|nvfp4|gs\d+)(?=[-_.]|$)"
)
_HUB_FOLDER = "models--"


@dataclass(frozen=True, slots=True)
class Trunk:
    """What reading a head depends on.

    Attributes:
        path: the folder of the checkpoint, or its GGUF file.
        model: of both.
        method: how the trunk is quantised.
        inner: the head's tensors in the files of the trunk, by the names in the files.
        files: of the trunk.
        raw_norms: whether the trunk's norms are stored as w.
        final_norm: the trunk's, as the network reads it.
        check: raises `Qwen35Error` if matrices read from a path are not those of a head.
        remote: the files of which only the header is here.
    """

    path: Path
    model: ModelConfig
    method: Method | None
    inner: Mapping[str, FileTensor]
    files: tuple[Path, ...]
    raw_norms: bool
    final_norm: Matrix | None
    check: Callable[[Path, Mapping[str, Matrix]], None]
    remote: Mapping[Path, RemoteFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Head:
    """An MTP head.

    Attributes:
        matrices: by canonical name, as the network reads them.
        norms: how its norms are read.
        files: that hold it.
        unread: names in the files of tensors that the network does not need.
        notes: lines for the user.
    """

    matrices: Mapping[str, Matrix]
    norms: NormReading
    files: tuple[Path, ...]
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Stored:
    """The tensors of a head on disk.

    Attributes:
        tensors: by the names in the files.
        method: how they are quantised.
        raw_norms: whether its norms are stored as w; None if only their values tell.
    """

    tensors: Mapping[str, FileTensor]
    method: Method | None
    raw_norms: bool | None


def find_head(trunk: Trunk) -> tuple[Head | None, tuple[str, ...]]:
    """The head of a checkpoint, if it has one that can be read, and lines for the user.

    A head that cannot be read costs no more than a line.
    """
    notes: list[str] = []
    for path, stored in _places(trunk):
        try:
            head = _read(trunk, path, stored())
        except Qwen35Error as error:
            notes.append(f"an MTP head is left out: {error}")
            continue
        if trunk.path not in (path, *path.parents):
            notes.append(f"the MTP head is that of {path}")
        return head, tuple(notes)
    return None, tuple(notes)


def read_given_head(trunk: Trunk, path: Path) -> Head:
    """The head that a user names.

    Args:
        path: a folder, or a safetensors or GGUF file.

    Raises:
        Qwen35Error: it has no head, or not one of this trunk.
    """
    if is_dir(path):
        return _read(trunk, path, _in_folder(trunk, path))
    if is_gguf_file(path):
        tensors, _ = model_tensors(open_gguf(path), trunk.model)
        matrices = {name: tensor for name, tensor in tensors.items() if name.startswith("mtp.")}
        if not matrices:
            raise _no_head(path)
        trunk.check(path, matrices)
        return Head(matrices, NormReading(frozenset(), certain=True), (path,))
    return _read(trunk, path, _in_files(trunk, [path], trunk.method))


def with_norms(matrices: Mapping[str, Matrix], raw: frozenset[str]) -> dict[str, Matrix]:
    """The matrices of a head or a checkpoint, with the head's norms in `raw` read as w."""
    found = dict(matrices)
    for name, matrix in matrices.items():
        is_norm = name.startswith("mtp.") and is_zero_centred_norm(name)
        if is_norm and not isinstance(matrix, PackedMatrix):
            stored = matrix.stored if isinstance(matrix, OnePlus) else matrix
            found[name] = OnePlus(stored) if name in raw else stored
    return found


def head_norms(model: ModelConfig) -> frozenset[str]:
    """Canonical names of a head's norms (1 + w)."""
    return frozenset(filter(is_zero_centred_norm, mtp_tensors(model)))


def _places(trunk: Trunk) -> Iterator[tuple[Path, Callable[[], _Stored]]]:
    """Where the head may be, the likeliest first."""
    path = trunk.path
    raw = True if trunk.raw_norms else None
    if trunk.inner:
        yield path, lambda: _Stored(trunk.inner, trunk.method, raw)
    if not is_dir(path):
        return
    indexed = set((read_index(path) or {}).values())
    beside = set(path.glob("*.safetensors")) - set(trunk.files)
    if files := sorted(file for file in beside if is_head_file(file.name)):
        of_trunk = raw if all(file.name in indexed for file in files) else None
        yield files[0], lambda: _in_files(trunk, files, trunk.method, of_trunk)
    elif missing := [name for name in sorted(indexed) if is_head_file(name)]:
        yield path, lambda: _in_files(trunk, [path / name for name in missing], trunk.method)
    for folder in (path / FOLDER, *_siblings(path)):
        if is_dir(folder) and any(folder.glob("*.safetensors")):
            yield folder, lambda folder=folder: _in_folder(trunk, folder)


def _siblings(path: Path) -> list[Path]:
    """Folders beside a checkpoint, or repositories of its owner in the Hub's cache, of its head.

    Their names are the checkpoint's with MTP in them, and may differ in how weights are stored.
    """
    in_cache = path.parent.name == "snapshots" and path.parents[1].name.startswith(_HUB_FOLDER)
    own = path.parents[1] if in_cache else path.absolute()
    try:
        names = sorted(folder.name for folder in own.parent.iterdir() if _has_mtp(folder.name))
    except OSError:
        return []
    stem = _STORAGE.sub("", own.name.lower())
    names = [name for name in names if name != own.name and _STORAGE.sub("", name.lower()) == stem]
    # The one without a word on its storage is the likeliest, then those that say least.
    folders = [own.parent / name for name in sorted(names, key=len)]
    if not in_cache:
        return folders
    found: list[Path] = []
    for folder in folders:
        found += sorted(folder.glob("snapshots/*"))[-1:]
    return found


def _has_mtp(name: str) -> bool:
    return bool(re.search(r"[-_.]mtp(?=[-_.]|$)", name.lower()))


def _in_folder(trunk: Trunk, folder: Path) -> _Stored:
    """The head in a folder that may have a config.json of its own."""
    files = [
        file
        for file in sorted(folder.glob("*.safetensors"))
        if not file.name.startswith(_OTHER_WEIGHTS)
    ]
    if not files:
        raise _no_head(folder)
    if not is_file(folder / CONFIG):
        return _in_files(trunk, files, trunk.method)
    config = read_json_object(folder / CONFIG)
    method = read_method(config, read_json_object(folder / MODELOPT_CONFIG))
    return _in_files(trunk, files, method)


def _in_files(
    trunk: Trunk, files: list[Path], method: Method | None, raw_norms: bool | None = None
) -> _Stored:
    tensors: dict[str, FileTensor] = {}
    for file in files:
        remote = trunk.remote.get(file)
        for name, tensor in list_tensors(file, remote).items():
            if name in tensors:
                raise Qwen35Error(
                    f"{tensors[name].path} and {file} both hold '{name}': remove one of them"
                )
            tensors[name] = tensor
        said = read_metadata(file, remote).get(NORMS_KEY)
        if said in (RAW_NORMS, GAINS):
            raw_norms = said == RAW_NORMS
    return _Stored(tensors, method, raw_norms)


def _full_name(name: str) -> str:
    """The canonical name of a head's tensor, whatever its prefix."""
    while prefix := next((p for p in _PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return f"mtp.{name}"


def _read(trunk: Trunk, path: Path, stored: _Stored) -> Head:
    """The head that the tensors at a path make.

    Raises:
        Qwen35Error: a tensor is missing, unknown, of a wrong shape, damaged, or quantised in a way
            that is not supported.
    """
    tensors, notes = _head_tensors(trunk.model, path, stored.tensors)
    shapes = mtp_tensors(trunk.model)

    def read(module: str, parts: Parts) -> tuple[Matrix, list[str]]:
        shape = shapes.get(f"{module}.weight")
        return read_matrix(module, parts, stored.method, shape[-1] if shape else None)

    layout = read_layout(tensors, path, trunk.model.num_experts, read, zero_centred=False)
    trunk.check(path, layout.matrices)
    names = head_norms(trunk.model)
    if stored.raw_norms is not None:
        norms = NormReading(names if stored.raw_norms else frozenset(), certain=True)
    else:
        values = {name: _values(layout.matrices[name]) for name in names}
        raw = infer_raw_norms(values, _final_gain(trunk))
        norms = NormReading(raw, certain=False)
    files = tuple(sorted({tensor.path for tensor in tensors.values()}))
    return Head(with_norms(layout.matrices, norms.raw), norms, files, layout.unread, notes)


def _head_tensors(
    model: ModelConfig, path: Path, stored: Mapping[str, FileTensor]
) -> tuple[dict[str, FileTensor], tuple[str, ...]]:
    """The tensors of a head by canonical name, without its copies of what it shares, and lines.

    Where some names have the prefix `mtp.`, tensors without it are of a trunk, and are not read.
    """
    names = {name: canonical_name(name) for name in stored}
    prefixed = {name for name, own in names.items() if own and own.startswith("mtp.")}
    shared = (model.vocab_size, model.hidden_size)
    tensors: dict[str, FileTensor] = {}
    notes: list[str] = []
    for name, tensor in stored.items():
        own = names[name]
        if own is None:
            continue
        full = _full_name(own)
        if full.removeprefix("mtp.").startswith(_SHARED):
            if full.endswith(".weight") and tensor.stored_dtype != "U32" and tensor.shape != shared:
                notes.append(
                    f"'{name}' of the MTP head in {path} is {list(tensor.shape)} where the model "
                    f"has {list(shared)}: the model's own is used"
                )
        elif not prefixed or name in prefixed:
            other = tensors.setdefault(full, tensor)
            if other is not tensor:
                raise Qwen35Error(
                    f"{path}: '{other.name}' and '{name}' are one tensor, '{full}': remove one"
                )
    if not any(name.startswith("mtp.fc.") for name in tensors):
        raise _no_head(path)
    return tensors, tuple(notes)


def _final_gain(trunk: Trunk) -> np.ndarray:
    """1 + w of the trunk's final norm; NaN if the trunk is not complete, which `verify` says."""
    norm = trunk.final_norm
    if norm is None or norm.shape != (trunk.model.hidden_size,):
        return np.full(1, np.nan)
    return _values(norm)


def _values(matrix: Matrix) -> np.ndarray:
    return np.array(plain(matrix).read(0, matrix.shape[0]).astype(mx.float32))


def _no_head(path: Path) -> Qwen35Error:
    return Qwen35Error(
        f"{path} has no MTP head (no tensor 'mtp.fc.weight'): give the folder or the file of one"
    )
