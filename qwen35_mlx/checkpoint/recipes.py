"""Which tensors are quantised, and to how many bits."""

from dataclasses import dataclass

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization


@dataclass(frozen=True, slots=True)
class _Mode:
    """What MLX offers in one mode; `default` is (group size, bits)."""

    group_sizes: tuple[int, ...]
    bits: tuple[int, ...]
    default: tuple[int, int]


_MODES = {
    "affine": _Mode((32, 64, 128), (1, 2, 3, 4, 5, 6, 8), (64, 4)),
    "mxfp4": _Mode((32,), (4,), (32, 4)),
    "mxfp8": _Mode((32,), (8,), (32, 8)),
    "nvfp4": _Mode((16,), (4,), (16, 4)),
}

MODES = tuple(_MODES)

# A wrongly chosen expert costs more quality than these bits cost memory; mlx-lm does the same.
_ROUTER = Quantization(group_size=64, bits=8)
_ROUTERS = (".mlp.gate.weight", ".mlp.shared_expert_gate.weight")


def quantization(
    mode: str = "affine", bits: int | None = None, group_size: int | None = None
) -> Quantization:
    """A quantisation, with the mode's defaults for what is None.

    Raises:
        Qwen35Error: MLX has no such mode, or not with these bits or this group size.
    """
    if mode not in _MODES:
        raise Qwen35Error(f"q-mode {mode!r} is not known: choose one of {', '.join(MODES)}")
    limits = _MODES[mode]
    group_size = limits.default[0] if group_size is None else group_size
    bits = limits.default[1] if bits is None else bits
    for option, value, valid in (
        ("q-bits", bits, limits.bits),
        ("q-group-size", group_size, limits.group_sizes),
    ):
        if value not in valid:
            raise Qwen35Error(
                f"{option} {value} does not exist in {mode} mode: "
                f"choose {' or '.join(map(str, valid))}"
            )
    return Quantization(group_size, bits, mode)


def is_quantizable(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this canonical name may be quantised.

    Linear layers, embeddings and expert stacks may; norms, convolutions, A_log and dt_bias not.
    """
    return name.endswith(".weight") and len(shape) >= 2 and not name.endswith(".conv1d.weight")


def quantization_for(
    name: str, shape: tuple[int, ...], default: Quantization
) -> Quantization | None:
    """How to quantise one plain tensor of a canonical name; None leaves it plain.

    A matrix whose row length is not a multiple of the group size stays plain.

    Args:
        default: for every tensor without a rule of its own.
    """
    if not is_quantizable(name, shape):
        return None
    chosen = _ROUTER if name.endswith(_ROUTERS) else default
    return None if shape[-1] % chosen.group_size else chosen
