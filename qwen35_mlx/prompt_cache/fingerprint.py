"""What stored snapshots belong to: one network, computing in one way."""

import hashlib
import os
from dataclasses import asdict
from pathlib import Path

from qwen35_mlx.checkpoint.index import ADAPTER_CONFIG
from qwen35_mlx.checkpoint.safetensors_header import HeaderError, read_header
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import open_regular, read_bytes
from qwen35_mlx.model.config import ModelConfig

# Bytes that are hashed at the start, at the middle and at the end of every tensor.
SAMPLE_BYTES = 512


def of_weights(path: Path) -> str:
    """A hash of the safetensors files of a folder: names, sizes, headers, samples of every tensor.

    Hashing all of 20 GB would take longer than loading them. Training, converting and quantising
    change every matrix, which the samples show; a change of a few values in place goes unseen.

    Raises:
        Qwen35Error: a file cannot be read, or is not an intact safetensors file.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path.glob("*.safetensors")):
        _add_weights(digest, file)
    return digest.hexdigest()


def of_adapter(file: Path) -> str:
    """A hash of an adapter: its settings, and of its safetensors file what `of_weights` hashes.

    Raises:
        Qwen35Error: as `of_weights`.
    """
    digest = hashlib.blake2b(read_bytes(file.parent / ADAPTER_CONFIG), digest_size=16)
    _add_weights(digest, file)
    return digest.hexdigest()


def _add_weights(digest: "hashlib.blake2b", file: Path) -> None:
    try:
        _add_file(digest, file)
    except HeaderError as error:
        raise Qwen35Error(f"{file} {error}: {error.advice}") from None
    except OSError as error:
        raise Qwen35Error(
            f"{file} cannot be read ({error.strerror}): check its permissions, or fetch it again"
        ) from None


def _add_file(digest: "hashlib.blake2b", path: Path) -> None:
    with open_regular(path) as file:
        header = read_header(file)
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{path.name}\0{size}\0".encode() + header.text)
        for tensor in header.tensors.values():
            begin, end = header.data_start + tensor.begin, header.data_start + tensor.end
            for at in (begin, (begin + end - SAMPLE_BYTES) // 2, end - SAMPLE_BYTES):
                start = max(at, begin)
                digest.update(os.pread(file.fileno(), min(SAMPLE_BYTES, end - start), start))


def of_network(weights: str, config: ModelConfig, dtype: str, kv_bits: int | None) -> str:
    """The name under which snapshots of a network are stored: 32 hexadecimal digits.

    Args:
        weights: from `of_weights`, or another name for weights that never change.
        dtype: of the activations.
        kv_bits: see `KVCache`.
    """
    content = repr((weights, sorted(asdict(config).items(), key=str), dtype, kv_bits))
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
