"""Values of ggml's blocks, one block at a time, as ggml-quants.c defines them; in float32."""

from collections.abc import Callable

import numpy as np

F = np.float32
NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def half(block: bytes, at: int) -> F:
    return F(np.frombuffer(block, np.float16, 1, at)[0])


def q8_0(b: bytes) -> list[F]:
    return [half(b, 0) * F(q) for q in np.frombuffer(b, np.int8, 32, 2)]


def nibbles(b: bytes) -> list[int]:
    return [byte & 15 for byte in b] + [byte >> 4 for byte in b]


def q4_0(b: bytes) -> list[F]:
    return [half(b, 0) * F(code - 8) for code in nibbles(b[2:])]


def q4_1(b: bytes) -> list[F]:
    return [half(b, 0) * F(code) + half(b, 2) for code in nibbles(b[4:])]


def five(high: bytes, low: bytes) -> list[int]:
    bits = int.from_bytes(high, "little")
    return [code | (bits >> i & 1) << 4 for i, code in enumerate(nibbles(low))]


def q5_0(b: bytes) -> list[F]:
    return [half(b, 0) * F(code - 16) for code in five(b[2:6], b[6:])]


def q5_1(b: bytes) -> list[F]:
    return [half(b, 0) * F(code) + half(b, 2) for code in five(b[4:8], b[8:])]


