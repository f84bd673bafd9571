"""Whether a prompt fits into this machine's memory, before it is read."""

from collections.abc import Sequence

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error, TooLongError
from qwen35_mlx.kernels.selection import PREFILL_CHUNK
from qwen35_mlx.model.config import ModelConfig, Shard
from qwen35_mlx.model.device_memory import limit
from qwen35_mlx.model.memory import Estimate, estimate, largest_part, weight_bytes

_TYPICAL_TOKENS = 32_768  # of a long conversation
# Tokens between two progress events, and until a cancel is heard; the first that fits is taken.
GPU_CHUNKS, CPU_CHUNKS = (4096, 2048, 1024, 512, 256), (512, 256, 128)


def chunk_sizes() -> tuple[int, ...]:
    """The numbers of tokens that a prompt may be read in, on this device; the largest first."""
    return CPU_CHUNKS if mx.default_device() == mx.cpu else GPU_CHUNKS


def chunk_for(
    config: ModelConfig,
    itemsize: int,
    tokens: int,
    weights: int,
    kv_bits: int | None,
    *,
    mtp: bool = False,
    largest: int = PREFILL_CHUNK,
    bound: int | None = None,
) -> int:
    """How many tokens of a prompt to read at once, so that all of it fits.

    Depends on nothing that changes from one turn to the next but the length: a state is the same
    to the last bit only if its prompt was read in the same pieces.

    Args:
        tokens: of the prompt.
        config, weights: sizes of the model, and its bytes; of several processes, of the largest
            part.
        mtp: whether its MTP head drafts.
        largest: on a GPU, the most to read at once: `KernelSelection.chunk_tokens`.
        bound: bytes that a process may take; None for what this machine gives.

    Raises:
        TooLongError: it does not fit, with the numbers.
    """
    own = bound is None
    bound = limit() if bound is None else bound
    cpu = mx.default_device() == mx.cpu
    chunks = [chunk for chunk in chunk_sizes() if cpu or chunk <= largest]
    needs = [
        estimate(config, itemsize, tokens, chunk, kv_bits, unpacks=cpu, mtp=mtp).total
        for chunk in chunks
    ]
    for chunk, need in zip(chunks, needs, strict=True):
        if weights + need <= bound:
            return chunk
    smaller = "" if kv_bits is not None else "load it with kv_bits=8 (--kv-bits 8), "
    who = "this machine" if own else "a process"
    raise TooLongError(
        f"a prompt of {tokens:,} tokens needs about {needs[-1] / 1e9:.1f} GB beside the model's "
        f"{weights / 1e9:.1f} GB, and {who} has {bound / 1e9:.1f} GB for both: {smaller}"
        "shorten the conversation or choose a smaller model"
    )


def part_needs(
    whole: int, config: ModelConfig, shard: Shard, itemsize: int, kv_bits: int | None, bound: int
) -> str:
    """What one process needs, for the user.

    Args:
        whole: bytes of all weights.
        config: of the whole network.
        bound: bytes that a process may take.

    Raises:
        Qwen35Error: the weights of a process do not fit, or cannot be split over so many.
    """
    part = largest_part(config, shard)
    weights = weight_bytes(whole, config, part)
    tokens = min(_TYPICAL_TOKENS, config.max_position_embeddings)
    need = estimate(part, itemsize, tokens, min(chunk_sizes()), kv_bits)
    has = f"{bound / 1e9:.1f} GB for models"
    if weights > bound:
        raise Qwen35Error(
            f"each of {shard.ranks} processes needs {weights / 1e9:.1f} GB for the weights, and "
            f"one has {has}: use more machines or a smaller model"
        )
    return (
        f"each of {shard.ranks} processes needs {weights / 1e9:.1f} GB for the weights and "
        f"{need.total / 1e9:.1f} GB for a conversation of {tokens:,} tokens; the smallest has {has}"
    )


def fits_alone(weights: int) -> bool:
    """Whether this machine by itself has memory for a model of so many bytes."""
    return weights <= limit()


def room_beside(needs: Sequence[Estimate], weights: int, bound: int | None = None) -> int:
    """Bytes that are left beside a model and prompts that are read in turns.

    Of the work, only the largest counts: one chunk is computed at a time. Negative if all of it
    does not fit.

    Args:
        bound: bytes that a process may take; None for what this machine gives.
    """
    held = sum(need.kv + need.states for need in needs)
    bound = limit() if bound is None else bound
    return bound - weights - held - max((need.work for need in needs), default=0)
