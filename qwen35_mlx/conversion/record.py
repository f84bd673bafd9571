"""What a converted folder says of itself: conversion.json and the model card README.md."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.conversion.plan import ConversionPlan
from qwen35_mlx.conversion.proof import Proof
from qwen35_mlx.files import open_regular

RECORD = "conversion.json"
CARD = "README.md"
_HASH_BYTES = 4 << 20
_REPOSITORY = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")
_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a conversion came from, without a path of this machine.

    Attributes:
        name: of the repository on the Hub, or of the folder or file.
        revision: the commit on the Hub; None for a folder.
        files: SHA-256 by name, where the download cache knows it; else None.
    """

    name: str
    revision: str | None
    files: Mapping[str, str | None]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Source":
        """The source that a checkpoint is: a snapshot in the download cache, or any other path."""
        path = checkpoint.path
        folder = path if path.is_dir() else path.parent
        name, revision = path.name, None
        repository = _REPOSITORY.fullmatch(folder.parent.parent.name)
        if repository and folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
            name = f"{repository['owner']}/{repository['name']}"
            revision = folder.name
        return cls(name, revision, {file.name: _cached_hash(file) for file in checkpoint.files})


def _cached_hash(file: Path) -> str | None:
    """The SHA-256 that is the name of a file in the download cache."""
    name = file.resolve().name
    return name if _SHA256.fullmatch(name) else None


def record(
    source: Source, plan: ConversionPlan, options: Mapping[str, Any], folder: Path, proof: Proof
) -> dict[str, Any]:
    """conversion.json: the source, the options, the files and the figures.

    Args:
        options: of the call, as JSON has them.
        folder: with the files of the plan.
    """
    return {
        "qwen35_mlx": version("qwen35-mlx"),
        "mlx": version("mlx"),
        "source": {
            "name": source.name,
            "revision": source.revision,
            "sha256": dict(source.files),
        },
        "options": dict(options),
        "parameters": plan.parameters,
        "bytes": plan.nbytes,
        "bits_per_weight": plan.nbytes * 8 / plan.parameters,
        "sha256": {name: sha256(folder / name) for name in plan.files},
        "measured": proof.values(),
    }


def sha256(file: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(file) as opened:
        while piece := opened.read(_HASH_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def model_card(values: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """README.md of the Hub, with the figures of conversion.json.

    Args:
        values: conversion.json.
        config: config.json.
    """
    source, measured = values["source"], values["measured"]
    is_repository = source["revision"] is not None
    plain = bool(values["options"]["dequantize"])
    library = "transformers" if plain else "mlx"
    head = ["---", f"library_name: {library}", "pipeline_tag: text-generation"]
    head += [] if plain else ["tags:", "- mlx"]
    if is_repository:
        head += [f"base_model: {source['name']}"]
    name = (
        f"[{source['name']}](https://huggingface.co/{source['name']})"
        if is_repository
        else (f"`{source['name']}`")
    )
    revision = f" at revision `{source['revision']}`" if is_repository else ""
    quantization = config.get("quantization")
    form = (
        "unquantised"
        if not quantization
        else (
            f"{values['bits_per_weight']:.2f} bits per weight, most matrices with "
            f"{quantization['bits']} bits in groups of {quantization['group_size']} "
            f"({quantization.get('mode', 'affine')})"
        )
    )
    lines = [
        *head,
        "---",
        "",
        f"Converted from {name}{revision} with qwen35-mlx {values['qwen35_mlx']}: "
        f"{values['bytes'] / 1e9:.2f} GB, {form}. It loads in "
        f"{'transformers, ' if plain else ''}qwen35-mlx and mlx-lm.",
        "",
    ]
    if "not_measured" in measured:
        lines += [f"It was not measured against its source: {measured['not_measured']}.", ""]
    else:
        lines += [*_figures(measured), ""]
    lines += [f"[{RECORD}]({RECORD}) has the options, the hashes and all figures.", ""]
    return "\n".join(lines)


def _figures(measured: Mapping[str, Any]) -> list[str]:
    """A Markdown table of the result against its source."""
    drift, perplexity = measured["kl_nats"], measured["perplexity"]
    rows = [
        ("perplexity", f"{perplexity['source']:.4f}", f"{perplexity['result']:.4f}"),
        ("KL divergence, mean (nats)", f"{drift['floor_mean']:.1e}", f"{drift['mean']:.4f}"),
        ("KL divergence, 99th percentile", "", f"{drift['p99']:.4f}"),
        ("same most likely token", "", f"{measured['same_top_token']:.2%}"),
    ]
    if mtp := measured.get("mtp_agreement"):
        one, other = ("none" if s is None else f"{s:.1%}" for s in (mtp["source"], mtp["result"]))
        rows.append(("agreement of the MTP head", one, other))
    return [
        f"On {measured['tokens']:,} tokens; the divergence of the source from itself is the floor "
        "of the measurement:",
        "",
        "| | source | result |",
        "|---|---|---|",
        *(f"| {label} | {one} | {other} |" for label, one, other in rows),
        *(f"\nNote: {note}." for note in measured.get("notes", ())),
    ]