def q2_k(b: bytes) -> list[F]:
    scales, qs, d, dmin = b[:16], b[16:80], half(b, 80), half(b, 82)
    found = []
    for i in range(256):
        part, shift, lane = i // 128, i % 128 // 32, i % 32
        scale = scales[i // 16]
        code = qs[32 * part + lane] >> 2 * shift & 3
        found.append(d * F(scale & 15) * F(code) - dmin * F(scale >> 4))
    return found


def q3_k(b: bytes) -> list[F]:
    high, qs, packed, d = b[:32], b[32:96], b[96:108], half(b, 108)
    found = []
    for i in range(256):
        part, shift, lane, s = i // 128, i % 128 // 32, i % 32, i // 16
        low = packed[s] & 15 if s < 8 else packed[s - 8] >> 4
        scale = low | (packed[8 + s % 4] >> 2 * (s // 4) & 3) << 4
        code = qs[32 * part + lane] >> 2 * shift & 3
        code -= 0 if high[lane] >> (4 * part + shift) & 1 else 4
        found.append(d * F(scale - 32) * F(code))
    return found


def scale_and_min(p: bytes, j: int) -> tuple[int, int]:
    if j < 4:
        return p[j] & 63, p[j + 4] & 63
    return p[j + 4] & 15 | p[j - 4] >> 6 << 4, p[j + 4] >> 4 | p[j] >> 6 << 4


def q4_k(b: bytes) -> list[F]:
    d, dmin, packed, qs = half(b, 0), half(b, 2), b[4:16], b[16:]
    found = []
    for i in range(256):
        scale, low = scale_and_min(packed, i // 32)
        code = qs[32 * (i // 64) + i % 32] >> 4 * (i // 32 % 2) & 15
        found.append(d * F(scale) * F(code) - dmin * F(low))
    return found


def q5_k(b: bytes) -> list[F]:
    d, dmin, packed, high, qs = half(b, 0), half(b, 2), b[4:16], b[16:48], b[48:]
    found = []
    for i in range(256):
        scale, low = scale_and_min(packed, i // 32)
        code = qs[32 * (i // 64) + i % 32] >> 4 * (i // 32 % 2) & 15
        code += (high[i % 32] >> (i // 32) & 1) * 16
        found.append(d * F(scale) * F(code) - dmin * F(low))
    return found


def q6_k(b: bytes) -> list[F]:
    low, high, scales, d = b[:128], b[128:192], np.frombuffer(b, np.int8, 16, 192), half(b, 208)
    found = []
    for i in range(256):
        part, quarter, lane = i // 128, i % 128 // 32, i % 32
        code = low[64 * part + 32 * (quarter % 2) + lane] >> 4 * (quarter // 2) & 15
        code |= (high[32 * part + lane] >> 2 * quarter & 3) << 4
        found.append(d * F(scales[i // 16]) * F(code - 32))
    return found


def iq4_nl(b: bytes) -> list[F]:
    return [half(b, 0) * F(NL[code]) for code in nibbles(b[2:])]


def iq4_xs(b: bytes) -> list[F]:
    d, high, low, qs = half(b, 0), int.from_bytes(b[2:4], "little"), b[4:8], b[8:]
    found = []
    for s in range(8):
        scale = (low[s // 2] >> 4 * (s % 2) & 15) | (high >> 2 * s & 3) << 4
        found += [d * F(scale - 32) * F(NL[code]) for code in nibbles(qs[16 * s : 16 * s + 16])]
    return found


def mxfp4(b: bytes) -> list[F]:
    signed = [E2M1[code & 7] * (-1 if code & 8 else 1) for code in nibbles(b[1:])]
    return [F(np.ldexp(value, b[0] - 127)) for value in signed]


def plain(dtype: str) -> Callable[[bytes], list[F]]:
    return lambda b: [F(np.frombuffer(b, dtype)[0])]


def bf16(b: bytes) -> list[F]:
    return [np.frombuffer(b"\0\0" + b, np.float32)[0]]


# By ggml's name: elements and bytes of a block, its values, the places of its float16 numbers.
BLOCKS: dict[str, tuple[int, int, Callable[[bytes], list[F]], tuple[int, ...]]] = {
    "F32": (1, 4, plain("<f4"), ()),
    "F16": (1, 2, plain("<f2"), (0,)),
    "BF16": (1, 2, bf16, ()),
    "Q8_0": (32, 34, q8_0, (0,)),
    "Q4_0": (32, 18, q4_0, (0,)),
    "Q4_1": (32, 20, q4_1, (0, 2)),
    "Q5_0": (32, 22, q5_0, (0,)),
    "Q5_1": (32, 24, q5_1, (0, 2)),
    "Q2_K": (256, 84, q2_k, (80, 82)),
    "Q3_K": (256, 110, q3_k, (108,)),
    "Q4_K": (256, 144, q4_k, (0, 2)),
    "Q5_K": (256, 176, q5_k, (0, 2)),
    "Q6_K": (256, 210, q6_k, (208,)),
    "IQ4_NL": (32, 18, iq4_nl, (0,)),
    "IQ4_XS": (256, 136, iq4_xs, (0,)),
    "MXFP4": (32, 17, mxfp4, ()),
}


def random_rows(dtype: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random well-formed blocks: uint8 [rows, bytes]. Their scales are from 1e-4 to 1, signed."""
    elements, length, _, halves = BLOCKS[dtype]
    rng = np.random.default_rng(seed)
    if dtype in ("F32", "BF16"):
        values = rng.standard_normal((rows, columns)).astype(np.float32)
        bits = values.view(np.uint32) if dtype == "F32" else (values.view(np.uint32) >> 16)
        return bits.astype("<u4" if dtype == "F32" else "<u2").view(np.uint8)
    blocks = rng.integers(0, 256, (rows, columns // elements, length), np.uint8)
    for at in halves:
        scales = 10 ** rng.uniform(-4, 0, blocks.shape[:2]) * rng.choice((-1, 1), blocks.shape[:2])
        blocks[..., at : at + 2] = scales.astype("<f2")[..., None].view(np.uint8)
    if dtype == "MXFP4":
        blocks[..., 0] = rng.integers(100, 140, blocks.shape[:2])
    return blocks.reshape(rows, -1)


def values_of(dtype: str, rows: np.ndarray) -> np.ndarray:
    """The values of uint8 [rows, bytes]: float32 [rows, columns]."""
    _, length, values, _ = BLOCKS[dtype]
    return np.array(
        [
            [v for at in range(0, len(row), length) for v in values(row[at : at + length])]
            for row in map(bytes, rows)
        ],
        np.float32,
    )
