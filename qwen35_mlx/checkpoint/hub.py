"""From a model's name, as a user gives it, to its files; downloads them if need be."""

import glob
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Thread
from typing import Any

from qwen35_mlx import demo
from qwen35_mlx.checkpoint import gguf_names, stored
from qwen35_mlx.checkpoint.hub_errors import download_error
from qwen35_mlx.checkpoint.hub_name import HubName
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line
from qwen35_mlx.user_paths import exists, is_dir, is_file, shown, user_path

# Bytes done, bytes in total, the name of what they belong to.
Progress = Callable[[int, int, str], None]
STALL_SECONDS = 30.0  # without a byte or an answer, after which a download is given up
_POLL_SECONDS = 0.1

# The longest JSON of the Hub: the description of a repository, or its list of files.
MAX_ANSWER_BYTES = 16 << 20
_COMMIT = re.compile("[0-9a-f]{40}")
_ETAG = re.compile(r"(W/)?[^/\\]+")
_PATH_HEADERS = {"X-Repo-Commit": _COMMIT, "ETag": _ETAG, "X-Linked-ETag": _ETAG}

# Files of the model, its tokenizer and its template, at the top of a repository.
_ALLOW_PATTERNS = (
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
_IGNORE_PATTERNS = (
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
    if name == demo.NAME:
        return _demo_folder()
    path = user_path(name)
    if name and is_dir(path):
        return stored.in_folder(path)
    if name and exists(path):
        if not gguf_names.is_gguf(path.name):
            raise Qwen35Error(f"{path} is a file, not a checkpoint folder: give its folder")
        return path.with_name(gguf_names.parts_of(path.name)[0])
    hub_name = HubName.parse(name)
    if hub_name is None:
        raise Qwen35Error(
            f"{shown(name)!r} does not exist, and is not a Hub repository such as Qwen/Qwen3.5-4B: "
            "check the path"
        )
    if revision is None and (copies := stored.copies(hub_name)):
        first = copies[0]
        if notice and (first.program or len(copies) > 1):
            others = "".join(f", not {copy.path}" for copy in copies[1:])
            notice(f"{name} is read from {first.path}{others}")
        # The cache of the Hub may be out of date, but for GGUF files, which are large.
        if first.program or gguf_names.is_gguf(first.path.name):
            return first.path
    return _download(hub_name, name, revision, progress, stall_seconds, _fetch)


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
    path = user_path(name)
    if is_dir(path) or (is_file(path) and path.suffix.lower() in (".safetensors", ".gguf")):
        return path
    return resolve_checkpoint(name, progress=progress)


def _demo_folder() -> Path:
    path = demo.folder()
    if not is_file(path / "config.json"):
        raise Qwen35Error("this installation has no demo model: install the qwen35-mlx wheel")
    return path


class _Activity:
    """What a download last did. Its own threads write, and the caller's reads.

    Attributes:
        done, total: bytes.
        at: when, on the clock `time.monotonic`.
        abandoned: nobody waits for the download any more, and it should end.
    """

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self.at = time.monotonic()
        self.abandoned = False


def _download(
    hub_name: HubName,
    name: str,
    revision: str | None,
    progress: Progress | None,
    stall_seconds: float,
    fetch: Callable[..., Path],
) -> Path:
    """Download what a name means with `fetch`, on a thread of its own.

    huggingface_hub sets no time limit for some of its requests, so the caller's thread watches.
    """
    # Imported here because it takes longer to load than all modules of this project.
    try:
        from huggingface_hub import set_client_factory
    except Exception as error:  # it parses environment variables
        raise Qwen35Error(
            f"huggingface_hub does not start ({one_line(error)}): correct the variables HF_*"
        ) from error
    set_client_factory(_checking_client)
    activity = _Activity()
    result: Future[Path] = Future()

    def download() -> None:
        try:
            bars = _bar_class(activity, drawn=progress is None)
            path = fetch(hub_name, revision=revision, tqdm_class=bars)
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(path)

    Thread(target=download, name="download", daemon=True).start()
    try:
        return _wait(result, activity, name, progress, stall_seconds)
    except Qwen35Error:
        raise  # from `_wait`, or from `progress` to cancel
    except Exception as error:
        raise Qwen35Error(download_error(hub_name.repository, revision, error)) from error
    finally:
        activity.abandoned = True


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
                allow_patterns=list(_ALLOW_PATTERNS),
                ignore_patterns=list(_IGNORE_PATTERNS),
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


def _checking_client() -> Any:
    """An HTTP client for huggingface_hub that checks what becomes a path in its cache."""
    from huggingface_hub.utils._http import default_client_factory

    client = default_client_factory()
    client.event_hooks = {**client.event_hooks, "response": [_check_answer]}
    return client


def _check_answer(response: Any) -> None:
    """Refuse an answer with a commit or an ETag that is none, or with JSON of any length.

    huggingface_hub joins both to folders of its cache, `..` included.
    """
    for name, pattern in _PATH_HEADERS.items():
        value = response.headers.get(name)
        if value is not None and not pattern.fullmatch(value):
            raise Qwen35Error(f"the Hub sends the {name} {shown(value)}: check HF_ENDPOINT")
    if "/api/" not in response.request.url.path or response.request.method == "HEAD":
        return  # of files, only the headers count
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise Qwen35Error(
                f"the Hub's answer has more than {MAX_ANSWER_BYTES >> 20} MiB: check HF_ENDPOINT"
            )
    response._content = bytes(body)  # as `response.read()` does, which knows no limit
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        if response.status_code != 200:
            return  # huggingface_hub explains it by the status
        raise Qwen35Error("the Hub's answer is not JSON: check HF_ENDPOINT") from None
    commit = answer.get("sha") if isinstance(answer, dict) else None
    if commit is not None and not _COMMIT.fullmatch(str(commit)):
        raise Qwen35Error(f"the Hub names the commit {shown(commit)}: check HF_ENDPOINT")


def _wait(
    result: "Future[Path]",
    activity: _Activity,
    name: str,
    progress: Progress | None,
    stall_seconds: float,
) -> Path:
    """The result of a download, once it is there; reports its progress meanwhile."""
    reported = 0, 0
    while True:
        ended = wait([result], _POLL_SECONDS).done
        now = activity.done, activity.total
        if progress and now != reported:
            reported = now
            progress(*now, name)
        if ended:
            return result.result()
        if time.monotonic() - activity.at > stall_seconds:
            raise Qwen35Error(
                f"the Hub has sent nothing of {name} for {stall_seconds:.0f} s: check the network, "
                "and that no other program is downloading it, and try again; it will resume"
            )


def _bar_class(activity: _Activity, *, drawn: bool) -> type[Any]:
    """A progress bar class for huggingface_hub that keeps `activity` up to date.

    Args:
        drawn: whether the bars appear on stderr, too.
    """
    from huggingface_hub.utils import tqdm as hub_bar
    from tqdm import tqdm

    class NullFile:
        def write(self, text: str) -> int:
            return len(text)

        def flush(self) -> None:
            pass

    options = {} if drawn else {"file": NullFile()}

    class Bar(hub_bar if drawn else tqdm):  # pyright: ignore[reportGeneralTypeIssues]
        def __init__(self, *args: Any, **kwargs: Any):
            # The bar "Downloading bytes" counts the same bytes again, as compressed on the network.
            self._counts_bytes = (
                kwargs.get("unit") == "B" and kwargs.get("desc") != "Downloading bytes"
            )
            super().__init__(*args, **{**kwargs, **options})

        def update(self, n: float | None = 1) -> bool | None:
            if activity.abandoned:
                raise RuntimeError("the download was abandoned")
            updated = super().update(n)
            activity.at = time.monotonic()
            if self._counts_bytes:
                activity.done, activity.total = int(self.n), int(self.total or 0)
            return updated

    return Bar
