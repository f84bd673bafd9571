"""`export_gguf`: from a checkpoint of any kind to a GGUF file."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import mlx.core as mx

from qwen35_mlx.arguments import checked
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress, resolve_checkpoint, resolve_head
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion.gguf_file import write_gguf
from qwen35_mlx.conversion.gguf_plan import check_type, plan_tensors
from qwen35_mlx.conversion.mtp_head import confirm_mtp_norms
from qwen35_mlx.conversion.new_folder import remove_leftovers
from qwen35_mlx.conversion.writing import check_space, disk_errors_named
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.user_paths import absolute_user_path


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """The result of an export.

    Attributes:
        path: the new file.
        kind: of most matrices.
        nbytes: of all tensors.
        warnings: a line each.
    """

    path: Path
    kind: str
    nbytes: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlainTensors:
    """The tensors of a checkpoint as plain values, whether they are packed or not."""

    checkpoint: Checkpoint

    def names(self) -> frozenset[str]:
        return frozenset(self.checkpoint.matrices)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.checkpoint.matrices[name].shape

    def read(self, name: str, start: int = 0, stop: int | None = None) -> mx.array:
        """Rows [start, stop), evaluated."""
        return self.checkpoint.plain(name).read(
            start, self.shape(name)[0] if stop is None else stop
        )


@checked
def export_gguf(
    hf_path: str | Path,
    gguf_path: str | Path,
    *,
    gguf_type: str | None = None,
    revision: str | None = None,
    mtp: str | Path | None = None,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> ExportSummary:
    """Write the new GGUF file `gguf_path`, for llama.cpp and programs that are built on it.

    Args:
        hf_path: as `name` of `load`. A quantised model is dequantised first.
        gguf_type: of the matrices: "F32", "F16", "BF16" or "Q8_0"; None for BF16 if most of them
            are bfloat16, else F16. Vectors, convolutions and routers are F32.
        revision: branch, tag or commit on the Hub.
        mtp: as for `convert`.
        progress: called after each chunk with (bytes written, bytes in total, tensor).
        notice: called with a line for the user that says what is read.

    Raises:
        Qwen35Error: on invalid input, a value that does not fit its type, or a full disk; no file
            is left.
    """
    if gguf_type is not None:
        check_type(gguf_type)
    out = absolute_user_path(gguf_path)
    path = resolve_checkpoint(str(hf_path), revision, notice=notice)
    checkpoint = open_checkpoint(path, None if mtp is None else resolve_head(str(mtp)))
    checkpoint.verify()
    if notice:
        notice(f"Reading {path}")
    checkpoint, mtp_lines = confirm_mtp_norms(checkpoint, run=True)
    kind = gguf_type or ("BF16" if checkpoint.dtype_of_most == mx.bfloat16 else "F16")
    source, config = PlainTensors(checkpoint), checkpoint.model
    nbytes = sum(tensor.nbytes for tensor in plan_tensors(source, config, kind))
    with disk_errors_named(out, nbytes, "another place"):
        warnings = [*checkpoint.notes, *mtp_lines, *_reader_notes(config), *remove_leftovers(out)]
        check_space(out, nbytes)
        write_gguf(
            out,
            source,
            config,
            checkpoint.text,
            kind,
            name=Path(hf_path).name.removesuffix(".gguf"),
            progress=progress,
        )
    return ExportSummary(out, kind, nbytes, tuple(warnings))


def _reader_notes(config: ModelConfig) -> list[str]:
    """What other readers of the file than llama.cpp leave out."""
    notes: list[str] = []
    if config.rope.scaling is not None:
        notes.append(
            "YaRN settings are written for llama.cpp: transformers (gguf_file=) ignores them"
        )
    full = [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"]
    first = full[0] + 1 if full else 0
    if any(b - a != first for a, b in pairwise([-1, *full])):
        notes.append(
            "full attention is not at a fixed interval: the file lists the layers, as new versions "
            "of llama.cpp read it; transformers (gguf_file=) and old versions read only an interval"
        )
    return notes
