"""`load`: from a name to a model in memory."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from qwen35_mlx.arguments import checked
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress
from qwen35_mlx.checkpoint.load import Notice, dtype_name, load_network, print_notice
from qwen35_mlx.checkpoint.opening import ModelNames
from qwen35_mlx.distributed.processes import Processes
from qwen35_mlx.evaluation.text import built_in_texts, make_documents
from qwen35_mlx.model.parallel import ALONE, Parallel
from qwen35_mlx.prompt_cache.fingerprint import of_checkpoint
from qwen35_mlx.session import mtp_readings
from qwen35_mlx.session.memory import part_needs
from qwen35_mlx.session.model import Model
from qwen35_mlx.text.template import ChatTemplate
from qwen35_mlx.text.template_process import template_process
from qwen35_mlx.text.tokenizer import Tokenizer

# On which it is found out how the norms of an MTP head are read, where its files leave a doubt.
# Few, as the user waits for them at the first load: where they do not tell, the values decide.
_CONFIRMATION_TOKENS = 96


@checked
def load(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    context: int | None = None,
    kv_bits: int | None = None,
    mtp: str | int = "auto",
    mtp_path: str | Path | None = None,
    adapter_path: str | Path | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
    parallel: Parallel | None = None,
    processes: Processes | None = None,
) -> Model:
    """Load a model from a folder, a GGUF file, the Hugging Face Hub or the package ("demo").

        model = qwen35_mlx.load("demo")

    Args:
        name: a folder, a .gguf file (of a split one, any part), "org/repo", "org/repo:Q4_K_M" for
            a GGUF file in a repository, or "demo".
        revision: branch, tag or commit on the Hub.
        dtype: "float32", "float16" or "bfloat16"; None for the checkpoint's own, float32 on a CPU.
            That of a quantised GGUF file is float16.
        context: tokens that prompt and reply may have together; None for the checkpoint's own.
            More than that, up to four times, switches YaRN on.
        kv_bits: 8 quantises keys and values to 8 bits, at a small cost in accuracy; None keeps
            them in the model's dtype.
        mtp: how many tokens are guessed, and then verified in one pass of the network: "auto" as
            many as are fastest here, by the MTP head and by what the conversation repeats; 1 to 6
            always as many, by the MTP head; "off" none. Replies are the same, up to rounding.
        mtp_path: the folder, file or repository of the MTP head, if it is neither in the
            checkpoint nor found beside it.
        adapter_path: a LoRA adapter of PEFT or mlx-lm for this model, a folder or a repository of
            the Hub. Matrices that it changes are plain in memory, also those of a quantised model.
        progress: called with (bytes so far, bytes in all, what) while files are downloaded; by
            default, bars are drawn on stderr.
        notice: called with a line for the user where something is off; by default it goes to
            stderr.
        parallel: the processes that run the model together: each loads its part, and all of them
            make the same calls in the same order. None for a model in one process.
        processes: in place of `parallel`, those that follow this one: only it calls anything.

    Raises:
        Qwen35Error: the model is not found, not complete, or not a Qwen3.5 checkpoint; or an
            argument does not fit.
    """
    paths = [None if path is None else str(path) for path in (mtp_path, adapter_path)]
    names = ModelNames(str(name), revision, *paths)
    path = names.resolve(progress, notice)
    template_process().start()  # ready by the time that the template has been read
    # Small files first: a broken template should not cost the time to read gigabytes.
    checkpoint = names.open(path, progress)
    notice = notice or print_notice
    for note in checkpoint.notes:
        notice(note)
    files = checkpoint.text
    tokenizer = Tokenizer.from_files(files)
    template = ChatTemplate.from_files(files)
    if template is None:
        notice(
            f"{name} has no chat template: it cannot chat, only complete text and give logits; "
            "to chat, add the chat_template.jinja of the original checkpoint"
        )
    parallel = parallel or ALONE
    documents: list[list[int]] = []
    norms, raw = checkpoint.mtp_norms, None
    if mtp != "off" and norms is not None and not norms.certain:
        raw = mtp_readings.remembered(checkpoint)
        same = len(set(parallel.exchange(str(raw and sorted(raw))))) == 1
        if raw is not None and same:
            checkpoint = checkpoint.with_mtp_norms(raw)
        else:
            documents = make_documents(tokenizer, built_in_texts(), _CONFIRMATION_TOKENS)
    options: dict[str, Any] = {
        "dtype": dtype,
        "context": context,
        "mtp": mtp != "off",
        "mtp_documents": documents,
        "kv_bits": kv_bits,
    }
    others = None
    if processes is not None:
        options["dtype"] = dtype_name(checkpoint, dtype)  # their devices may differ
        processes.open(names, of_checkpoint(checkpoint.files, checkpoint.adapter))
        notice(_part_needs(checkpoint, processes, options))
        others = processes.load(raw, options)
    network = load_network(
        checkpoint,
        notice=notice,
        mtp_decided=partial(mtp_readings.remember, checkpoint),
        parallel=parallel if processes is None else processes.parallel,
        **options,
    )
    if processes is not None and others is not None:
        network = processes.network(network, others)
    if isinstance(mtp, int) and network.mtp is None:
        notice(
            f"{name} has no MTP head, so no tokens are guessed: leave out --mtp {mtp}, or name a "
            "head with mtp_path"
        )
    return Model(str(name), checkpoint, network, tokenizer, template, kv_bits=kv_bits, mtp=mtp)


def _part_needs(checkpoint: Checkpoint, processes: Processes, options: Mapping[str, Any]) -> str:
    """What one process needs, for the user; as `part_needs`."""
    config, shard = checkpoint.model, processes.parallel.shard
    if options["context"] is not None:
        config = config.with_context(options["context"])
    assert shard is not None
    return part_needs(
        *(checkpoint.nbytes, config, shard),
        4 if options["dtype"] == "float32" else 2,
        options["kv_bits"],
        processes.limit,
    )
