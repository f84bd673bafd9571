"""What gets how many bits."""

from dataclasses import dataclass

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization


@dataclass(frozen=True, slots=True)
class _Mode:
    group_sizes: tuple[int, ...]
    bits: tuple[int, ...]
    default: tuple[int, int]


_MODES = {
    "affine": _Mode((32, 64, 128), (2, 3, 4, 5, 6, 8), (64, 4)),
    "mxfp4": _Mode((32,), (4,), (32, 4)),
    "mxfp8": _Mode((32,), (8,), (32, 8)),
    "nvfp4": _Mode((16,), (4,), (16, 4)),
}

MODES = tuple(_MODES)

# A wrong choice of expert costs more than the bits do; mlx-lm keeps these at 8 bits too.
_ROUTER = Quantization(group_size=64, bits=8)
_ROUTERS = (".mlp.gate.weight", ".mlp.shared_expert_gate.weight")


def quantization(
    mode: str = "affine", bits: int | None = None, group_size: int | None = None
) -> Quantization:
    """The quantization that a user asks for, the mode's defaults filled in.

    Raises:
        Qwen35Error: MLX has no such mode, or not with these bits or this group size.
    """
    if mode not in _MODES:
        raise Qwen35Error(f"q-mode {mode!r} is not known: choose one of {', '.join(MODES)}")
    known = _MODES[mode]
    group_size = known.default[0] if group_size is None else group_size
    bits = known.default[1] if bits is None else bits
    for option, value, valid in (
        ("q-bits", bits, known.bits),
        ("q-group-size", group_size, known.group_sizes),
    ):
        if value not in valid:
            raise Qwen35Error(
                f"{option} {value} does not exist in {mode} mode: "
                f"choose {' or '.join(map(str, valid))}"
            )
    return Quantization(group_size, bits, mode)


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a canonical tensor is one that quantisation is for.

    Linear layers, embeddings and expert stacks are; norms, convolutions, A_log and dt_bias are not.
    """
    return name.endswith(".weight") and len(shape) >= 2 and not name.endswith(".conv1d.weight")


def for_tensor(name: str, shape: tuple[int, ...], wanted: Quantization) -> Quantization | None:
    """How to quantise one canonical plain tensor, None to leave it as it is.

    A matrix whose rows are no multiple of the group size stays plain, whatever is wanted.
    """
    if not is_matrix(name, shape):
        return None
    chosen = _ROUTER if name.endswith(_ROUTERS) else wanted
    return None if shape[-1] % chosen.group_size else chosen
