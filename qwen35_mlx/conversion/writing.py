"""Writing the files of a conversion."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress
from qwen35_mlx.checkpoint.index import INDEX
from qwen35_mlx.checkpoint.mtp import GAINS, NORMS_KEY, RAW_NORMS
from qwen35_mlx.checkpoint.safetensors_writer import FileWriter
from qwen35_mlx.conversion.float16 import check_written
from qwen35_mlx.conversion.journal import Journal
from qwen35_mlx.conversion.plan import ConversionPlan
from qwen35_mlx.conversion.planned_tensor import PlannedTensor
from qwen35_mlx.conversion.streaming import StreamedSource
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_bytes, read_json_object, write_durably
from qwen35_mlx.text.text_files import (
    GENERATION_CONFIG,
    TEMPLATE,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TextFiles,
)
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


_NO_TEMPLATE = "no chat template: add the model's chat_template.jinja to the folder to chat with it"


@contextmanager
def disk_errors_named(out: Path, nbytes: int, other: str) -> Iterator[None]:
    """An error of the disk within the block becomes one line.

    Args:
        nbytes: of the result.
        other: what to choose where there is no space.

    Raises:
        Qwen35Error: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Qwen35Error(
                f"no space left for {out}: it takes {size_text(nbytes)}; free some or choose "
                f"{other}"
            ) from error
        raise Qwen35Error(f"cannot write {out}: {error.strerror or error}") from error


# For the tokenizer, the index and the headers.
_OTHER_BYTES = 64 << 20


def free_bytes(out: Path) -> int:
    """Bytes that are free where a new folder or file is to be.

    Raises:
        Qwen35Error: nothing can be written there, as below /proc.
    """
    parent = next(folder for folder in out.parents if exists(folder))
    usage = shutil.disk_usage(parent)
    if usage.free == 0 and usage.total == 0:
        raise Qwen35Error(
            f"{out} cannot be written: {parent} is not on a disk; choose another place"
        )
    return usage.free


def needed_bytes(nbytes: int, source_bytes: int = 0, here: int = 0) -> int:
    """Bytes that must be free for a result. Arguments: `check_space`."""
    return nbytes + source_bytes - here + _OTHER_BYTES


def check_space(out: Path, nbytes: int, source_bytes: int = 0, here: int = 0) -> None:
    """Check that the disk has room for a result.

    Args:
        out: the new folder or file.
        nbytes: of the result.
        source_bytes: of the source, the most that is beside the result at one time.
        here: bytes of both that are on the disk already.

    Raises:
        Qwen35Error: it has not.
    """
    free = free_bytes(out)
    if free < needed_bytes(nbytes, source_bytes, here):
        shards = f", and shards of the source {size_text(source_bytes)}" if source_bytes else ""
        raise Qwen35Error(
            f"not enough space for {out}: it takes {size_text(nbytes)}{shards}; {size_text(free)} "
            "are free; free some or choose another place"
        )


def write_weights(
    folder: Path,
    checkpoint: Checkpoint,
    plan: ConversionPlan,
    journal: Journal,
    progress: Progress | None,
    stream: StreamedSource | None = None,
) -> None:
    """Write the weights and their index, without the tensors that the journal has as complete.

    Args:
        stream: the source of the checkpoint, if it is streamed.
    """
    done, total = 0, plan.nbytes
    held: dict[str, set[str]] = {}
    if stream is not None:
        held = stream.held_by_part([tensor.name for tensor in plan.tensors])
        if progress:
            stream.shards.report = lambda what: progress(done, total, what)
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
                if stream is not None:
                    stream.begin(tensor.name, held)
                for name in names:
                    writer.restart(name)
                for values in tensor.chunks(checkpoint):
                    if stream is not None and not tensor.carried:
                        check_written(tensor.name, values)
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


def read_copied_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The text files of the result, by name: copies, or what the metadata of a GGUF file hold."""
    if checkpoint.is_gguf:
        return text_file_contents(checkpoint.text)
    source = checkpoint.path
    return {
        name: read_bytes(source / name) for name in _COPIED_FILES if os.path.lexists(source / name)
    }


def text_file_contents(text: TextFiles) -> dict[str, bytes]:
    """The files that hold the text side of a checkpoint, by name."""
    configs = {TOKENIZER_CONFIG: text.tokenizer_config, GENERATION_CONFIG: text.generation_config}
    files = {
        name: json.dumps(content, indent=2, ensure_ascii=False)
        for name, content in configs.items()
        if content
    }
    if text.tokenizer is not None:
        files[TOKENIZER] = text.tokenizer
    if text.chat_template is not None:
        files[TEMPLATE] = text.chat_template
    return {name: content.encode() for name, content in files.items()}


def template_warnings(checkpoint: Checkpoint) -> list[str]:
    if checkpoint.is_gguf:
        return [] if checkpoint.text.chat_template else [_NO_TEMPLATE]
    source = checkpoint.path
    if any(os.path.lexists(source / f"chat_template.{suffix}") for suffix in ("jinja", "json")):
        return []
    if "chat_template" in read_json_object(source / "tokenizer_config.json"):
        return []
    return [_NO_TEMPLATE]


def size_text(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
