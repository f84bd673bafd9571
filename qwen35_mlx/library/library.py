"""All conversations of a user, in one SQLite file.

Durable: when a call that adds, finishes, deletes or renames returns, the change is on disk, and
neither a kill nor a power cut takes it back. `update_reply` and `save_draft` are called while
someone types or a model writes, and do not wait for the disk: a kill takes nothing of them, but a
power cut may take what was saved since the last durable change. A change is whole or not there.

Windows: any number of `Library` objects, in any number of processes, may use one folder. They wait
for each other's transactions, which take milliseconds. Who wants to write to a conversation claims
it first, and who does not get it reads only.

Threads: one `Library` may be used by all threads of a window. Each thread gets a connection of its
own, so a screen that reads never waits for an engine that writes.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversations import ConversationStore, insert, no_such_conversation
from qwen35_mlx.library.home import home
from qwen35_mlx.library.listing import ConversationSummary, all_deleted, page, resolve
from qwen35_mlx.library.locks import NamedLocks
from qwen35_mlx.library.rows import replace_surrogates
from qwen35_mlx.library.search import Hit, find, parse

FILE = "library.db"
# Deleted in a window that was killed: so long it can still be brought back.
KEEP_DELETED_SECONDS = 24 * 3600.0
# What a conversation is held for.
OPEN, DELETED, DRAFT, PROBE = "open", "deleted", "draft", "look"


class Library(ConversationStore):
    """The conversations in a folder, which is made if need be. Close it at the end.

    Args:
        folder: None for $QWEN35_HOME, or the platform's place for user data.

    Raises:
        Qwen35Error: from every method: the disk is full, the file damaged, or what is named is
            not there. Nothing has changed then.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = home(folder)
        super().__init__(self.folder / FILE)
        self._locks = NamedLocks(self.folder / "open")
        self._new_draft: int | None = None
        self._drafting = threading.Lock()

    def __enter__(self) -> "Library":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything; what this window deleted is gone for good.

        No other thread may be in a call, and no call may follow.
        """
        # What a full disk keeps here stays deleted, and is purged another time.
        with suppress(Qwen35Error):
            self._purge()
        super().close()
        self._locks.close()

    # Finding

    def list(
        self, limit: int = 50, after: ConversationSummary | None = None
    ) -> Sequence[ConversationSummary]:
        """Conversations, the last changed first; `after` the last one of the page before."""
        with self.reading() as db:
            return page(db, limit, after)

    def count(self) -> int:
        """How many conversations there are."""
        with self.reading() as db:
            found = db.execute("SELECT count(*) FROM conversations WHERE deleted IS NULL")
            return found.fetchone()[0]

    def resolve(self, name: str) -> int:
        """The id of the conversation that is meant: by its id, its title, or how that begins.

        Raises:
            Qwen35Error: none is, or several are; these are named.
        """
        with self.reading() as db:
            return resolve(db, name)

    def search(self, text: str, limit: int = 50) -> Sequence[Hit]:
        """Titles, then messages on any path, that have all the words; the newest first.

        Words are found inside longer ones and whatever their case; "words in quotes" as they
        stand. Nothing in the text is an operator.
        """
        query = parse(text)
        if not query.terms:
            return []
        with self.reading() as db:
            return find(db, query, limit)

    # Drafts

    def draft(self, conversation: int | None) -> str:
        """What was typed and not sent; None for the new conversation.

        Each window has its own new conversation. One that died with a draft leaves it to the next
        that asks.
        """
        if conversation is not None:
            with self.reading() as db:
                found = db.execute("SELECT draft FROM conversations WHERE id = ?", (conversation,))
                return (found.fetchone() or ("",))[0]
        with self._drafting, self.reading() as db:
            for number, text in db.execute("SELECT id, text FROM drafts ORDER BY id DESC"):
                if self._new_draft is None and self._locks.acquire(f"draft-{number}", DRAFT):
                    self._new_draft = number
                if self._new_draft == number:
                    return text
        return ""

    def save_draft(self, conversation: int | None, text: str) -> None:
        """Keep what was typed; "" once it was sent. Cheap; call it as often as you like."""
        text = replace_surrogates(text)
        if conversation is not None:
            self.set_columns(conversation, durable=False, draft=text)
            return
        with self._drafting:
            if self._new_draft is not None:
                self._change_draft(self._new_draft, text)
            elif text:
                with self.transaction(durable=False) as db:
                    number = insert(db, "drafts", {"text": text})
                    # Before anyone else can see it.
                    self._locks.acquire(f"draft-{number}", DRAFT)
                self._new_draft = number

    def _change_draft(self, number: int, text: str) -> None:
        with self.transaction(durable=False) as db:
            if text:
                db.execute("UPDATE drafts SET text = ? WHERE id = ?", (text, number))
            else:
                db.execute("DELETE FROM drafts WHERE id = ?", (number,))
        if not text:
            self._new_draft = None
            self._locks.release(f"draft-{number}", DRAFT)

    # Windows

    def claim(self, conversation: int) -> bool:
        """Take a conversation to write to it; False if another window has it.

        It stays claimed until `release` or `close`, or until the process ends, however it does.
        """
        return self._locks.acquire(str(conversation), OPEN)

    def release(self, conversation: int) -> None:
        """Let other windows write to a conversation."""
        self._locks.release(str(conversation), OPEN)

    # Deleting

    def delete(self, conversation: int) -> None:
        """Delete a conversation; `undelete` brings it back until this window closes.

        If the window is killed instead, the conversation stays deleted, and can be brought back
        for a day: see `deleted`.

        Raises:
            Qwen35Error: it is open in another window.
        """
        if not self._locks.acquire(str(conversation), DELETED):
            raise Qwen35Error(
                f"conversation {conversation} is open in another window: close it there first"
            )
        try:
            self.set_columns(conversation, deleted=time.time())
        except BaseException:
            self._locks.release(str(conversation), DELETED)
            raise

    def undelete(self, conversation: int) -> None:
        """Bring back what `deleted` lists."""
        if not self._locks.acquire(str(conversation), DELETED):
            raise Qwen35Error(
                f"conversation {conversation} was deleted in another window: undo it there"
            )
        with self.transaction() as db:
            changed = db.execute(
                "UPDATE conversations SET deleted = NULL WHERE id = ?", (conversation,)
            )
        self._locks.release(str(conversation), DELETED)
        if not changed.rowcount:
            raise no_such_conversation(conversation)

    def deleted(self) -> Sequence[ConversationSummary]:
        """What can be brought back: deleted by this window, or by one that was killed."""
        with self.reading() as db:
            found = all_deleted(db)
        return [summary for summary in found if self._is_restorable(summary.id)]

    def _is_restorable(self, conversation: int) -> bool:
        free = self._locks.acquire(str(conversation), PROBE)
        self._locks.release(str(conversation), PROBE)
        return free

    def _purge(self) -> None:
        """Remove for good what this window deleted, and what one did that was killed long ago."""
        long_ago = time.time() - KEEP_DELETED_SECONDS
        with self.reading() as db:
            old = db.execute("SELECT id FROM conversations WHERE deleted < ?", (long_ago,))
            for (conversation,) in old:
                self._locks.acquire(str(conversation), DELETED)
        if gone := self._locks.names(DELETED):
            with self.transaction() as db:
                db.executemany(
                    "DELETE FROM conversations WHERE id = ? AND deleted IS NOT NULL",
                    [(int(name),) for name in gone],
                )
