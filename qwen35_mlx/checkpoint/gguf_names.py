"""What is a GGUF file, and what its name says: parts of a model, quantisation, no model. No MLX.

The conventions are llama.cpp's: a model is split into `NAME-00001-of-00003.gguf` and so on, the
quantisation is the last word of the name, and projectors and draft models begin with their kind.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from qwen35_mlx.files import open_regular
from qwen35_mlx.user_paths import is_dir, is_file

SUFFIX = ".gguf"
MAGIC = b"GGUF"
# The one that is taken if a repository has several and none is asked for, the first found.
DEFAULT_QUANTIZATIONS = ("Q4_K_M", "Q8_0")
MAX_PARTS = 1000

_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})", re.IGNORECASE)
_QUANTIZATION = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d|TQ\d|PT?Q\d|BF16|F16|F32|MXFP\d|NVFP\d)[A-Z0-9_]*)$",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(r".*(mmproj|imatrix).*|(mtp|eagle3|dflash|dspark)-.*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A model in one GGUF file, or split into several.

    Attributes:
        parts: all files of it, in order, whether or not they exist.
        missing: those of `parts` that do not exist.
    """

    parts: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The first part, which stands for the model."""
        return self.parts[0]

    @property
    def quantization(self) -> str:
        """As in the name, in capitals, such as "UD-Q4_K_XL"; "" if the name has none."""
        stem = PurePosixPath(self.file).name[: -len(SUFFIX)]
        if split := _SPLIT.fullmatch(stem):
            stem = split[1]
        found = _QUANTIZATION.search(stem)
        return found[1].upper() if found else ""


def is_gguf(name: str) -> bool:
    """Whether a file has the name of a GGUF file, for one that is not here or not the user's."""
    return name.lower().endswith(SUFFIX)


def is_gguf_file(path: Path) -> bool:
    """Whether a path is that of a GGUF file: by its name, or by its first bytes if that is open."""
    if is_gguf(path.name):
        return not is_dir(path)
    if path.suffix == ".safetensors" or not is_file(path):
        return False
    try:
        with open_regular(path) as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def parts_of(file: str) -> tuple[str, ...]:
    """All parts of the model that a file is a part of; the file alone if it is not split."""
    if not is_gguf(file):
        return (file,)
    stem, suffix = file[: -len(SUFFIX)], file[-len(SUFFIX) :]
    split = _SPLIT.fullmatch(stem)
    if split is None or not 1 <= int(split[2]) <= int(split[3]) <= MAX_PARTS:
        return (file,)
    total = split[3]
    return tuple(
        f"{split[1]}-{number:05d}-of-{total}{suffix}" for number in range(1, int(total) + 1)
    )


def models_among(files: Iterable[str]) -> list[GgufModel]:
    """The models that files are the parts of, by name. Other files are left out.

    Args:
        files: names, or paths with `/` between folders.
    """
    present = {file for file in files if is_gguf(file)}
    found = {
        parts_of(file) for file in present if not _NO_MODEL.fullmatch(PurePosixPath(file).name)
    }
    return [
        GgufModel(parts, tuple(part for part in parts if part not in present))
        for parts in sorted(found)
    ]


def matching(models: Collection[GgufModel], quantization: str = "") -> list[GgufModel]:
    """The models of a quantisation.

    "Q4_K_M" stands for "UD-Q4_K_M" too, if there is no other. Without a quantisation: the only
    model, or those of the first of `DEFAULT_QUANTIZATIONS` that there is.
    """
    if not quantization:
        if len(models) == 1:
            return list(models)
        choices = (matching(models, default) for default in DEFAULT_QUANTIZATIONS)
        return next(filter(None, choices), [])
    for wanted in (quantization.upper(), f"UD-{quantization.upper()}"):
        if found := [model for model in models if model.quantization == wanted]:
            return found
    return []
