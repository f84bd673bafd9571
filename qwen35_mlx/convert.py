"""Convert a checkpoint for MLX: `qwen35-convert --hf-path Qwen/Qwen3.5-4B -q`.

`python -m qwen35_mlx.convert` is the same command. Options and the layout of the result are
mlx-lm's, with two differences: weights are converted in chunks, so the model need not fit in
memory, and the MTP head is kept, in `mtp.safetensors`.

Heavy modules are imported where they are used, so that Ctrl-C ends their import in one line too.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qwen35_mlx.command_line import CommandParser, run_command
from qwen35_mlx.progress import ProgressBar
from qwen35_mlx.terminal import print_error, print_line
from qwen35_mlx.user_paths import absolute_user_path

if TYPE_CHECKING:
    from qwen35_mlx.conversion.proof import Proof


_BY_TYPE = "--gguf-type says how the matrices are written"
_FOR_FOLDERS = "it is for a folder, --mlx-path"
_UNMEASURED = "a GGUF file is not measured"
_IN_STEPS = "convert to a folder with it first, and write the GGUF file from that"
# Options of a conversion to a folder, and what to do in place of them.
_NOT_FOR_GGUF = {
    "mlx_path": "choose one of the two",
    **dict.fromkeys(("quantize", "recipe", "q_bits", "q_group_size", "q_mode"), _BY_TYPE),
    "calibrate": _BY_TYPE,
    **dict.fromkeys(("dequantize", "dtype"), _BY_TYPE),
    **dict.fromkeys(("resume", "stream", "upload_repo", "public"), _FOR_FOLDERS),
    **dict.fromkeys(("verify", "verify_text"), _UNMEASURED),
    "adapter_path": _IN_STEPS,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit codes: 0, 2 after an error line, 130 after Ctrl-C."""
    return run_command(_program(), lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    import mlx.core as mx

    from qwen35_mlx.checkpoint import recipes
    from qwen35_mlx.conversion.converter import convert
    from qwen35_mlx.conversion.gguf_plan import TYPES
    from qwen35_mlx.conversion.writing import size_text
    from qwen35_mlx.evaluation.text import read_user_text
    from qwen35_mlx.model.weights import DTYPES

    parser = CommandParser(
        prog=_program(),
        description="Convert a Qwen3.5 checkpoint for MLX.",
        epilog="A conversion has a few rows of a matrix in memory at a time, whatever the model's "
        "size. It takes the disk space of its result, which is checked before the start; with "
        "--stream, that of the largest shards too, and not that of the source.",
    )
    add = parser.add_argument
    add("--hf-path", "--model", required=True, help="a folder, a GGUF file or a Hub repository")
    add("--mlx-path", default="mlx_model", help="the new folder (default: %(default)s)")
    add("-q", "--quantize", action="store_true", help="quantise the matrices, by the recipe 4bit")
    add(
        "--recipe",
        "--quant-predicate",
        metavar="NAME",
        help=f"{', '.join(recipes.RECIPES)}, or a .toml file; quantises without -q too",
    )
    add("--q-bits", type=int, help="the same bits for all matrices")
    add("--q-group-size", type=int, help="weights that share a scale (default: 64, or the mode's)")
    add("--q-mode", choices=recipes.MODES, default="affine", help="(default: %(default)s)")
    add("-d", "--dequantize", action="store_true", help="plain weights, as transformers loads them")
    add("--adapter-path", metavar="PATH", help="a LoRA adapter to fuse into the weights")
    add(
        "--dtype",
        choices=list(DTYPES),
        help="of what is not quantised (default: unchanged; float16 on M1 and M2, if it fits)",
    )
    add("--revision", help="branch, tag or commit of the Hub repository")
    add("--mtp", metavar="PATH", help="an MTP head: a folder, a file or a Hub repository")
    add("--resume", action="store_true", help="go on where the same conversion ended early")
    add(
        "--stream",
        action="store_true",
        help="download and remove one shard of the repository after the other",
    )
    add("--upload-repo", metavar="ORG/NAME", help="a new repository to upload the result to")
    add("--public", action="store_true", help="make that repository public (default: private)")
    add("--calibrate", metavar="FILE", help="text whose inputs weight errors in the search of -q")
    add("--no-verify", dest="verify", action="store_false", help="do not measure the result")
    add("--verify-text", metavar="FILE", help="text to measure on (default: one of the package)")
    add("--dry-run", action="store_true", help="print what would be written, and write nothing")
    add("--gguf", metavar="FILE", help="write this GGUF file, and no folder for MLX")
    types = f"of its matrices: {', '.join(TYPES)} (default: BF16 or F16)"
    add("--gguf-type", metavar="TYPE", help=types)
    options = parser.parse_args(argv)
    file, kind = vars(options).pop("gguf"), vars(options).pop("gguf_type")
    is_dry = vars(options).pop("dry_run")
    if file is not None and is_dry:
        parser.error("--dry-run prints what a folder for MLX would hold: leave out --gguf")
    if file is not None:
        return _export(parser, options, file, kind)
    if kind is not None:
        parser.error("--gguf-type needs --gguf FILE")
    if is_dry:
        return _preview(options)
    for name in ("calibrate", "verify_text"):
        if (path := getattr(options, name)) is not None:
            setattr(options, name, read_user_text(f"--{name.replace('_', '-')}", path))
    out = absolute_user_path(options.mlx_path)
    # Freed buffers have every size and are seldom reused: a cache of them would only grow.
    mx.set_cache_limit(0)
    with _interruptions_named(out), ProgressBar("Converting", then="Measuring") as bar:
        summary = convert(**vars(options), progress=bar, notice=print_error)
    for warning in summary.warnings:
        print_error(f"warning: {warning}")
    if summary.carried:
        print_line(
            f"{summary.carried} matrices are carried over as they are: the source has them in "
            "this quantisation"
        )
    if summary.plain:
        print_line(
            f"{len(summary.plain)} matrices stay plain, as their rows do not divide into groups: "
            f"{', '.join(summary.plain[:3])}{' ...' if len(summary.plain) > 3 else ''}"
        )
    if options.verify:
        _print_proof(summary.proof)
    if summary.dtype == "float32" and options.dtype is None:
        what = "weights" if summary.quantization is None else "the scales of the matrices"
        print_line(
            f"{what[0].upper()}{what[1:]} are float32, as the source is: --dtype bfloat16 halves "
            "them"
        )
    print_line(
        f"{summary.path}: {size_text(summary.nbytes)}, {summary.bits_per_weight:.2f} bits per "
        f"weight. Next: qwen35-chat --model {summary.path}"
    )
    if summary.address:
        print_line(f"Uploaded to {summary.address}")
    return 0


def _preview(options: argparse.Namespace) -> int:
    """Print what the conversion would write, and take."""
    from qwen35_mlx.conversion.plan_table import memory_line, table_lines
    from qwen35_mlx.conversion.preview import preview_conversion
    from qwen35_mlx.conversion.writing import size_text

    without = ("resume", "upload_repo", "public", "calibrate", "verify", "verify_text")
    arguments = {name: one for name, one in vars(options).items() if name not in without}
    preview = preview_conversion(**arguments)
    for warning in preview.warnings:
        print_error(f"warning: {warning}")
    for line in table_lines(preview.rows):
        print_line(line)
    print_line(memory_line(preview.memory))
    if preview.download_bytes:
        print_line(
            f"Download: {size_text(preview.download_bytes)} first, or one shard after the other "
            "with --stream"
        )
    print_line(
        f"Disk: {size_text(preview.needed_bytes)} needed for {preview.path}, "
        f"{size_text(preview.free_bytes)} free"
    )
    if preview.needed_bytes > preview.free_bytes:
        print_error("warning: the disk has no room for it: free some or choose another --mlx-path")
    print_line("Nothing was written. Next: the same command without --dry-run")
    return 0


def _export(parser: CommandParser, options: argparse.Namespace, file: str, kind: str | None) -> int:
    """Write a GGUF file in place of a folder."""
    import mlx.core as mx

    from qwen35_mlx.conversion.gguf_export import export_gguf
    from qwen35_mlx.conversion.writing import size_text

    for name, advice in _NOT_FOR_GGUF.items():
        if getattr(options, name) != parser.get_default(name):
            option = "--no-verify" if name == "verify" else f"--{name.replace('_', '-')}"
            parser.error(f"{option} does not go with --gguf: {advice}")
    mx.set_cache_limit(0)
    out = absolute_user_path(file)
    with _interruptions_named(out), ProgressBar("Writing") as bar:
        summary = export_gguf(
            options.hf_path,
            file,
            gguf_type=kind,
            revision=options.revision,
            mtp=options.mtp,
            progress=bar,
            notice=print_error,
        )
    for warning in summary.warnings:
        print_error(f"warning: {warning}")
    print_line(f"{summary.path}: {summary.kind}, {size_text(summary.nbytes)}")
    return 0


@contextmanager
def _interruptions_named(out: Path) -> Iterator[None]:
    """Ctrl-C within the block says what is left of a conversion to a new folder or file."""
    from qwen35_mlx.conversion.journal import completed
    from qwen35_mlx.conversion.new_folder import is_occupied, partial_path

    existed = is_occupied(out)
    try:
        yield
    except KeyboardInterrupt:
        # What has its final name is complete, whatever was still to be waited for.
        if is_occupied(out) and not existed:
            left = f"{out} is complete"
        elif tensors := len(completed(partial_path(out))):
            left = f"{tensors} tensors are kept; go on with the same command and --resume"
        else:
            left = "nothing was kept"
        raise KeyboardInterrupt(left) from None


def _print_proof(proof: "Proof") -> None:
    if proof.comparison is None:
        print_line(f"Not measured: {proof.reason}.")
        return
    found = proof.comparison
    drift, worst = found.divergence, sorted(found.tensor_errors.items(), key=lambda item: -item[1])
    print_line(
        f"Measured on {found.tokens:,} tokens: perplexity {found.a.perplexity:.4f} -> "
        f"{found.b.perplexity:.4f}, KL divergence {drift.mean:.2e} (99th percentile "
        f"{drift.p99:.2e}, floor {found.floor.mean:.0e}), same top token {drift.top1:.2%}"
    )
    if found.b.mtp_agreement is not None:
        before = found.a.mtp_agreement
        share = "" if before is None else f"{before:.1%} -> "
        print_line(f"Agreement of the MTP head: {share}{found.b.mtp_agreement:.1%}")
    if worst and worst[0][1]:
        listed = ", ".join(f"{kind} {error:.1e}" for kind, error in worst[:3])
        print_line(f"Largest relative errors: {listed}")
    for note in found.notes:
        print_line(f"Note: {note}")


def _program() -> str:
    """The name of the command, as it was called."""
    name = "qwen35-convert"
    return name if Path(sys.argv[0]).stem == name else "python -m qwen35_mlx.convert"


if __name__ == "__main__":
    sys.exit(main())
