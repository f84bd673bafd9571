"""From a model's name, as a user gives it, to a checkpoint folder; downloads if need be."""

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwen35_mlx import demo
from qwen35_mlx.errors import Qwen35Error

# Bytes done, bytes in total, the name of what they belong to.
Progress = Callable[[int, int, str], None]

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# Files of the model, its tokenizer and its template, at the top of a repository.
_ALLOW_PATTERNS = (
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
# Files in folders (`*` matches `/` too), and copies of the same weights in other formats.
_IGNORE_PATTERNS = ("*/*", "consolidated*", "adapter*")


def resolve_checkpoint(
    name: str, revision: str | None = None, progress: Progress | None = None
) -> Path:
    """The folder of a checkpoint, downloaded if need be.

    Args:
        name: a folder, "demo" for the small model of this package, or "org/repo" on the Hub.
        revision: branch, tag or commit on the Hub.
        progress: called during a download with (bytes downloaded, bytes in total, repository); the
            total grows as files are found. None lets huggingface_hub draw bars on stderr.

    An interrupted download resumes. A complete one in the cache needs no network.

    Raises:
        Qwen35Error: there is no such folder or repository, or the download fails.
    """
    if name == demo.NAME:
        return _demo_folder()
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if name and path.exists():
        raise Qwen35Error(f"{path} is a file, not a checkpoint folder: give its folder")
    if not _REPOSITORY.fullmatch(name):
        raise Qwen35Error(
            f"{name!r} does not exist, and is not a Hub repository such as Qwen/Qwen3.5-4B: "
            "check the path"
        )
    return _download(name, revision, progress)


def _demo_folder() -> Path:
    path = demo.folder()
    if not (path / "config.json").exists():
        raise Qwen35Error("this installation has no demo model: install the qwen35-mlx wheel")
    return path


def _download(name: str, revision: str | None, progress: Progress | None) -> Path:
    # Imported here because it takes longer to load than all modules of this project.
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(_ALLOW_PATTERNS),
                ignore_patterns=list(_IGNORE_PATTERNS),
                tqdm_class=_silent_bar(name, progress) if progress else None,
            )
        )
    except Qwen35Error:
        raise  # from `progress`, to cancel
    except Exception as error:
        raise Qwen35Error(_error_message(name, revision, error)) from error


def _error_message(name: str, revision: str | None, error: Exception) -> str:
    """One line for any error of a download."""
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return f"{name!r} does not exist and is not a valid Hub repository name: check the path"
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
    # If the Hub fails and the cache lacks the files, the HTTP error is the cause of the cache's.
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, errors.HfHubHTTPError):
            return f"the Hub answered {cause.response.status_code} for {name}: try again later"
    if _is_full_disk(error):
        return f"no space left to download {name}: free some, or set HF_HOME to another disk"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return (
            f"{name} is not a folder here, is not completely in the download cache, and the Hub "
            "cannot be reached: check the network (and HF_HUB_OFFLINE) and try again"
        )
    if _is_network_failure(error):
        return f"the connection broke while downloading {name}: try again, it will resume"
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"cannot fetch {name} ({type(error).__name__}: {reason}): try again"


def _is_full_disk(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)  # the Xet client gives no errno


def _is_network_failure(error: BaseException) -> bool:
    """Whether an HTTP client gave up; by name, since huggingface_hub has changed its client."""
    names = {base.__name__ for base in type(error).__mro__}
    return bool(names & {"TransportError", "ConnectionError", "TimeoutError"})


def _silent_bar(name: str, progress: Progress) -> type[Any]:
    """A progress bar class for huggingface_hub that calls `progress` in place of drawing."""
    from tqdm import tqdm

    class NullFile:
        def write(self, text: str) -> int:
            return len(text)

        def flush(self) -> None:
            pass

    class Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument]
        def __init__(self, *args: Any, **kwargs: Any):
            # The bar "Downloading bytes" counts the same bytes again, as compressed on the network.
            self._counts_bytes = (
                kwargs.get("unit") == "B" and kwargs.get("desc") != "Downloading bytes"
            )
            super().__init__(*args, **{**kwargs, "file": NullFile()})

        def update(self, n: float | None = 1) -> bool | None:
            drawn = super().update(n)
            if self._counts_bytes:
                progress(int(self.n), int(self.total or 0), name)
            return drawn

    return Bar
