"""What stored snapshots belong to: one network, computing in one way."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from io import FileIO
from pathlib import Path

from qwen35_mlx.checkpoint.gguf.header import read_header as read_gguf_header
from qwen35_mlx.checkpoint.gguf_names import is_gguf_file
from qwen35_mlx.checkpoint.index import ADAPTER_CONFIG
from qwen35_mlx.checkpoint.safetensors_header import HeaderError, read_header
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import open_regular, read_bytes
from qwen35_mlx.model.config import ModelConfig, Shard

# Bytes that are hashed at the start, at the middle and at the end of every tensor.
SAMPLE_BYTES = 512
# Of a network, and of a process's part of it.
_NAME = re.compile(r"[0-9a-f]+(?:-\d{1,4}of(\d{1,4})(?:-layers)?)?")


def of_weights(files: Sequence[Path]) -> str:
    """A hash of the files of a model: their names, sizes, headers, and samples of every tensor.

    Hashing all of 20 GB would take longer than loading them. Training, converting and quantising
    change every matrix, which the samples show; a change of a few values in place goes unseen.

    Args:
        files: safetensors or GGUF.

    Raises:
        Qwen35Error: a file cannot be read, or is not intact.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(files):
        _add_weights(digest, file)
    return digest.hexdigest()


def of_checkpoint(files: Sequence[Path], adapter: Path | None) -> str:
    """A hash of the files of a model and of the adapter that is applied. Errors: `of_weights`."""
    return of_weights(files) + ("" if adapter is None else of_adapter(adapter))


def of_adapter(file: Path) -> str:
    """A hash of an adapter: its settings, and of its safetensors file what `of_weights` hashes.

    Raises:
        Qwen35Error: as `of_weights`.
    """
    digest = hashlib.blake2b(read_bytes(file.parent / ADAPTER_CONFIG), digest_size=16)
    _add_weights(digest, file)
    return digest.hexdigest()


def _add_weights(digest: "hashlib.blake2b", path: Path) -> None:
    try:
        with open_regular(path) as file:
            header, tensors = (_gguf if is_gguf_file(path) else _safetensors)(path, file)
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{path.name}\0{size}\0".encode() + header)
            for begin, end in tensors:
                for at in (begin, (begin + end - SAMPLE_BYTES) // 2, end - SAMPLE_BYTES):
                    start = max(at, begin)
                    digest.update(os.pread(file.fileno(), min(SAMPLE_BYTES, end - start), start))
    except HeaderError as error:
        raise Qwen35Error(f"{path} {error}: {error.advice}") from None
    except OSError as error:
        raise Qwen35Error(
            f"{path} cannot be read ({error.strerror}): check its permissions, or fetch it again"
        ) from None


def _safetensors(_: Path, file: FileIO) -> tuple[bytes, list[tuple[int, int]]]:
    """The header, and where the bytes of each tensor lie, [begin, end)."""
    header = read_header(file)
    start, tensors = header.data_start, header.tensors.values()
    return header.text, [(start + tensor.begin, start + tensor.end) for tensor in tensors]


def _gguf(path: Path, file: FileIO) -> tuple[bytes, list[tuple[int, int]]]:
    """As `_safetensors`."""
    tensors = read_gguf_header(path).tensors.values()
    ranges = [(tensor.offset, tensor.offset + tensor.nbytes) for tensor in tensors]
    return os.pread(file.fileno(), min((begin for begin, _ in ranges), default=0), 0), ranges


def of_network(weights: str, config: ModelConfig, dtype: str, kv_bits: int | None) -> str:
    """The name under which snapshots of a network are stored: 32 hexadecimal digits.

    Args:
        weights: from `of_weights`, or another name for weights that never change.
        config: of the whole network, also where several processes run it.
        dtype: of the activations.
        kv_bits: see `KVCache`.
    """
    sizes = {name: value for name, value in asdict(config).items() if value is not None}
    content = repr((weights, sorted(sizes.items(), key=str), dtype, kv_bits))
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def of_part(network: str, shard: Shard) -> str:
    """The name under which a process stores snapshots of its part: `of_network`, and which part."""
    split = "-layers" if shard.pipeline else ""
    return f"{network}-{shard.rank}of{shard.ranks}{split}"


def whole_of(name: str) -> str:
    """The `of_network` of a name."""
    return name.partition("-")[0]


def ranks_of(name: str) -> int:
    """The number of processes that store snapshots under a name of this kind; 0 for others."""
    found = _NAME.fullmatch(name)
    return 0 if found is None else int(found[1] or 1)
