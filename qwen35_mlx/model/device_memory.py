"""The memory that this machine gives to models."""

import os

import mlx.core as mx

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
