"""Writing the files of a conversion."""

import json
import math
import os
import shutil
from pathlib import Path

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress
from qwen35_mlx.checkpoint.index import INDEX
from qwen35_mlx.checkpoint.safetensors import FileWriter
from qwen35_mlx.conversion.plan import TensorPlan
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_bytes, read_json_object, write_durably
from qwen35_mlx.user_paths import exists

_COPIED_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def check_space(out: Path, nbytes: int) -> None:
    parent = next(folder for folder in out.parents if exists(folder))
    free = shutil.disk_usage(parent).free
    # 64 MiB for the tokenizer, the index and the headers.
    if free < nbytes + (64 << 20):
        raise Qwen35Error(
            f"not enough space for {out}: it takes {size_text(nbytes)}, {size_text(free)} are "
            "free; free some or choose another --mlx-path"
        )


def write_weights(
    folder: Path,
    checkpoint: Checkpoint,
    shards: dict[str, list[TensorPlan]],
    nbytes: int,
    progress: Progress | None,
) -> None:
    done = 0
    owners: dict[str, str] = {}
    for file, plans in shards.items():
        specs = [spec for plan in plans for spec in plan.specs()]
        owners |= {spec.name: file for spec in specs}
        with FileWriter(folder / file, specs, {"format": "mlx"}) as writer:
            for plan in plans:
                names = [spec.name for spec in plan.specs()]
                for values in plan.chunks(checkpoint):
                    for name, value in zip(names, values, strict=True):
                        writer.write(name, value)
                        done += value.nbytes
                    if progress:
                        progress(done, nbytes, plan.name)
    parameters = sum(math.prod(plan.shape) for plans in shards.values() for plan in plans)
    index = {
        "metadata": {"total_size": nbytes, "total_parameters": parameters},
        "weight_map": dict(sorted(owners.items())),
    }
    write_durably(folder / INDEX, json.dumps(index, indent=4))


def read_copied_files(source: Path) -> dict[str, bytes]:
    """The files of a checkpoint that a conversion copies, by name."""
    return {
        name: read_bytes(source / name) for name in _COPIED_FILES if os.path.lexists(source / name)
    }


def template_warnings(source: Path) -> list[str]:
    if any(os.path.lexists(source / f"chat_template.{suffix}") for suffix in ("jinja", "json")):
        return []
    if "chat_template" in read_json_object(source / "tokenizer_config.json"):
        return []
    return ["no chat template: add the model's chat_template.jinja to the folder to chat with it"]


def size_text(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
