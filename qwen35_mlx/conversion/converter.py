"""`convert`: from a checkpoint to a new folder in mlx-lm's layout."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from qwen35_mlx.arguments import checked
from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress, resolve_adapter, resolve_checkpoint, resolve_head
from qwen35_mlx.checkpoint.index import ADAPTER_CONFIG, CONFIG
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion.calibration import CalibrationText, measure_importance
from qwen35_mlx.conversion.float16 import STREAMED_NOTE
from qwen35_mlx.conversion.journal import JOURNAL, Journal, check_identity, completed
from qwen35_mlx.conversion.new_folder import (
    continue_leftover,
    folder_bytes,
    leftovers,
    partial_folder,
    partial_path,
    remove_leftovers,
    source_path,
    sync_entries,
)
from qwen35_mlx.conversion.options import Options
from qwen35_mlx.conversion.plan import MTP_FILE, ConversionPlan
from qwen35_mlx.conversion.preparation import prepare, taken
from qwen35_mlx.conversion.proof import Proof, prove
from qwen35_mlx.conversion.record import CARD, RECORD, Source, model_card, record
from qwen35_mlx.conversion.streaming import StreamedSource, streamed
from qwen35_mlx.conversion.upload import prepare_upload, upload
from qwen35_mlx.conversion.writing import (
    check_space,
    disk_errors_named,
    read_copied_files,
    write_weights,
)
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import write_durably
from qwen35_mlx.kernels.quantized import Quantization
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
        proof: the result measured against its source.
        warnings: a line each.
        dtype: of what is not quantised, scales included, for the most part.
        carried: the number of matrices of a quantised result that the source has in the same
            quantisation, and that are copied.
        address: of the repository that it was uploaded to.
    """

    path: Path
    nbytes: int
    parameters: int
    quantization: Quantization | None
    plain: tuple[str, ...]
    proof: Proof
    warnings: tuple[str, ...]
    dtype: str
    carried: int
    address: str | None = None

    @property
    def bits_per_weight(self) -> float:
        return self.nbytes * 8 / self.parameters


