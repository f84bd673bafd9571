"""Errors that a client of the server gets, and their JSON in each interface."""

from typing import Any

from qwen35_mlx.errors import Qwen35Error

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


class ApiError(Qwen35Error):
    """A request that gets no reply.

    Attributes:
        status: of HTTP.
        code: a word for programs, such as "context_length_exceeded"; None for none.
        param: the field of the request that is at fault; None for none.
    """

    def __init__(
        self, message: str, status: int = 400, *, code: str | None = None, param: str | None = None
    ):
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


# By the `kind` of the event that says so.
_FAILURES = {
    "invalid": (400, None),
    "busy": (409, "session_busy"),
    "lost": (503, None),
    "internal": (500, None),
}


def of_failure(kind: str, message: str) -> ApiError:
    """The error for a request that the engine has refused or failed.

    Args:
        kind: "invalid", "too_long", "busy", "lost" or "internal".
    """
    if kind == "too_long":
        # Agents search for these words to know that they must compact their history.
        message = f"prompt is too long: {message}"
        return ApiError(message, code="context_length_exceeded", param="messages")
    status, code = _FAILURES.get(kind, _FAILURES["internal"])
    return ApiError(message, status, code=code)


def openai_error(error: ApiError) -> dict[str, Any]:
    """The body of an error in OpenAI's interfaces."""
    default = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {
            "message": str(error),
            "type": _OPENAI_TYPES.get(error.status, default),
            "param": error.param,
            "code": error.code,
        }
    }


def anthropic_error(error: ApiError) -> dict[str, Any]:
    """The body of an error in Anthropic's interface."""
    default = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(error.status, default)
    details = {} if error.code is None else {"details": {"error_code": error.code}}
    return {"type": "error", "error": {"type": kind, "message": str(error), **details}}
