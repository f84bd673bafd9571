"""A model's name, as a user gives it, to a folder on disk."""

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwen35_mlx import demo
from qwen35_mlx.errors import Qwen35Error

# Bytes fetched so far, bytes in all, what is fetched. The total grows as files are found.
Progress = Callable[[int, int, str], None]

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# What the model, its tokenizer and its template are made of, in the folder itself.
_WANTED = (
    "config.json",
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
# Copies of the same weights that some repositories carry: `*` matches `/` too.
_UNWANTED = ("*/*", "consolidated*", "adapter*")


def resolve(name: str, revision: str | None = None, progress: Progress | None = None) -> Path:
    """The folder of a checkpoint, downloaded if need be.

    Args:
        name: a folder, "demo" for the small model of this package, or "org/repo" on the Hub.
        revision: branch, tag or commit on the Hub.
        progress: called while files come in; without it huggingface_hub draws bars on stderr.

    A download resumes where it broke off, and what the cache holds needs no network.

    Raises:
        Qwen35Error: there is no such folder or repository, or it cannot be fetched.
    """
    if name == demo.NAME:
        return _demo()
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if name and path.exists():
        raise Qwen35Error(f"{path} is a file, not a checkpoint folder: give its folder")
    if not _REPOSITORY.fullmatch(name):
        raise Qwen35Error(
            f"{name!r} does not exist, and is no Hub repository such as Qwen/Qwen3.5-4B: "
            "check the path"
        )
    return _download(name, revision, progress)


def _demo() -> Path:
    path = demo.folder()
    if not (path / "config.json").exists():
        raise Qwen35Error("this installation has no demo model: install the qwen35-mlx wheel")
    return path


def _download(name: str, revision: str | None, progress: Progress | None) -> Path:
    # Imported when needed: it takes longer to load than this project's own modules together.
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(_WANTED),
                ignore_patterns=list(_UNWANTED),
                tqdm_class=_silent_bar(name, progress) if progress else None,
            )
        )
    except Qwen35Error:
        raise  # By `progress`, to stop.
    except Exception as error:
        raise Qwen35Error(_explain(name, revision, error)) from error


def _explain(name: str, revision: str | None, error: Exception) -> str:
    """One line for whatever a download ends in."""
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return f"{name!r} does not exist and is no valid Hub repository name: check the path"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name} is gated: accept its terms on its Hub page, log in with `hf auth login` "
            "and try again"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision!r}: check --revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{name} is neither a folder here nor a repository on the Hub: check the spelling, "
            "or log in with `hf auth login` if it is private"
        )
    # The status of an unreachable Hub is in what a miss of the cache was caused by.
    for part in (error, error.__cause__, error.__context__):
        if isinstance(part, errors.HfHubHTTPError):
            return f"the Hub answered {part.response.status_code} for {name}: try again later"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left to download {name}: free some, or set HF_HOME to another disk"
    if "No space left on device" in str(error):  # Of the Xet client, which has no errno.
        return f"no space left to download {name}: free some, or set HF_HOME to another disk"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return (
            f"{name} is no folder here, is not (or not wholly) in the download cache, and the Hub "
            "cannot be reached: check the network (and HF_HUB_OFFLINE) and try again"
        )
    if _is_network(error):
        return f"the network broke off while fetching {name}: try again, it will resume"
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"cannot fetch {name} ({type(error).__name__}: {reason}): try again"


def _is_network(error: BaseException) -> bool:
    """Whether an HTTP client gave up; huggingface_hub changes clients, so by name."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"TransportError", "ConnectionError", "TimeoutError"})


def _silent_bar(name: str, progress: Progress) -> type[Any]:
    """A bar class for huggingface_hub that reports bytes instead of drawing."""
    from tqdm import tqdm

    class Nowhere:
        def write(self, text: str) -> int:
            return len(text)

        def flush(self) -> None:
            pass

    class Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument]
        def __init__(self, *args: Any, **kwargs: Any):
            self._counts_bytes = kwargs.get("unit") == "B" and (
                # A second bar counts the same bytes on the network, compressed.
                kwargs.get("desc") != "Downloading bytes"
            )
            super().__init__(*args, **{**kwargs, "file": Nowhere()})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self._counts_bytes:
                progress(int(self.n), int(self.total or 0), name)
            return shown

    return Bar
