"""Errors of downloads from the Hugging Face Hub, in one line each."""

import errno


def download_error(name: str, revision: str | None, error: Exception) -> str:
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
