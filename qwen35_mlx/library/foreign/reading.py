"""Reads a file of conversations, of this program or another: which one, its content shows."""

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.json_text import JsonTextError, read_json
from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.library.exporting import FORMAT
from qwen35_mlx.library.foreign import chatgpt, llm_logs, lm_studio, open_webui
from qwen35_mlx.library.importing import from_json

MAX_BYTES = 1 << 30  # of what a zip file holds
_ZIP_START = b"PK\x03\x04"
_IN_ZIP = re.compile(r"(?:.*/)?conversations(?:-\d+)?\.json")
_KNOWN = (
    "give a file that --export, ChatGPT, Open WebUI, LM Studio or `llm logs --json` has written"
)
_Reader = Callable[[Mapping[str, Any]], Conversation | None]
_READERS: tuple[tuple[Callable[[object], bool], _Reader], ...] = (
    (chatgpt.is_conversation, chatgpt.read),
    (open_webui.is_conversation, open_webui.read),
    (lm_studio.is_conversation, lm_studio.read),
)


def read_conversations(data: bytes) -> Sequence[Conversation]:
    """The conversations in the bytes of a file; one or more. Their ids are 0.

    Raises:
        Qwen35Error: it has none, or is of an unknown format, or a field of this program's own
            format is wrong.
    """
    texts = _unzipped(data) if data.startswith(_ZIP_START) else [data]
    found = [conversation for part in texts for conversation in _read(part)]
    if not found:
        raise Qwen35Error("there is no message in it: give another file")
    return found


def _read(data: bytes) -> Sequence[Conversation]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Qwen35Error(f"it is not UTF-8 text: {_KNOWN}") from None
    try:
        document = read_json(text)
    except JsonTextError as error:
        raise Qwen35Error(f"it is not JSON ({error}): {_KNOWN}") from None
    if isinstance(document, dict) and document.get("format") == FORMAT:
        return [from_json(text)]
    values = document if isinstance(document, list) else [document]
    if turns := [value for value in values if llm_logs.is_turn(value)]:
        return llm_logs.read(turns)
    for is_conversation, read in _READERS:
        if those := [value for value in values if is_conversation(value)]:
            return [made for value in those if (made := read(value)) is not None]
    raise Qwen35Error(f"it has no conversation in a known format: {_KNOWN}")


def _unzipped(data: bytes) -> list[bytes]:
    """The files of conversations in a zip file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if _IN_ZIP.fullmatch(entry.filename)]
            if sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise Qwen35Error(f"it holds more than {MAX_BYTES >> 30} GiB: unpack and split it")
            found = [archive.read(entry) for entry in entries]
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise Qwen35Error(f"it is a zip file that cannot be read ({error}): unpack it") from None
    if not found:
        raise Qwen35Error("it is a zip file without conversations.json: give ChatGPT's export")
    return found
