"""The text of one file that is sent with a message."""

from pathlib import Path
from typing import Literal

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import open_regular
from qwen35_mlx.user_paths import shown

LARGEST_FILE = 2_000_000  # bytes; a larger one was hardly meant

Reason = Literal["not text", "too large", "unreadable"]


class FileRefusedError(Qwen35Error):
    """A file that cannot be sent.

    Attributes:
        reason: why, in a word or two.
    """

    def __init__(self, message: str, reason: Reason):
        super().__init__(message)
        self.reason: Reason = reason


def read_text_file(path: Path, name: str = "") -> str:
    """The text of a file.

    Args:
        name: for error messages; "" for the path.

    Raises:
        FileRefusedError: the file is not text, too large, or cannot be read.
    """
    name = shown(name or str(path))
    try:
        with open_regular(path) as file:
            # Up to one byte too many: some files of the system have no size until they are read.
            data = b""
            while (part := file.read(LARGEST_FILE + 1 - len(data))) and len(data) <= LARGEST_FILE:
                data += part
    except OSError as error:
        raise FileRefusedError(f"{name} cannot be read: {error.strerror}", "unreadable") from None
    except ValueError:
        line = f"{name} has a character that no path can have"
        raise FileRefusedError(line, "unreadable") from None
    if len(data) > LARGEST_FILE:
        line = f"{name} has more than {LARGEST_FILE:,} bytes: attach a part of it"
        raise FileRefusedError(line, "too large")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        line = f"{name} is not text, and the model reads text only: convert it first"
        raise FileRefusedError(line, "not text")
    return text
