"""What a stored state belongs to: one network, computing in one way."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig

# Of every tensor, so many bytes at its start, its middle and its end.
SAMPLE = 512


def of_weights(path: Path) -> str:
    """A hash of all safetensors files of a folder: names, sizes, headers, samples of every tensor.

    Reading all of 20 GB would take longer than loading them. Training, converting or quantising
    changes every matrix, so samples tell; a change of a few values in place would be missed.

    Raises:
        Qwen35Error: a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path.glob("*.safetensors")):
        try:
            _add_file(digest, file)
        except OSError as error:
            raise Qwen35Error(
                f"{file} cannot be read ({error.strerror}): see to its permissions, or fetch "
                "it again"
            ) from None
    return digest.hexdigest()


def _add_file(digest: "hashlib.blake2b", file: Path) -> None:
    with file.open("rb", buffering=0) as opened:
        size = os.fstat(opened.fileno()).st_size
        length = int.from_bytes(opened.read(8), "little")
        header = opened.read(min(length, size))
        digest.update(f"{file.name}\0{size}\0".encode() + header)
        tensors = json.loads(header)
        for name, entry in tensors.items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + at for at in entry["data_offsets"])
            for at in (begin, (begin + end - SAMPLE) // 2, end - SAMPLE):
                start = max(at, begin)
                digest.update(os.pread(opened.fileno(), min(SAMPLE, end - start), start))


def of_network(weights: str, config: ModelConfig, dtype: str, kv_bits: int | None) -> str:
    """The name under which states are kept: 32 hexadecimal digits.

    Args:
        weights: from `of_weights`, or another name for weights that never change.
        dtype: of the activations.
        kv_bits: see `KVCache`.
    """
    said = repr((weights, sorted(asdict(config).items(), key=str), dtype, kv_bits))
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
