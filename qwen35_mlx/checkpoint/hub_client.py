"""What all requests to the Hub share: a client that checks answers, a watch, and error lines."""

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any, TypeVar

from qwen35_mlx.checkpoint.hub_errors import download_error
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line
from qwen35_mlx.progress import Progress
from qwen35_mlx.user_paths import shown

STALL_SECONDS = 30.0  # without a byte or an answer, after which a download is given up
_POLL_SECONDS = 0.1

# The longest JSON of the Hub: the description of a repository, or its list of files.
MAX_ANSWER_BYTES = 16 << 20
_COMMIT = re.compile("[0-9a-f]{40}")
_ETAG = re.compile(r"(W/)?[^/\\]+")
_PATH_HEADERS = {"X-Repo-Commit": _COMMIT, "ETag": _ETAG, "X-Linked-ETag": _ETAG}

_Result = TypeVar("_Result")


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


def watched(
    call: Callable[[type[Any]], _Result],
    name: str,
    revision: str | None = None,
    progress: Progress | None = None,
    stall_seconds: float = STALL_SECONDS,
    *,
    repository: str | None = None,
) -> _Result:
    """The result of a call of huggingface_hub, on a thread of its own.

    huggingface_hub sets no time limit for some of its requests, so the caller's thread watches.
    `start_client` comes first.

    Args:
        call: takes the class of progress bars that the call must use.
        name: of what is fetched, for error lines.
        progress: called with (bytes done, bytes in total, name). None lets huggingface_hub draw
            bars on stderr.
        stall_seconds: how long the Hub may be silent.
        repository: for error lines; `name` if it is None.

    Raises:
        Qwen35Error: the call fails.
    """
    activity = _Activity()
    result: Future[_Result] = Future()

    def run() -> None:
        try:
            value = call(_bar_class(activity, drawn=progress is None))
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(value)

    Thread(target=run, name="download", daemon=True).start()
    try:
        return _wait(result, activity, name, progress, stall_seconds)
    except Qwen35Error:
        raise  # from `_wait`, or from `progress` to cancel
    except Exception as error:
        raise Qwen35Error(download_error(repository or name, revision, error)) from error
    finally:
        activity.abandoned = True


def start_client() -> None:
    """Let huggingface_hub use the checking client from now on. No request may be under way.

    Raises:
        Qwen35Error: it does not start.
    """
    # Imported here because it takes longer to load than all modules of this project.
    try:
        from huggingface_hub import set_client_factory
    except Exception as error:  # it parses environment variables
        raise Qwen35Error(
            f"huggingface_hub does not start ({one_line(error)}): correct the variables HF_*"
        ) from error
    set_client_factory(_checking_client)


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
    result: "Future[_Result]",
    activity: _Activity,
    name: str,
    progress: Progress | None,
    stall_seconds: float,
) -> _Result:
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
