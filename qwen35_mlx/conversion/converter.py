"""`convert`: from a checkpoint to a new folder in mlx-lm's layout."""

import errno
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.arguments import checked
from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress, resolve_checkpoint
from qwen35_mlx.checkpoint.index import CONFIG
from qwen35_mlx.conversion.new_folder import partial_folder, remove_leftovers, sync_entries
from qwen35_mlx.conversion.plan import plan_config, plan_files, plan_tensors
from qwen35_mlx.conversion.writing import (
    check_space,
    read_copied_files,
    size_text,
    template_warnings,
    write_weights,
)
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import write_durably
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.weights import DTYPES
from qwen35_mlx.user_paths import absolute_user_path, exists


@dataclass(frozen=True, slots=True)
class ConversionSummary:
    """The result of a conversion.

    Attributes:
        path: the new folder.
        nbytes: of all tensors.
        parameters: the number of weights of the plain model, with its MTP head.
        quantization: of most matrices, None if plain.
        plain: canonical names of the matrices that stay plain in a quantised model, because their
            rows do not divide into groups.
        warnings: a line each.
    """

    path: Path
    nbytes: int
    parameters: int
    quantization: Quantization | None
    plain: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def bits_per_weight(self) -> float:
        return self.nbytes * 8 / self.parameters


@checked
def convert(
    hf_path: str | Path,
    mlx_path: str | Path = "mlx_model",
    *,
    quantize: bool = False,
    q_bits: int | None = None,
    q_group_size: int | None = None,
    q_mode: str = "affine",
    dtype: str | None = None,
    revision: str | None = None,
    progress: Progress | None = None,
) -> ConversionSummary:
    """Write a checkpoint in mlx-lm's layout to the new folder `mlx_path`.

    Args:
        hf_path: a folder, or a repository of the Hub such as "Qwen/Qwen3.5-4B".
        quantize: whether to quantise the matrices, as `q_bits`, `q_group_size` and `q_mode` say;
            their defaults are mlx-lm's.
        dtype: of everything that is not quantised (except A_log, which stays float32), and of
            the scales; None for that of the embeddings.
        revision: branch, tag or commit on the Hub.
        progress: called after each chunk with (bytes written, bytes in total, tensor).

    Raises:
        Qwen35Error: on invalid input, a full disk or a network failure; no output folder is left.
    """
    if dtype is not None and dtype not in DTYPES:
        raise Qwen35Error(f"dtype {dtype!r} is not known: choose one of {', '.join(DTYPES)}")
    quantization = recipes.quantization(q_mode, q_bits, q_group_size) if quantize else None
    if quantization is None and (q_bits, q_group_size, q_mode) != (None, None, "affine"):
        raise Qwen35Error("q-bits, q-group-size and q-mode need quantisation: add -q")
    out = absolute_user_path(mlx_path)
    if os.path.lexists(out):
        raise Qwen35Error(f"{out} exists already: remove it or choose another --mlx-path")
    checkpoint = Checkpoint.open(resolve_checkpoint(str(hf_path), revision=revision))
    checkpoint.verify()
    copied = read_copied_files(checkpoint.path)
    if "tokenizer.json" not in copied:
        raise Qwen35Error(f"{checkpoint.path} has no tokenizer.json: fetch it from the same model")
    warnings = template_warnings(checkpoint.path)
    plans = plan_tensors(checkpoint, quantization, DTYPES[dtype] if dtype else None)
    shards = plan_files(plans)
    nbytes = sum(plan.nbytes for plan in plans)
    try:
        check_space(out, nbytes)
        warnings += remove_leftovers(out)
        parents = [parent for parent in out.parents if not exists(parent)]
        with partial_folder(out, parents) as folder:
            write_weights(folder, checkpoint, shards, nbytes, progress)
            for name, content in copied.items():
                write_durably(folder / name, content)
            config = plan_config(checkpoint, plans, quantization)
            write_durably(folder / CONFIG, json.dumps(config, indent=4, sort_keys=True))
            # Only a result that opens gets its final name.
            Checkpoint.open(folder).verify()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Qwen35Error(
                f"no space left for {out}: it takes {size_text(nbytes)}; free some or choose "
                "another --mlx-path"
            ) from error
        raise Qwen35Error(f"cannot write {out}: {error.strerror or error}") from error
    return ConversionSummary(
        path=out,
        nbytes=nbytes,
        parameters=sum(math.prod(plan.shape) for plan in plans),
        quantization=quantization,
        plain=tuple(
            plan.name
            for plan in plans
            if quantization
            and plan.quantization is None
            and recipes.is_quantizable(plan.name, plan.shape)
        ),
        warnings=tuple(warnings + sync_entries([out, *parents])),
    )
