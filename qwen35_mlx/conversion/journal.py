"""What a conversion has written so far, so that one that was killed can go on."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from qwen35_mlx.errors import Qwen35Error

JOURNAL = "conversion.jsonl"
_IDENTITY = "conversion"


class Journal:
    """The checksums of complete tensors, a line for each, in a file of the unfinished folder.

    The first line identifies the conversion. Lines are not synced: after a power failure some are
    lost or ahead of the data, which the checksums show.

    Args:
        folder: of the conversion. A journal in it, which must have this identity, is continued.
        identity: of the conversion: its source and its plan.

    Attributes:
        checksums: CRC-32 by the name of a tensor.
    """

    def __init__(self, folder: Path, identity: str):
        self._path = folder / JOURNAL
        self.checksums = completed(folder)
        is_new = not self._path.exists()
        self._file = self._path.open("a", encoding="utf-8")
        if is_new:
            self._write({_IDENTITY: identity})
        elif not self._path.read_bytes().endswith(b"\n"):
            self._file.write("\n")  # after a line that was cut by the kill

    def add(self, checksums: Mapping[str, int]) -> None:
        """Remember complete tensors."""
        self.checksums |= checksums
        self._write(checksums)

    def remove(self) -> None:
        """Delete the file: the conversion is complete."""
        self._file.close()
        self._path.unlink()

    def _write(self, line: Mapping[str, object]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def completed(folder: Path) -> dict[str, int]:
    """The checksums of the tensors that a conversion completed in a folder; {} without one."""
    return {
        name: checksum
        for line in _lines(folder / JOURNAL)
        for name, checksum in line.items()
        if type(checksum) is int
    }


def check_identity(folder: Path, identity: str) -> None:
    """Refuse to continue the journal of another conversion.

    Raises:
        Qwen35Error: it is another one's.
    """
    if _lines(folder / JOURNAL)[:1] != [{_IDENTITY: identity}]:
        raise Qwen35Error(
            "the conversion that ended early had another source or other options: repeat those, "
            "or start over without --resume"
        )


def _lines(path: Path) -> list[dict[str, object]]:
    """The complete lines of a journal; none if there is no journal."""
    found: list[dict[str, object]] = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):  # cut by the kill
                found.append(dict(json.loads(text)))
    return found
