"""Reads damaged GGUF files, and prints a line of JSON before and after each.

Arguments: a folder of undamaged files, an empty folder, the first seed, how many.
"""

import json
import random
import resource
import struct
import sys
import time
from pathlib import Path

from qwen35_mlx.checkpoint.gguf.model import read_gguf
from qwen35_mlx.checkpoint.tensor_readers import PackedMatrix
from tests.checkpoint.outcomes import outcome

ADDRESS_SPACE = 6 << 30
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_ODD = (
    *(0, 1, 2, 3, 4, 5, 8, 9, 12, 31, 32, 33, 36, 64, 96, 128, 255, 256, 1000, 1024, 1025),
    *(4096, 65535, 65536, 10**6, 10**7, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**64 - 1),
    *(struct.unpack("<I", struct.pack("<f", x))[0] for x in (0.0, -1.0, 1e30, float("nan"))),
)


def numbers(header: bytes) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int]:
    """The place and the size of every number in a header, down to the lengths of texts.

    Returns:
        those of settings and the types and offsets of tensors; all others; where the header ends.
    """
    settings: list[tuple[int, int]] = []
    others: list[tuple[int, int]] = []
    at = 4

    def number(size: int, places: list[tuple[int, int]] = others) -> int:
        nonlocal at
        at += size
        places.append((at - size, size))
        return int.from_bytes(header[at - size : at], "little")

    def value(kind: int) -> None:
        nonlocal at
        if kind == 8:
            length = number(8)
            at += length
        elif kind == 9:
            of, count = number(4), number(8)
            for _ in range(count):
                value(of)
        else:
            number(_SIZES[kind], settings)

    number(4)
    tensors, entries = number(8), number(8)
    for _ in range(entries):
        value(8)
        value(number(4))
    for _ in range(tensors):
        value(8)
        for _ in range(number(4)):
            number(8)
        number(4, settings)
        number(8, settings)
    return settings, others, at


def damage(content: bytearray, rng: random.Random) -> tuple[bytearray, str]:
    settings, others, end = numbers(content)
    match rng.randrange(12):
        case 0:
            where = [rng.randrange(end) for _ in range(rng.choice((1, 1, 3, 30)))]
            for place in where:
                content[place] = rng.randrange(256)
            return content, f"bytes changed at {where}"
        case 1:
            cut = rng.choice((0, 1, 4, 8, 24, rng.randrange(end), rng.randrange(len(content))))
            return content[:cut], f"cut at {cut}"
        case 2:
            first, length = rng.randrange(end), rng.choice((1, 4, 8, 100))
            del content[first : first + length]
            return content, f"{length} bytes less at {first}"
        case 3 | 4:
            where = [rng.randrange(end, len(content)) for _ in range(rng.choice((1, 100)))]
            for place in where:
                content[place] = rng.randrange(256)
            return content, f"weights changed at {where[:5]}"
        case 5:
            one, other = (rng.choice(settings) for _ in range(2))
            length = min(one[1], other[1])
            content[one[0] : one[0] + length] = content[other[0] : other[0] + length]
            return content, f"{other} copied to {one}"
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        place, size = rng.choice(settings if rng.random() < 0.6 else others)
        old = int.from_bytes(content[place : place + size], "little")
        odd = rng.choice((*_ODD, old + 1, old - 1, old * 2, old // 2)) % (1 << 8 * size)
        content[place : place + size] = odd.to_bytes(size, "little")
        done.append(f"{old} -> {odd} at {place}")
    return content, ", ".join(done)


def use(path: Path) -> None:
    """Read the headers, and the first and last rows of every tensor."""
    model = read_gguf(path)
    json.dumps(model.config)
    for matrix in model.tensors.values():
        readers = matrix.parts.values() if isinstance(matrix, PackedMatrix) else [matrix]
        for reader in readers:
            rows = reader.shape[0]
            for start, stop in ((0, min(rows, 2)), (max(rows - 2, 0), rows)):
                assert reader.read(start, stop).shape == (stop - start, *reader.shape[1:])


def main(bases: Path, scratch: Path, first: int, count: int) -> None:
    files = sorted(bases.iterdir())
    for file in files:
        if (result := outcome(use, file)) != "ok":
            raise SystemExit(f"{file.name}: {result}")
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.RLIM_INFINITY))
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    contents = [file.read_bytes() for file in files]
    for seed in range(first, first + count):
        rng = random.Random(seed)
        base = rng.randrange(len(files))
        content, what = damage(bytearray(contents[base]), rng)
        path = scratch / "f.gguf"
        path.write_bytes(content)
        print(json.dumps({"seed": seed, "what": f"{files[base].name}, {what}"}), flush=True)
        start = time.monotonic()
        result = outcome(use, path)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before
        seconds = time.monotonic() - start
        print(json.dumps({"result": result, "seconds": seconds, "grown": grown}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
