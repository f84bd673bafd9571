"""From a checkpoint to a network that is ready to run."""

import math
from collections.abc import Callable

import mlx.core as mx

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.operations import select_kernels
from qwen35_mlx.model.weights import DTYPES, Weights
from qwen35_mlx.terminal import print_error

Notice = Callable[[str], None]


def print_notice(line: str) -> None:
    """Print a line for the user on stderr."""
    print_error(f"qwen35: {line}")


def load_network(
    checkpoint: Checkpoint,
    dtype: str | None = None,
    notice: Notice | None = None,
    *,
    context: int | None = None,
    mtp: bool = False,
) -> Network:
    """Read the weights of a checkpoint, and select the kernels for this machine.

    Args:
        dtype: of activations, KV cache and unquantised weights. None takes that of most weights on
            a GPU, and float32 on a CPU, where MLX's half-precision matmuls are several times
            slower.
        notice: called with a line for the user if a kernel cannot be used here, or if quantised
            matrices take more memory than their files; None prints it on stderr.
        context: the maximum length in tokens, with YaRN beyond the checkpoint's own; None for
            the checkpoint's own.
        mtp: whether to read the multi-token-prediction head too, if the checkpoint has one.

    Raises:
        Qwen35Error: the dtype is unknown, the context too long, or the weights do not
            match config.json.
    """
    if dtype is None and mx.default_device() == mx.cpu:
        dtype = "float32"
    if dtype is not None and dtype not in DTYPES:
        raise Qwen35Error(f"dtype {dtype!r} is not known: use one of {', '.join(DTYPES)}")
    config = checkpoint.model if context is None else checkpoint.model.with_context(context)
    checkpoint.verify()
    notice = notice or print_notice
    computed = DTYPES[dtype] if dtype else checkpoint.dtype_of_most
    names = [name for name in checkpoint.widened if mtp or not name.startswith("mtp.")]
    if names:
        values = sum(math.prod(checkpoint.matrices[name].shape) for name in names)
        notice(
            f"{len(names)} quantised matrices are in a form that MLX does not have: as "
            f"{8 * computed.size}-bit values they take {values * computed.size / 1e9:.1f} GB of "
            "memory. To make the model smaller, convert it with qwen35-convert -q"
        )
    network = Network(config, Weights(config, checkpoint, computed), mtp)
    select_kernels(network, notice)
    return network