def _identity(
    checkpoint: Checkpoint,
    plan: ConversionPlan,
    stream: StreamedSource | None,
    calibration: CalibrationText | None,
) -> str:
    """What a conversion must have in common with one that it continues."""
    files = set(checkpoint.files)
    commit = None
    if stream is not None:
        commit = stream.shards.repository, stream.shards.commit
        files = {file for file in files if stream.shards.folder not in file.parents}
    if checkpoint.adapter:
        files.add(checkpoint.adapter.parent / ADAPTER_CONFIG)
    stats = [(str(path), path.stat()) for path in sorted(files)]
    source = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    text = repr(
        (
            *(version("qwen35-mlx"), commit, source, plan.tensors),
            json.dumps(plan.config, sort_keys=True),
            calibration and calibration.values(),
        )
    )
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@checked
def convert(
    hf_path: str | Path,
    mlx_path: str | Path = "mlx_model",
    *,
    quantize: bool = False,
    recipe: str | None = None,
    q_bits: int | None = None,
    q_group_size: int | None = None,
    q_mode: str = "affine",
    dequantize: bool = False,
    adapter_path: str | Path | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    mtp: str | Path | None = None,
    resume: bool = False,
    stream: bool = False,
    upload_repo: str | None = None,
    public: bool = False,
    calibrate: str | None = None,
    verify: bool = True,
    verify_text: str | None = None,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> ConversionSummary:
    """Write a checkpoint to the new folder `mlx_path`, in mlx-lm's layout.

    There may be an empty folder of that name.

    Args:
        hf_path: a folder, a GGUF file, or a repository of the Hub such as "Qwen/Qwen3.5-4B".
        quantize: whether to quantise the matrices: by `recipe`, or with `q_bits`, `q_group_size` or
            `q_mode` all in one way, as mlx-lm does; without any of them by the recipe "4bit".
        recipe: "3bit" to "8bit" spend the bytes of that many bits where they matter most, and
            search scales; "mixed_2_6" to "mixed_4_6" are mlx-lm's; or a .toml file, which
            `checkpoint.recipe_file` describes.
        dequantize: whether to write plain weights in the layout of Hugging Face, which transformers
            loads.
        adapter_path: of a LoRA adapter that is fused into the weights, as for `load`. Matrices that
            the source has quantised are quantised again in the same way, unless `quantize` or
            `dequantize` says otherwise.
        dtype: of everything that is not quantised (except A_log, which stays float32), and of
            the scales; None for that of each tensor, or float16 on a GPU that emulates bfloat16,
            if weights and activations fit.
        revision: branch, tag or commit on the Hub.
        mtp: the folder, file or repository of the MTP head, if it is neither in the checkpoint nor
            found beside it.
        resume: whether to go on where the same conversion ended early, if there is one, and to keep
            what is complete if this one does.
        stream: whether to download one shard of the repository after the other, and to remove each
            when it is converted, for a model that is larger than the free disk. The result is not
            measured then.
        upload_repo: a repository, "org/name", that the result is uploaded to as well: a new or an
            empty one. It is made before the conversion.
        public: whether that repository is public; else it is private.
        calibrate: a text like what the model will read. Its first 16,384 tokens are read by the
            source, layer by layer, and the search for scales weights errors by the inputs that each
            matrix then has. With recipes that search, and not with `stream`.
        verify: whether to measure the result against its source, layer by layer: perplexity, KL
            divergence, agreement. The figures are in the summary, conversion.json and README.md.
        verify_text: to measure on; None for one of the package, with prose, code, Chinese and
            arithmetic.
        progress: called after each chunk with (bytes written, bytes in total, tensor); then, while
            the result is measured, with (work done, work in all, what is being done).
        notice: called with a line for the user that says what is read.

    Raises:
        Qwen35Error: on invalid input, a full disk, a network failure, or a result that does not
            compute; no output folder is left, unless the upload failed.
        KeyboardInterrupt: what is complete is kept, hidden, for a call with `resume`.
    """
    options = Options.of(
        quantize=quantize,
        recipe=recipe,
        q_bits=q_bits,
        q_group_size=q_group_size,
        q_mode=q_mode,
        dequantize=dequantize,
        dtype=dtype,
    )
    out = absolute_user_path(mlx_path)
    if line := taken(out):
        raise Qwen35Error(line)
    if upload_repo is None and public:
        raise Qwen35Error("--public needs a repository to upload to: add --upload-repo")
    if upload_repo is not None:
        prepare_upload(upload_repo, public=public)
    if calibrate is not None:
        options.check_calibration(stream, calibrate == verify_text)
    head = None if mtp is None else resolve_head(str(mtp))
    adapter = None if adapter_path is None else resolve_adapter(str(adapter_path))

    def run(checkpoint: Checkpoint, source: StreamedSource | None = None) -> ConversionSummary:
        if adapter is not None:
            checkpoint = checkpoint.with_adapter(adapter)
        task = _Task(out, options, resume, calibrate, verify, verify_text, progress)
        return _convert(checkpoint, task, source)

    if stream:
        if notice:
            notice(f"Reading the headers of {hf_path}")
        with streamed(str(hf_path), revision, head, out, resume) as source:
            summary = run(source.checkpoint, source)
    else:
        path = resolve_checkpoint(str(hf_path), revision, notice=notice)
        checkpoint = open_checkpoint(path, head)
        if notice:
            notice(f"Reading {path}")
        summary = run(checkpoint)
    if upload_repo is not None:
        summary = replace(summary, address=upload(out, upload_repo))
    return summary


@dataclass(frozen=True, slots=True)
class _Task:
    """Arguments of `convert` but those of the source."""

    out: Path
    options: Options
    resume: bool
    calibrate: str | None
    verify: bool
    verify_text: str | None
    progress: Progress | None


def _calibrated(
    plan: ConversionPlan, checkpoint: Checkpoint, text: CalibrationText, progress: Progress | None
) -> ConversionPlan:
    """The plan with the importance of inputs, before anything is written."""

    def report(what: str) -> None:
        if progress:
            progress(0, plan.nbytes, what)

    return plan.weighted(measure_importance(checkpoint, text, report))


def _convert(
    checkpoint: Checkpoint, task: _Task, stream: StreamedSource | None
) -> ConversionSummary:
    """Convert a checkpoint, that of `stream` if it is given. Otherwise as `convert`."""
    out, options = task.out, task.options
    copied = read_copied_files(checkpoint)
    prepared = prepare(
        checkpoint,
        options,
        copied,
        task.progress,
        run_head=task.verify and stream is None,
        text=task.verify_text,
        unread_note=STREAMED_NOTE if stream else None,
    )
    checkpoint, plan, progress = prepared.checkpoint, prepared.plan, prepared.progress
    warnings = [*prepared.notes]
    text = None if task.calibrate is None else CalibrationText.of(task.calibrate, checkpoint)
    with disk_errors_named(out, plan.nbytes, "another --mlx-path"):
        identity = _identity(checkpoint, plan, stream, text)
        left = [folder for folder in leftovers(out) if completed(folder)][:1] if task.resume else []
        for folder in left:
            check_identity(folder, identity)
        here = sum(folder_bytes(folder) for folder in left)
        source_bytes = 0
        if stream is not None:
            source_bytes = stream.nbytes([tensor.name for tensor in plan.tensors])
            here += stream.held_bytes()
        check_space(out, plan.nbytes, source_bytes, here)
        if text is not None:
            plan = _calibrated(plan, checkpoint, text, progress)
        warnings += remove_leftovers(out, [*left, *([source_path(out)] if stream else [])])
        if left:
            continue_leftover(left[0], out, kept={JOURNAL, *plan.files})
        parents = [parent for parent in out.parents if not exists(parent)]

        def keep(error: BaseException) -> bool:
            asked = task.resume or isinstance(error, KeyboardInterrupt)
            return asked and bool(completed(partial_path(out)))

        with partial_folder(out, parents, keep) as folder, Journal(folder, identity) as journal:
            write_weights(folder, checkpoint, plan, journal, progress, stream)
            for name, content in copied.items():
                write_durably(folder / name, content)
            write_durably(folder / CONFIG, json.dumps(plan.config, indent=4, sort_keys=True))
            # Only a result that opens, and computes, gets its final name.
            head = folder / MTP_FILE if MTP_FILE in plan.files else None
            result = open_checkpoint(folder, head)
            result.verify()
            proof = Proof(None, "it was not asked for")
            if task.verify and stream is not None:
                proof = Proof(None, "its source was streamed, and is not here any more")
            elif task.verify:
                proof = prove(checkpoint, result, task.verify_text, progress)
            source = stream.source if stream else Source.of(checkpoint)
            values = record(source, plan, options.values(checkpoint, text), folder, proof)
            write_durably(folder / RECORD, json.dumps(values, indent=4))
            write_durably(folder / CARD, model_card(values, plan.config))
            journal.remove()
    return ConversionSummary(
        path=out,
        nbytes=plan.nbytes,
        parameters=plan.parameters,
        quantization=options.recipe.default if options.recipe else None,
        plain=tuple(
            tensor.name
            for tensor in plan.tensors
            if options.recipe
            and tensor.quantization is None
            and recipes.is_quantizable(tensor.name, tensor.shape)
        ),
        proof=proof,
        warnings=tuple(warnings + sync_entries([out, *parents])),
        dtype=plan.dtype,
        carried=plan.carried if options.recipe else 0,
    )
