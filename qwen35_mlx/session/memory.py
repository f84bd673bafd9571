"""Whether a prompt fits into this machine's memory, before it is read."""

import os

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.memory import estimate

# Tokens between two progress events, and until a cancel is heard; the first that fits is taken.
GPU_CHUNKS, CPU_CHUNKS = (2048, 1024, 512, 256), (512, 256, 128)
# Of the machine's memory, what models may take where the system names no limit of its own.
SHARE = 0.9


def limit() -> int:
    """Bytes that this machine gives to models."""
    if mx.default_device() != mx.cpu:
        about = mx.device_info()
        for name in ("max_recommended_working_set_size", "total_memory", "memory_size"):
            if int(about.get(name, 0)) > 0:
                whole = int(about[name])
                return whole if name.startswith("max_") else int(SHARE * whole)
    return int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def chunk_for(
    config: ModelConfig,
    itemsize: int,
    tokens: int,
    weights: int,
    kv_bits: int | None,
    *,
    mtp: bool = False,
) -> int:
    """How many tokens of a prompt to read at once, so that all of it fits.

    Depends on nothing that changes from one turn to the next but the length: a state is the same
    to the last bit only if its prompt was read in the same pieces.

    Args:
        tokens: of the prompt.
        weights: bytes of the model.
        mtp: whether its MTP head drafts.

    Raises:
        Qwen35Error: it does not fit, with the numbers.
    """
    bound = limit()
    cpu = mx.default_device() == mx.cpu
    chunks = CPU_CHUNKS if cpu else GPU_CHUNKS
    needs = [
        estimate(config, itemsize, tokens, chunk, kv_bits, unpacks_experts=cpu, mtp=mtp).total
        for chunk in chunks
    ]
    for chunk, need in zip(chunks, needs, strict=True):
        if weights + need <= bound:
            return chunk
    smaller = "" if kv_bits is not None else "load it with kv_bits=8 (--kv-bits 8), "
    raise Qwen35Error(
        f"a prompt of {tokens:,} tokens needs about {needs[-1] / 1e9:.1f} GB beside the model's "
        f"{weights / 1e9:.1f} GB, and this machine has {bound / 1e9:.1f} GB for both: {smaller}"
        "shorten the conversation or choose a smaller model"
    )
