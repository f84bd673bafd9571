"""The text of one file that is sent with a message."""

from pathlib import Path

from qwen35_chat.documents import LARGEST_DOCUMENT, document_kind, document_text
from qwen35_chat.file_refused import FileRefusedError
from qwen35_chat.text_encodings import Decoded, decoded
from qwen35_mlx.files import open_regular
from qwen35_mlx.user_paths import shown

LARGEST_FILE = 2_000_000  # bytes; a larger one was hardly meant


def read_text_file(path: Path, name: str = "") -> Decoded:
    """The text of a file, or of a PDF or Word file.

    Args:
        name: for error messages; "" for the path.

    Raises:
        FileRefusedError: the file has no text, is too large, or cannot be read.
    """
    name = shown(name or str(path))
    limit = LARGEST_DOCUMENT if document_kind(path.name) else LARGEST_FILE
    return text_in(_read(path, name, limit), path.name, name)


def text_in(data: bytes, file_name: str, name: str) -> Decoded:
    """The text in the content of a file.

    Args:
        file_name: says whether it is a PDF or Word file.
        name: for error messages.

    Raises:
        FileRefusedError: it has no text.
    """
    if kind := document_kind(file_name):
        return Decoded(document_text(data, name, kind))
    if (found := decoded(data)) is None:
        line = f"{name} is not text in UTF-8, UTF-16, GBK or Big5: convert it to UTF-8 first"
        raise FileRefusedError(line, "not text")
    return found


def _read(path: Path, name: str, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes."""
    try:
        with open_regular(path) as file:
            # Up to one byte too many: some files of the system have no size until they are read.
            data = b""
            while (part := file.read(limit + 1 - len(data))) and len(data) <= limit:
                data += part
    except OSError as error:
        raise FileRefusedError(f"{name} cannot be read: {error.strerror}", "unreadable") from None
    except ValueError:
        line = f"{name} has a character that no path can have"
        raise FileRefusedError(line, "unreadable") from None
    if len(data) > limit:
        line = f"{name} has more than {limit:,} bytes: attach a part of it"
        raise FileRefusedError(line, "too large")
    return data
