"""Adds the conversations of a damaged database to a library."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import schema
from qwen35_mlx.library.checksums import update
from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.library.database_errors import how_to_rescue
from qwen35_mlx.library.exporting import to_json
from qwen35_mlx.library.library import KEEP_DELETED_SECONDS, Library
from qwen35_mlx.library.page_records import LOG, PageRecords
from qwen35_mlx.library.remains import Remains
from qwen35_mlx.library.rows import usable_time
from qwen35_mlx.user_paths import is_file


@dataclass(slots=True)
class Rescue:
    """What was rescued. Conversations in the trash are not counted.

    Attributes:
        checked: whether the database has checksums; without, changed text goes unnoticed.
        total: the conversations that there are signs of.
        present: those of them that the library had already.
        added: the ids of those that it got.
        gaps: the ids, of both, of those that lack something or have damaged messages.
    """

    checked: bool
    total: int = 0
    present: int = 0
    added: list[int] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)


def rescue(library: Library, file: Path) -> Rescue:
    """Add what can be read from a damaged database, or a whole one, to a library.

    The file and its log are not changed. Each conversation is added by itself, so that another
    call goes on where one was interrupted. What was deleted a short while ago becomes a
    deleted conversation of the library.

    Args:
        file: a `library.db` under any name, with its log beside it if there is one; or the log.

    Raises:
        Qwen35Error: it is the library itself, of a newer version, or holds no conversation.
    """
    file = Path(str(file).removesuffix(LOG))
    if is_file(file) and file.samefile(library.file):
        raise Qwen35Error(f"{file} is the library itself: {how_to_rescue(library.file)}")
    try:
        records = PageRecords(file)
    except OSError as error:
        raise Qwen35Error(f"{file} cannot be read: {error.strerror}") from None
    with records:
        if (records.user_version or 0) > len(schema.MIGRATIONS):
            raise Qwen35Error(f"{file} was written by a newer version: update qwen35-mlx")
        remains = Remains(records)
        result = Rescue(remains.checked)
        for found in remains.conversations():
            if found.deleted is not None:
                if found.conversation and abs(time.time() - found.deleted) < KEEP_DELETED_SECONDS:
                    _add_once(library, found.conversation, found.deleted)
                continue
            result.total += 1
            if found.conversation is None:
                continue
            number, new = _add_once(library, found.conversation)
            if new:
                result.added.append(number)
            else:
                result.present += 1
            if not found.whole:
                result.gaps.append(number)
    with library.transaction():
        pass  # the disk now has all of them
    if not result.total:
        raise Qwen35Error(
            f"{file} holds no conversation that can be read: name a library.db, or a"
            " library-damaged-<time>.db that was put aside"
        )
    return result


def _add_once(
    library: Library, conversation: Conversation, deleted: float | None = None
) -> tuple[int, bool]:
    """Add a conversation that the library does not have.

    Args:
        deleted: when it was deleted; None if it was not.

    Returns:
        its id in the library, and whether it is new.
    """
    with library.transaction(durable=False) as db:
        created = (usable_time(conversation.created), deleted is not None)
        same_time = db.execute(
            "SELECT id FROM conversations WHERE created = ? AND (deleted IS NOT NULL) = ?", created
        ).fetchall()
        for (number,) in same_time:
            stored = library.conversation(number, deleted=deleted is not None)
            stored = replace(stored, shelf=conversation.shelf)
            if stored.draft == conversation.draft and to_json(stored) == to_json(conversation):
                return number, False
        number = library.add_conversation(conversation)
        if deleted is not None:
            update(db, "conversations", number, {"deleted": deleted})
    return number, True
