"""What comes before the first byte of a conversion: its plan, and what there is to say of it."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress
from qwen35_mlx.conversion.float16 import plan_within_range
from qwen35_mlx.conversion.mtp_head import confirm_mtp_norms
from qwen35_mlx.conversion.new_folder import is_occupied
from qwen35_mlx.conversion.options import Options
from qwen35_mlx.conversion.plan import ConversionPlan
from qwen35_mlx.conversion.record import RECORD
from qwen35_mlx.conversion.writing import template_warnings
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text.text_files import TOKENIZER
from qwen35_mlx.user_paths import exists


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conversion that can begin.

    Attributes:
        checkpoint: the source, with the norms of its MTP head as they were confirmed.
        notes: lines for the user.
        progress: to report the bytes written to.
    """

    checkpoint: Checkpoint
    plan: ConversionPlan
    notes: tuple[str, ...]
    progress: Progress | None = None


def prepare(
    checkpoint: Checkpoint,
    options: Options,
    text_files: Collection[str],
    progress: Progress | None = None,
    *,
    run_head: bool,
    text: str | None = None,
    unread_note: str | None,
) -> Prepared:
    """Check a source and plan its conversion.

    Args:
        text_files: names of the files of its tokenizer.
        run_head: whether an MTP head may be run to confirm how its norms are read.
        text: to run it on; None for the one of the package.
        progress, unread_note: see `plan_within_range`.

    Raises:
        Qwen35Error: it cannot be converted so.
    """
    checkpoint.verify()
    checkpoint, head_lines = confirm_mtp_norms(checkpoint, run_head, text)
    if TOKENIZER not in text_files:
        raise Qwen35Error(f"{checkpoint.path} has no {TOKENIZER}: fetch it from the same model")
    notes = [*checkpoint.notes, *head_lines, *template_warnings(checkpoint)]
    if options.dequantize and "vision_config" in checkpoint.config:
        notes += ["the vision tower is left out: the result is the text model alone"]
    plan, lines, progress = plan_within_range(
        checkpoint,
        options.planner(checkpoint),
        options.dtype,
        progress,
        unread_note=unread_note,
        choose=not options.dequantize,
    )
    if not options.dequantize:
        lines = [*lines, *plan.notes(checkpoint)]
    return Prepared(checkpoint, plan, (*notes, *lines), progress)


def taken(out: Path) -> str | None:
    """A line if there is something where the result is to be."""
    if not is_occupied(out):
        return None
    state = "is complete" if exists(out / RECORD) else "exists"
    return f"{out} {state} already: remove it or choose another --mlx-path"
