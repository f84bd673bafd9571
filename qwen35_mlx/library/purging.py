"""Removes deleted conversations so that nothing of their text remains in the library's folder.

Their text is in more places than their rows: in the search index, whose old segments keep the words
of deleted rows, in the write-ahead log, in the files of model states, which hold tokens, and in the
history of what was typed.
"""

import re
import sqlite3
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import history
from qwen35_mlx.library.checksums import CONVERSATION_COLUMNS, matches
from qwen35_mlx.library.home import STATES
from qwen35_mlx.library.locks import is_locked

# A file of a state, and the suffix while it is written.
_STATE = re.compile(
    r"(\d+-\d+-[0-9a-f]{32}-[0-9a-f]{32})\.(?:kv|state)\.safetensors(\.\d+-[0-9a-f]+\.tmp)?$"
)


def deleted_long_ago(db: sqlite3.Connection, seconds: float) -> list[int]:
    """Conversations that were deleted more than some seconds ago, or by a clock that was ahead.

    A damaged row may never have been deleted.
    """
    rows = db.execute(
        f"SELECT {', '.join(CONVERSATION_COLUMNS)}, checksum FROM conversations"
        " WHERE abs(deleted - ?) > ?",
        (time.time(), seconds),
    )
    return [row[0] for row in rows if matches(row)]


def purge_rows(db: sqlite3.Connection, conversations: Sequence[int]) -> list[str]:
    """Delete conversations that are marked as deleted, and rewrite the search index without them.

    Returns:
        the texts of their user messages.
    """
    typed: list[str] = []
    for conversation in conversations:
        rows = db.execute(
            "SELECT content FROM messages WHERE role = 'user' AND conversation ="
            " (SELECT id FROM conversations WHERE id = ? AND deleted IS NOT NULL)",
            (conversation,),
        )
        typed += [content for (content,) in rows]
        db.execute(
            "DELETE FROM conversations WHERE id = ? AND deleted IS NOT NULL", (conversation,)
        )
    db.execute("INSERT INTO search (search) VALUES ('optimize')")
    return typed


def needed_states(db: sqlite3.Connection) -> set[str]:
    """The files of states that a conversation needs, as `Library.keep_states` got them."""
    return {file for (file,) in db.execute("SELECT file FROM states")}


def purge_files(folder: Path, typed: Collection[str], needed: Collection[str]) -> None:
    """Delete states that no conversation needs, and what was typed in deleted ones.

    States of unknown origin are deleted too: they may be of a deleted conversation, and can be
    computed again. A file that another process is writing is left alone, and so is anything else
    that is in the folder of states or linked there.
    """
    with suppress(OSError, Qwen35Error):
        history.forget(folder / history.FILE, typed)
    states = folder / STATES
    for model in [] if states.is_symlink() else states.glob("*"):
        for file in [] if model.is_symlink() else model.glob("*"):
            found = _STATE.match(file.name)
            if found is None or f"{model.name}/{found[1]}" in needed:
                continue
            with suppress(OSError):
                if not (found[2] and is_locked(file)):
                    file.unlink()
