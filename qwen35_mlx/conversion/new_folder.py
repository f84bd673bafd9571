"""New folders and files that are there whole or not at all, also after a power failure."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from qwen35_mlx.files import sync_folder
from qwen35_mlx.user_paths import is_dir


def partial_path(out: Path) -> Path:
    """The hidden folder or file beside `out` in which this process makes it."""
    return _hidden_path(out, "partial")


def source_path(out: Path) -> Path:
    """The hidden folder beside `out` for the parts of the source that are here for a while."""
    return _hidden_path(out, "source")


def _hidden_path(out: Path, kind: str) -> Path:
    return out.with_name(f".{out.name}.{kind}-{os.getpid()}")


def is_occupied(out: Path) -> bool:
    """Whether there is anything at a path but an empty folder, which a new one may replace.

    An empty folder that other things rest on, such as a disk or this process, counts as well.
    """
    if out.is_symlink() or not is_dir(out) or os.path.ismount(out):
        return os.path.lexists(out)
    return any(out.iterdir()) or os.path.realpath(out) == os.path.realpath(os.curdir)


@contextmanager
def partial_folder(
    out: Path, parents: Sequence[Path], keep: Callable[[BaseException], bool]
) -> Iterator[Path]:
    """The hidden folder, renamed to `out` at the end and removed on an error.

    Args:
        parents: of `out` that do not exist yet, the innermost first; removed on an error too.
        keep: whether to leave everything as it is on this error, for another process to continue.
    """
    folder = partial_path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        sync_folder(folder)
        # Fails if `out` has come to be a folder with files meanwhile.
        folder.rename(out)
    except BaseException as error:
        if not keep(error):
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
    file = partial_path(out)
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


def leftovers(out: Path, kind: str = "partial") -> list[Path]:
    """What conversions to `out` that ended early have left beside it, the newest first.

    Args:
        kind: "partial" for results, "source" for parts of their sources.
    """
    found: list[Path] = []
    if out.parent.is_dir():
        for left in out.parent.iterdir():
            pid = left.name.removeprefix(f".{out.name}.{kind}-")
            if re.fullmatch("[0-9]{1,10}", pid) and not _is_alive(int(pid)):
                found.append(left)
    return sorted(found, key=lambda left: left.stat().st_mtime, reverse=True)


def continue_leftover(left: Path, out: Path, kept: Collection[str]) -> None:
    """Make a leftover the folder of this process; only the files of names in `kept` stay."""
    for file in left.iterdir():
        if file.name not in kept:
            file.unlink()
    left.rename(partial_path(out))


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir())


def remove_leftovers(out: Path, spared: Collection[Path] = ()) -> list[str]:
    """Remove what conversions that ended early left, but for what is `spared`.

    Returns:
        A line for each that cannot be removed.
    """
    kept: list[str] = []
    for left in (*leftovers(out), *leftovers(out, "source")):
        if left in spared:
            continue
        try:
            left.unlink() if left.is_file() else shutil.rmtree(left)
        except OSError as error:
            kept.append(
                f"{left} of a conversion that ended early cannot be removed ({error.strerror}): "
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
