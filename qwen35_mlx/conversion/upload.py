"""The upload of a converted model to a repository of the Hub. No MLX."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from qwen35_mlx.checkpoint.hub_client import start_client
from qwen35_mlx.checkpoint.hub_errors import is_network_failure
from qwen35_mlx.checkpoint.hub_name import HubName
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import one_line

# What the Hub itself puts into a new repository.
_OF_THE_HUB = {".gitattributes"}

_Result = TypeVar("_Result")


def prepare_upload(repository: str, *, public: bool) -> None:
    """Make the repository, before the work whose result it is for.

    Args:
        repository: "org/name". One that exists must be empty, and not be public unless `public`.
        public: whether everyone may see it; else it is private.

    Raises:
        Qwen35Error: the name is no name of a repository, nobody is logged in, the repository may
            not be made or written, or it has files.
    """
    name = HubName.parse(repository)
    if name is None or name.quantization or name.file:
        raise Qwen35Error(f"--upload-repo {shown(repository)} is no name such as org/name")
    start_client()
    _explained(repository, lambda: _prepare(repository, public))


def upload(folder: Path, repository: str) -> str:
    """Upload all files of a folder in one commit, with huggingface_hub's progress bars.

    Args:
        repository: as `prepare_upload` has made it.

    Returns:
        The address of the repository.

    Raises:
        Qwen35Error: the upload fails. The repository then is as it was.
    """
    try:
        return _explained(repository, lambda: _upload(folder, repository))
    except Qwen35Error as error:
        raise Qwen35Error(
            f"{error}. {folder} is complete: upload it with `hf upload {repository} {folder} .`"
        ) from error


def _prepare(repository: str, public: bool) -> None:
    from huggingface_hub import HfApi, errors

    api = HfApi()
    api.whoami()  # an error that says what is missing
    try:
        info = api.model_info(repository)
    except errors.RepositoryNotFoundError:
        api.create_repo(repository, private=not public, exist_ok=True)
        return
    files = {sibling.rfilename for sibling in info.siblings or ()} - _OF_THE_HUB
    if files:
        raise Qwen35Error(
            f"{repository} has files already, such as {shown(min(files))}: choose a new name"
        )
    if not public and not info.private:
        raise Qwen35Error(f"{repository} exists and is public: add --public or choose a new name")


def _upload(folder: Path, repository: str) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload model")
    return f"{api.endpoint}/{repository}"


def _explained(repository: str, call: Callable[[], _Result]) -> _Result:
    """The result of a call of huggingface_hub; its errors become one line."""
    from huggingface_hub import errors

    try:
        return call()
    except Qwen35Error:
        raise
    except errors.LocalTokenNotFoundError as error:
        raise Qwen35Error(
            f"an upload to {repository} needs an account: log in with `hf auth login`"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise Qwen35Error("HF_HUB_OFFLINE is set: unset it to upload") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise Qwen35Error("the Hub refuses the token: log in with `hf auth login`") from error
        if status == 403:
            raise Qwen35Error(
                f"the account may not write to {repository}: choose a name of its own, or log in "
                "with a token that may write, with `hf auth login`"
            ) from error
        raise Qwen35Error(f"the Hub answered {status} for {repository}: try again later") from error
    except Exception as error:
        if is_network_failure(error):
            raise Qwen35Error(f"the connection to the Hub broke for {repository}") from error
        raise Qwen35Error(f"cannot upload to {repository} ({one_line(error)})") from error
