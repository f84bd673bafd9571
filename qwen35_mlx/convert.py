"""Convert a checkpoint for MLX: `qwen35-convert --hf-path Qwen/Qwen3.5-4B -q`.

`python -m qwen35_mlx.convert` is the same command. Options and the layout of the result are
mlx-lm's, with two differences: weights are converted in chunks, so the model need not fit in
memory, and the MTP head is kept, in `mtp.safetensors`.
"""

import errno
import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from qwen35_mlx.arguments import checked
from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress, resolve_checkpoint
from qwen35_mlx.checkpoint.index import CONFIG, INDEX
from qwen35_mlx.checkpoint.new_folder import partial_folder, remove_leftovers, sync_entries
from qwen35_mlx.checkpoint.plan import TensorPlan, plan_config, plan_files, plan_tensors
from qwen35_mlx.checkpoint.safetensors import FileWriter
from qwen35_mlx.command_line import CommandParser, run_command
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_bytes, read_json_object, write_durably
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.weights import DTYPES
from qwen35_mlx.terminal import print_error, print_line
from qwen35_mlx.user_paths import absolute_user_path, exists

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
    if checkpoint.is_quantized:
        raise Qwen35Error(
            f"{checkpoint.path} is already quantised: use it as it is, or convert the "
            "checkpoint it was made from"
        )
    checkpoint.verify()
    copied = _read_copied_files(checkpoint.path)
    if "tokenizer.json" not in copied:
        raise Qwen35Error(f"{checkpoint.path} has no tokenizer.json: fetch it from the same model")
    warnings = _template_warnings(checkpoint.path)
    plans = plan_tensors(checkpoint, quantization, DTYPES[dtype] if dtype else None)
    shards = plan_files(plans)
    nbytes = sum(plan.nbytes for plan in plans)
    try:
        _check_space(out, nbytes)
        warnings += remove_leftovers(out)
        parents = [parent for parent in out.parents if not exists(parent)]
        with partial_folder(out, parents) as folder:
            _write_weights(folder, checkpoint, shards, nbytes, progress)
            for name, content in copied.items():
                write_durably(folder / name, content)
            config = plan_config(checkpoint, plans, quantization)
            write_durably(folder / CONFIG, json.dumps(config, indent=4, sort_keys=True))
            # Only a result that opens gets its final name.
            Checkpoint.open(folder).verify()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Qwen35Error(
                f"no space left for {out}: it takes {_size(nbytes)}; free some or choose "
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


def _check_space(out: Path, nbytes: int) -> None:
    parent = next(folder for folder in out.parents if exists(folder))
    free = shutil.disk_usage(parent).free
    # 64 MiB for the tokenizer, the index and the headers.
    if free < nbytes + (64 << 20):
        raise Qwen35Error(
            f"not enough space for {out}: it takes {_size(nbytes)}, {_size(free)} are "
            "free; free some or choose another --mlx-path"
        )


def _write_weights(
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


def _read_copied_files(source: Path) -> dict[str, bytes]:
    """The files of a checkpoint that a conversion copies, by name."""
    return {
        name: read_bytes(source / name) for name in _COPIED_FILES if os.path.lexists(source / name)
    }


def _template_warnings(source: Path) -> list[str]:
    if any(os.path.lexists(source / f"chat_template.{suffix}") for suffix in ("jinja", "json")):
        return []
    if "chat_template" in read_json_object(source / "tokenizer_config.json"):
        return []
    return ["no chat template: add the model's chat_template.jinja to the folder to chat with it"]


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit codes: 0, 2 after an error line, 130 after Ctrl-C."""
    return run_command(_program(), lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    parser = CommandParser(prog=_program(), description="Convert a Qwen3.5 checkpoint for MLX.")
    add = parser.add_argument
    add("--hf-path", "--model", required=True, help="a folder or a Hub repository, org/repo")
    add("--mlx-path", default="mlx_model", help="the new folder (default: %(default)s)")
    add("-q", "--quantize", action="store_true", help="quantise the matrices")
    add("--q-bits", type=int, help="bits per weight (default: 4, or the mode's own)")
    add("--q-group-size", type=int, help="weights that share a scale (default: 64, or the mode's)")
    add("--q-mode", choices=recipes.MODES, default="affine", help="(default: %(default)s)")
    add("--dtype", choices=list(DTYPES), help="of what is not quantised (default: unchanged)")
    add("--revision", help="branch, tag or commit of the Hub repository")
    options = parser.parse_args(argv)
    out = absolute_user_path(options.mlx_path)
    existed = os.path.lexists(out)
    # Freed buffers have every size and are seldom reused: a cache of them would only grow.
    mx.set_cache_limit(0)
    try:
        with _Bar() as bar:
            summary = convert(**vars(options), progress=bar)
    except KeyboardInterrupt:
        # A folder under its final name is complete, whatever was still to be waited for.
        kept = os.path.lexists(out) and not existed
        print_error(f"interrupted: {f'{out} is complete' if kept else 'nothing was kept'}")
        raise
    for warning in summary.warnings:
        print_error(f"warning: {warning}")
    if summary.plain:
        print_line(
            f"{len(summary.plain)} matrices stay plain, as their rows do not divide into groups: "
            f"{', '.join(summary.plain[:3])}{' ...' if len(summary.plain) > 3 else ''}"
        )
    print_line(
        f"{summary.path}: {_size(summary.nbytes)}, {summary.bits_per_weight:.2f} bits per "
        f"weight. Next: qwen35-chat --model {summary.path}"
    )
    return 0


def _program() -> str:
    """The name of the command, as it was called."""
    name = "qwen35-convert"
    return name if Path(sys.argv[0]).stem == name else "python -m qwen35_mlx.convert"


class _Bar:
    """A progress bar on stderr that appears with the first chunk."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, done: int, total: int, name: str) -> None:
        if self._bar is None:
            from tqdm import tqdm  # a dependency of huggingface_hub, needed by the command only

            self._bar = tqdm(total=total, unit="B", unit_scale=True, desc="Converting")
        self._bar.set_postfix_str(name, refresh=False)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


if __name__ == "__main__":
    sys.exit(main())
