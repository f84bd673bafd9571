"""Writing the files of a conversion."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress
from qwen35_mlx.checkpoint.index import INDEX
from qwen35_mlx.checkpoint.mtp import GAINS, NORMS_KEY, RAW_NORMS
from qwen35_mlx.checkpoint.safetensors import FileWriter
from qwen35_mlx.conversion.journal import Journal
from qwen35_mlx.conversion.plan import ConversionPlan, PlannedTensor
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
    plan: ConversionPlan,
    journal: Journal,
    progress: Progress | None,
) -> None:
    """Write the weights and their index, without the tensors that the journal has as complete."""
    done, total = 0, plan.nbytes
    owners: dict[str, str] = {}
    for file, tensors in plan.files.items():
        specs = [spec for tensor in tensors for spec in tensor.specs()]
        owners |= {spec.name: file for spec in specs}
        metadata = _metadata(plan, tensors)
        with FileWriter(folder / file, specs, metadata, journal.checksums) as writer:
            for tensor in tensors:
                names = [spec.name for spec in tensor.specs()]
                if all(writer.is_complete(name) for name in names):
                    done += tensor.nbytes
                    continue
                for name in names:
                    writer.restart(name)
                for values in tensor.chunks(checkpoint):
                    for name, value in zip(names, values, strict=True):
                        writer.write(name, value)
                        done += value.nbytes
                    if progress:
                        progress(done, total, tensor.name)
                journal.add({name: writer.checksum(name) for name in names})
    index = {
        "metadata": {"total_size": total, "total_parameters": plan.parameters},
        "weight_map": dict(sorted(owners.items())),
    }
    write_durably(folder / INDEX, json.dumps(index, indent=4))


def _metadata(plan: ConversionPlan, tensors: Sequence[PlannedTensor]) -> dict[str, str]:
    """Of the file of these tensors; says how the norms of an MTP head are stored."""
    head = [tensor for tensor in tensors if tensor.name.startswith("mtp.")]
    if not head:
        return dict(plan.metadata)
    is_raw = any(tensor.raw for tensor in head)
    return {**plan.metadata, NORMS_KEY: RAW_NORMS if is_raw else GAINS}


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
