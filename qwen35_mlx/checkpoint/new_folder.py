"""New folders and files that are there whole or not at all, also after a power failure."""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from qwen35_mlx.files import sync_folder


@contextmanager
def partial_folder(out: Path, parents: Sequence[Path]) -> Iterator[Path]:
    """A hidden folder beside `out`, renamed to it at the end; removed on any error.

    Args:
        parents: of `out` that do not exist yet, the innermost first; removed on any error too.
    """
    folder = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        folder.mkdir(parents=True)
        yield folder
        sync_folder(folder)
        # Fails if `out` has come to be a folder with files meanwhile.
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in parents:
            with suppress(OSError):
                parent.rmdir()
        raise


@contextmanager
def partial_file(out: Path, parents: Sequence[Path]) -> Iterator[Path]:
    """The name of a hidden file beside `out`, renamed to it at the end; removed on any error.

    Args:
        parents: as for `partial_folder`.

    Raises:
        FileExistsError: `out` has come to be meanwhile.
    """
    file = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield file
        if os.path.lexists(out):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out))
        file.rename(out)
    except BaseException:
        file.unlink(missing_ok=True)
        for parent in parents:
            with suppress(OSError):
                parent.rmdir()
        raise


def remove_leftovers(out: Path) -> list[str]:
    """Remove what killed conversions to `out` have left beside it; a line for each that is kept."""
    kept: list[str] = []
    if not out.parent.is_dir():
        return kept
    for left in out.parent.iterdir():
        pid = left.name.removeprefix(f".{out.name}.partial-")
        if not re.fullmatch("[0-9]{1,10}", pid) or _is_alive(int(pid)):
            continue
        try:
            left.unlink() if left.is_file() else shutil.rmtree(left)
        except OSError as error:
            kept.append(
                f"{left} of a conversion that was killed cannot be removed ({error.strerror}): "
                "remove it"
            )
    return kept


def sync_entries(folders: Sequence[Path]) -> list[str]:
    """Wait until the names of new folders are on disk; a line if the disk does not confirm it.

    That is no failure: the folders are complete, and some network disks never confirm.
    """
    for folder in folders:
        try:
            sync_folder(folder.parent)
        except OSError as error:
            return [
                f"{folder} is complete, but the disk does not confirm that it would survive a "
                f"power failure ({error.strerror}): check the disk"
            ]
    return []


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # another user's process
    return True
