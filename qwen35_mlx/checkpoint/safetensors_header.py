"""The header of a safetensors file, parsed and checked in this module only.

The format: a little-endian u64 with the header's length, a JSON header that gives each tensor's
dtype, shape and byte offsets, then the bytes (https://github.com/huggingface/safetensors). No
tensor data is read here, and no MLX is needed.
"""

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from typing import Any

from qwen35_mlx.errors import shown
from qwen35_mlx.files import one_line, read_exactly
from qwen35_mlx.untrusted_json import parse_json

# The limit of the format's reference implementation.
MAX_HEADER_BYTES = 100_000_000
# Beyond any real tensor; the product of a million sizes would take minutes to compute.
MAX_RANK = 16
MAX_NAME = 512


class HeaderError(Exception):
    """A file is not an intact safetensors file.

    The message continues a sentence that begins with the file's name: "is truncated (...)".

    Attributes:
        advice: the next step, for an error line.
    """

    def __init__(self, problem: str, advice: str = "fetch it again"):
        super().__init__(problem)
        self.advice = advice


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a header.

    Attributes:
        dtype: as the format spells it, such as "BF16". It need not be one that is known here.
        shape: as stored.
        begin: of its bytes, counted from the end of the header.
        end: one past its last byte, counted likewise.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """A checked header.

    Attributes:
        text: the JSON as stored, with its padding.
        metadata: the object `__metadata__`, {} if there is none. Its values are not checked.
        tensors: by name, in the order of the file. Their bytes lie in the file, without overlap.
    """

    text: bytes
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]

    @property
    def data_start(self) -> int:
        """Offset in the file of the first byte of tensor data."""
        return 8 + len(self.text)


def read_header(
    file: FileIO, max_bytes: int = MAX_HEADER_BYTES, *, size: int | None = None
) -> SafetensorsHeader:
    """Read and check the header of an open file.

    Args:
        max_bytes: a longer header is refused.
        size: of the file that the header belongs to; None for that of this file.

    Raises:
        HeaderError: it is not a safetensors file, truncated, or contradicts itself.
        OSError: it cannot be read.
    """
    if size is None:
        size = os.fstat(file.fileno()).st_size
    start = os.pread(file.fileno(), 8, 0)
    if start == b"version ":
        raise HeaderError(
            "is a Git LFS pointer, not weights", advice="run `git lfs pull` in its folder"
        )
    length = int.from_bytes(start, "little")
    if len(start) < 8 or (length <= max_bytes and 8 + length > size):
        raise HeaderError(f"is truncated ({size} bytes, within its header)")
    if length > max_bytes:
        raise HeaderError(f"is not a safetensors file (a header of {length} bytes)")
    try:
        text = _read_text(file, length)
    except EOFError:
        raise HeaderError("became shorter while its header was read") from None
    return _parse(text, data_bytes=size - 8 - length)


def _read_text(file: FileIO, length: int) -> bytes:
    text = bytearray(length)
    read_exactly(file, memoryview(text), offset=8)
    return bytes(text)


def encode_header(
    metadata: Mapping[str, str],
    tensors: Mapping[str, TensorEntry],
    separators: tuple[str, str] = (", ", ": "),
) -> bytes:
    """The JSON text of a header, without its length.

    Args:
        separators: as for `json.dumps`.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [tensor.begin, tensor.end],
        }
    text = json.dumps(header, separators=separators).encode()
    # The format aligns the first tensor to 8 bytes, with spaces.
    return text + b" " * (-len(text) % 8)


def _parse(text: bytes, data_bytes: int) -> SafetensorsHeader:
    try:
        header = parse_json(text.decode("utf-8"))
    except ValueError as error:
        raise HeaderError(f"has an unreadable safetensors header ({one_line(error)})") from error
    if not isinstance(header, dict):
        raise HeaderError("has a safetensors header that is not an object")
    metadata = header.pop("__metadata__", None)
    # Experts one by one are ten thousands of tensors of a few shapes and dtypes.
    shared: dict[Any, Any] = {}
    tensors = {name: _tensor_entry(name, fields, shared) for name, fields in header.items()}
    for name, tensor in tensors.items():
        if tensor.end > data_bytes:
            start = 8 + len(text)
            raise HeaderError(
                f"is truncated: tensor '{name}' ends at byte {start + tensor.end} of "
                f"{start + data_bytes}"
            )
    filled = [item for item in tensors.items() if item[1].end > item[1].begin]
    filled.sort(key=lambda item: item[1].begin)
    for (name, tensor), (next_name, next_tensor) in itertools.pairwise(filled):
        if next_tensor.begin < tensor.end:
            raise HeaderError(f"has a bad header: tensors '{name}' and '{next_name}' overlap")
    return SafetensorsHeader(text, metadata if isinstance(metadata, dict) else {}, tensors)


def _tensor_entry(name: str, fields: Any, shared: dict[Any, Any]) -> TensorEntry:
    """The checked entry of a tensor; equal shapes and dtypes in `shared` are one object."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise HeaderError(f"has a bad header: {shown(name)} is no name of a tensor")
    fields = fields if isinstance(fields, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    valid = (isinstance(dtype, str) and _naturals(shape) and _naturals(offsets)) and (
        len(shape) <= MAX_RANK and len(offsets) == 2 and offsets[0] <= offsets[1]
    )
    if not valid:
        raise HeaderError(f"has a bad header: the entry of tensor '{name}' is damaged")
    sizes = tuple(shape)
    dtype, sizes = shared.setdefault(dtype, dtype), shared.setdefault(sizes, sizes)
    return TensorEntry(dtype, sizes, *offsets)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
