"""From a model's name, as a user gives it, to its files; downloads them if need be."""

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwen35_mlx import demo
from qwen35_mlx.checkpoint import gguf_names, stored
from qwen35_mlx.checkpoint.hub_client import STALL_SECONDS, start_client, watched
from qwen35_mlx.checkpoint.hub_name import HubName
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.progress import Progress
from qwen35_mlx.user_paths import exists, is_dir, is_file, shown, user_path

# Files of the model, its tokenizer and its template, at the top of a repository.
ALLOW_PATTERNS = (
    "config.json",
    "mtp/config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
# Files in folders other than mtp/ (`*` matches `/` too), and copies of the same weights in other
# formats.
IGNORE_PATTERNS = (
    *("[!m]*/*", "m/*", "m[!t]*/*", "mt/*", "mt[!p]*/*", "mtp[!/]*/*", "mtp/*/*"),
    *("consolidated*", "adapter*", "mtp/consolidated*", "mtp/adapter*"),
)

_ADAPTER_PATTERNS: tuple[str, ...] = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapters.safetensors",
)


def resolve_checkpoint(
    name: str,
    revision: str | None = None,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
    *,
    stall_seconds: float = STALL_SECONDS,
) -> Path:
    """The folder of a checkpoint, or the first part of a GGUF file, downloaded if need be.

    A copy that another program keeps (`places.program_places`) is used where the cache of the Hub
    has none, without the network.

    Args:
        name: a folder or a GGUF file; "demo" for the small model of this package; or, on the Hub,
            "org/repo", "org/repo:Q4_K_M" or "org/repo/file.gguf".
        revision: branch, tag or commit on the Hub. Copies of other programs are then ignored.
        progress: called during a download with (bytes downloaded, bytes in total, repository); the
            total grows as files are found. An error that it raises ends the download. None lets
            huggingface_hub draw bars on stderr.
        notice: called with a line for the user that says which copy is used, if it is not that of
            the Hub's cache, or if there are several.
        stall_seconds: how long the Hub may be silent.

    An interrupted download resumes. A complete one in the cache needs no network. In a repository
    of GGUF files, one is chosen, from those that are here if there are any: the only one, else
    Q4_K_M, else Q8_0.

    Raises:
        Qwen35Error: there is no such file, folder or repository, the name may be one of several
            GGUF files, or the download fails.
    """
    hub_name = _parse(name)
    if isinstance(hub_name, Path):
        return hub_name
    if revision is None and (copies := stored.copies(hub_name)):
        first = copies[0]
        if notice and (first.program or len(copies) > 1):
            others = "".join(f", not {copy.path}" for copy in copies[1:])
            notice(f"{name} is read from {first.path}{others}")
        # The cache of the Hub may be out of date, but for GGUF files, which are large.
        if first.program or gguf_names.is_gguf(first.path.name):
            return first.path
    return _download(hub_name, name, revision, progress, stall_seconds, _fetch)


def _parse(name: str) -> Path | HubName:
    """What a name means: a checkpoint on this disk, or one on the Hub.

    Raises:
        Qwen35Error: neither.
    """
    if name == demo.NAME:
        return _demo_folder()
    path = user_path(name)
    if name and is_dir(path):
        return stored.in_folder(path)
    if name and exists(path):
        if not gguf_names.is_gguf_file(path):
            raise Qwen35Error(
                f"{path} is neither a checkpoint folder nor a GGUF file: give one of them"
            )
        return path.with_name(gguf_names.parts_of(path.name)[0])
    hub_name = HubName.parse(name)
    if hub_name is None:
        raise Qwen35Error(
            f"{shown(name)!r} does not exist, and is not a Hub repository such as Qwen/Qwen3.5-4B: "
            "check the path"
        )
    return hub_name


def find_checkpoint(name: str, revision: str | None = None) -> Path | None:
    """As `resolve_checkpoint`, of what is on this disk: None if it would have to be downloaded.

    The network is not used, so a copy in the cache of the Hub may be out of date.

    Raises:
        Qwen35Error: there is no such file or folder, or the name may be one of several GGUF files.
    """
    found = _parse(name)
    if isinstance(found, Path):
        return found
    copies = stored.copies(found) if revision is None else []
    return copies[0].path if copies else None


