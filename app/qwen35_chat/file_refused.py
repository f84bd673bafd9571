"""Why a file cannot be sent with a message."""

from typing import Literal

from qwen35_mlx.errors import Qwen35Error

Reason = Literal["not text", "too large", "unreadable"]


class FileRefusedError(Qwen35Error):
    """A file that cannot be sent.

    Attributes:
        reason: why, in a word or two.
    """

    def __init__(self, message: str, reason: Reason):
        super().__init__(message)
        self.reason: Reason = reason
