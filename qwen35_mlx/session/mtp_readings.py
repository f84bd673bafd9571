"""Remembers how the norms of MTP heads are read, so that a text decides it once for each model.

Files of a head need not say whether its norms hold w or 1 + w; `checkpoint.mtp_confirmation` runs
the readings on a text. What it finds is kept in the user's cache folder, by the contents of the
model's files. A missing or damaged entry costs another trial.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.mtp import head_norms
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object, replace_file
from qwen35_mlx.prompt_cache.fingerprint import of_weights

# Models that are remembered; the latest ones stay.
MOST = 100


def readings_file() -> Path:
    """A JSON file: the names of the norms that hold w, by `of_weights` of the model's files."""
    return platformdirs.user_cache_path("qwen35-mlx") / "mtp_norms.json"


def remembered(checkpoint: Checkpoint) -> frozenset[str] | None:
    """The names of the head's norms that hold w, as found before; None if nothing was.

    Raises:
        Qwen35Error: a file of the checkpoint cannot be read.
    """
    names = _read().get(of_weights(checkpoint.files))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    raw = frozenset(names)
    return raw if raw <= head_norms(checkpoint.model) else None


def remember(checkpoint: Checkpoint, raw: frozenset[str]) -> None:
    """Keep what was found. If that fails, the next load tries again.

    Raises:
        Qwen35Error: as `remembered`.
    """
    known = _read()
    key = of_weights(checkpoint.files)
    known.pop(key, None)
    kept = dict([*known.items(), (key, sorted(raw))][-MOST:])
    with suppress(OSError):
        replace_file(readings_file(), json.dumps(kept, indent=1) + "\n")


def _read() -> dict[str, Any]:
    """The file's content; empty if it is missing or damaged."""
    with suppress(Qwen35Error):
        return read_json_object(readings_file())
    return {}