def resolve_adapter(
    name: str,
    progress: Progress | None = None,
    *,
    stall_seconds: float = STALL_SECONDS,
) -> Path:
    """The folder of an adapter, downloaded if need be, or its safetensors file.

    Args:
        name: a folder or a file here, or "org/repo" on the Hub.
        progress, stall_seconds: as for `resolve_checkpoint`.

    Raises:
        Qwen35Error: there is no such folder or repository, or the download fails.
    """
    path = user_path(name)
    if name and exists(path):
        return path
    hub_name = HubName.parse(name)
    if hub_name is None or hub_name.file or hub_name.quantization:
        raise Qwen35Error(
            f"--adapter-path {shown(name)} does not exist, and is not a Hub repository such as "
            "org/repo: check the path"
        )
    return _download(hub_name, name, None, progress, stall_seconds, _fetch_adapter)


def resolve_head(name: str, progress: Progress | None = None) -> Path:
    """The folder or the file of an MTP head, downloaded if need be.

    Args:
        name: a folder; a safetensors or GGUF file; or a repository on the Hub.
        progress: as for `resolve_checkpoint`.

    Raises:
        Qwen35Error: there is none, or the download fails.
    """
    return _head_path(name) or resolve_checkpoint(name, progress=progress)


def find_head(name: str) -> Path | None:
    """As `resolve_head`, of what is on this disk: None if it would have to be downloaded."""
    return _head_path(name) or find_checkpoint(name)


def _head_path(name: str) -> Path | None:
    path = user_path(name)
    is_weights = path.suffix.lower() == ".safetensors" or gguf_names.is_gguf_file(path)
    return path if is_dir(path) or (is_file(path) and is_weights) else None


def _demo_folder() -> Path:
    path = demo.folder()
    if not is_file(path / "config.json"):
        raise Qwen35Error("this installation has no demo model: install the qwen35-mlx wheel")
    return path


def _download(
    hub_name: HubName,
    name: str,
    revision: str | None,
    progress: Progress | None,
    stall_seconds: float,
    fetch: Callable[..., Path],
) -> Path:
    """Download what a name means with `fetch`."""
    start_client()
    return watched(
        lambda bars: fetch(hub_name, revision=revision, tqdm_class=bars),
        name,
        revision,
        progress,
        stall_seconds,
        repository=hub_name.repository,
    )


def _fetch(name: HubName, **options: Any) -> Path:
    """Download what a name means: a checkpoint folder, or all parts of one GGUF model.

    Raises:
        Qwen35Error: the name fits none of the repository's GGUF files, or several.
        Exception: of huggingface_hub, which takes the `options`.
    """
    from huggingface_hub import HfApi, snapshot_download

    folder = None
    if not (name.quantization or name.file):
        folder = Path(
            snapshot_download(
                name.repository,
                allow_patterns=list(ALLOW_PATTERNS),
                ignore_patterns=list(IGNORE_PATTERNS),
                **options,
            )
        )
        if any(folder.glob("*.safetensors")):
            return folder
    listed = HfApi().list_repo_files(name.repository, revision=options["revision"])
    # What is not a name here, such as one with `..`, would not be found again.
    files = [file for file in listed if HubName.parse(f"{name.repository}/{file}")]
    if folder is not None and not gguf_names.models_among(files):
        return folder
    model = stored.choose_gguf(name, files)
    patterns = [glob.escape(part) for part in model.parts]
    return Path(snapshot_download(name.repository, allow_patterns=patterns, **options), model.file)


def _fetch_adapter(name: HubName, **options: Any) -> Path:
    """Download the adapter of a repository.

    Raises:
        Exception: of huggingface_hub, which takes the `options`.
    """
    from huggingface_hub import snapshot_download

    patterns = list(_ADAPTER_PATTERNS)
    return Path(snapshot_download(name.repository, allow_patterns=patterns, **options))
