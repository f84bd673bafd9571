"""From a checkpoint to a network that is ready to run."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import mlx.core as mx

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.gguf.requantized import requantization_note, requantized
from qwen35_mlx.checkpoint.mtp_confirmation import confirm_head, network_agreement
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.operations import select_kernels
from qwen35_mlx.model.parallel import ALONE, Parallel
from qwen35_mlx.model.weights import DTYPES, Weights
from qwen35_mlx.terminal import print_error

Notice = Callable[[str], None]


def print_notice(line: str) -> None:
    """Print a line for the user on stderr."""
    print_error(f"qwen35: {line}")


def dtype_name(checkpoint: Checkpoint, dtype: str | None) -> str:
    """The dtype that `load_network` takes on this device. Errors: there."""
    if dtype is not None and dtype not in DTYPES:
        raise Qwen35Error(f"dtype {dtype!r} is not known: use one of {', '.join(DTYPES)}")
    if dtype is None and mx.default_device() == mx.cpu:
        return "float32"
    return dtype or next(n for n, one in DTYPES.items() if one == checkpoint.dtype_of_most)


def load_network(
    checkpoint: Checkpoint,
    dtype: str | None = None,
    notice: Notice | None = None,
    *,
    context: int | None = None,
    mtp: bool = False,
    mtp_documents: Sequence[Sequence[int]] = (),
    mtp_decided: Callable[[frozenset[str]], None] = lambda raw: None,
    kv_bits: int | None = None,
    parallel: Parallel = ALONE,
) -> Network:
    """Read the weights of a checkpoint, and select the kernels for this machine.

    Args:
        dtype: of activations, KV cache and unquantised weights. None takes that of most weights on
            a GPU, and float32 on a CPU, where MLX's half-precision matmuls are several times
            slower. See `Checkpoint.dtype_of_most`.
        notice: called with a line for the user if a kernel cannot be used here, or if matrices
            are requantised or take more memory than their files; None prints it on stderr.
        context: the maximum length in tokens, with YaRN beyond the checkpoint's own; None for
            the checkpoint's own.
        mtp: whether to read the multi-token-prediction head too, if the checkpoint has one.
        mtp_documents: token ids on which the readings of the head's norms are tried, if its files
            leave a doubt; `notice` is called with what was found. A few hundred are enough.
        mtp_decided: called with the names of the norms that hold w, after such a trial.
        kv_bits: of caches that the kernels are selected for, beside plain ones; see
            `KVCache.bits`.
        parallel: the processes that run the network together: each reads its part alone.

    Raises:
        Qwen35Error: the dtype is unknown, the context too long, the weights do not match
            config.json, or they cannot be split over so many processes.
    """
    notice = notice or print_notice
    computed = DTYPES[dtype_name(checkpoint, dtype)]
    checkpoint.verify()
    if line := _widened_line(checkpoint, computed, mtp):
        notice(line)
    checkpoint = _computable(checkpoint, computed, notice)
    if parallel.shard is not None:
        checkpoint = checkpoint.part(parallel.shard)
    config = checkpoint.model if context is None else checkpoint.model.with_context(context)
    network = Network(config, Weights(config, checkpoint, computed, parallel), mtp)
    if network.mtp is not None and any(len(ids) > 2 for ids in mtp_documents):
        # If the text says nothing about this model, the values of the norms decide.
        with suppress(Qwen35Error):
            checkpoint, found = confirm_head(checkpoint, network_agreement(network, mtp_documents))
            if found is not None:
                network.read_mtp(Weights(config, checkpoint, computed, parallel))
                notice(found.line)
        # Also where it says nothing: it would say as little at the next load.
        if checkpoint.mtp_norms is not None:
            mtp_decided(checkpoint.mtp_norms.raw)
    select_kernels(network, notice, kv_bits)
    return network


def _widened_line(checkpoint: Checkpoint, dtype: mx.Dtype, mtp: bool) -> str:
    """The memory that quantised matrices take as plain values; "" if none are read so."""
    names = [name for name in checkpoint.widened if mtp or not name.startswith("mtp.")]
    if not names:
        return ""
    values = sum(math.prod(checkpoint.matrices[name].shape) for name in names)
    return (
        f"{len(names)} quantised matrices are in a form that MLX does not have: as "
        f"{8 * dtype.size}-bit values they take {values * dtype.size / 1e9:.1f} GB of memory; to "
        "make the model smaller, convert it with qwen35-convert -q"
    )


def _computable(checkpoint: Checkpoint, dtype: mx.Dtype, notice: Notice) -> Checkpoint:
    """The checkpoint with its blocks of ggml in a packing that MLX computes with."""
    if not (packed := requantized(checkpoint.matrices, dtype)):
        return checkpoint
    notice(requantization_note(packed))
    return checkpoint.with_matrices(packed)
