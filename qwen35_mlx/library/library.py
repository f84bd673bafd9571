"""All conversations of a user, in one SQLite file.

Durability: every change is atomic, and when the call returns it is on disk, safe from a kill and a
power cut. The exceptions are `save(durable=False)` and `save_draft`, which run while a model writes
or a user types and do not wait for the disk. Their changes survive a kill, but a power cut may lose
those since the last durable change.

Windows: a window is one `Library` object. Any number of them, in any number of processes, may use
one folder. They wait for each other's transactions, which take milliseconds. A window claims a
conversation before it writes to it; other windows may only read it.

Threads: all threads of a window may share one `Library`. Each thread gets its own connection, so a
reader never waits for a writer.
"""

import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from qwen35_mlx.arguments import checked
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import purging
from qwen35_mlx.library.checksums import update
from qwen35_mlx.library.conversation import Message
from qwen35_mlx.library.conversation_store import ConversationStore, no_such_conversation
from qwen35_mlx.library.home import home
from qwen35_mlx.library.listing import (
    ConversationSummary,
    deleted_summaries,
    find_by_name,
    find_by_title,
    newest_summary,
    summary_page,
)
from qwen35_mlx.library.locks import NamedLocks
from qwen35_mlx.library.rows import replace_surrogates
from qwen35_mlx.library.search import (
    ConversationHits,
    Hit,
    find_conversations,
    find_hits,
    parse_query,
)
from qwen35_mlx.library.title_claims import TitleClaims
from qwen35_mlx.library.unsaved import UnsavedMessages
from qwen35_mlx.lifetime import close_at_exit

FILE = "library.db"
# How long a deletion can be undone after its window was killed.
KEEP_DELETED_SECONDS = 24 * 3600.0
# The reasons for which a window locks a conversation or a draft.
CLAIMED, DELETED, DRAFT, PROBE = "claimed", "deleted", "draft", "probe"


@checked
class Library(ConversationStore):
    """The conversations in a folder. Close it after use, or use it in a `with` statement.

    If it is still open when Python exits, it is closed then. A forked process must open its own.

    Args:
        folder: created if missing; None for $QWEN35_HOME or the platform's default.

    Raises:
        Qwen35Error: from every method: the disk is full, the file is damaged, or there is no
            conversation or message of the given id. The library is then unchanged.

    Attributes:
        titles: claims on titles, for programs that take turns in a conversation.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = home(folder)
        super().__init__(self.folder / FILE)
        self._locks = NamedLocks(self.folder / "open")
        self.titles = TitleClaims(self._locks)
        self._new_draft: int | None = None
        self._draft_lock = threading.Lock()
        self._unsaved = UnsavedMessages(self)
        self._list_checked = False
        weakref.finalize(self, self._locks.close)
        close_at_exit(self)

    def __enter__(self) -> "Library":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Purge the conversations that this window deleted and release all locks.

        No call may run in another thread or follow.

        Raises:
            Qwen35Error: a message of `save_later` could not be stored even now. Everything else
                is done.
        """
        if self._closed.is_set():
            return
        try:
            self._unsaved.close()
        finally:
            # If the disk is full, a later window purges them.
            with suppress(Qwen35Error):
                self._purge()
            super().close()
            self._locks.close()

    # Messages that a full disk has refused

    def save(self, message: Message, *, durable: bool = True) -> None:
        super().save(message, durable=durable)
        if durable and self._unsaved.drop(message.id):
            self.report("the reply that could not be saved is saved now")

    def save_later(self, message: Message) -> None:
        """Keep a message that `save` could not store, and try again until it is stored.

        A line is reported when it is. `close` tries a last time.
        """
        self._unsaved.add(message)

    # The states of models

    def keep_states(self, conversation: int, files: Sequence[str]) -> None:
        """Note that files of model states hold tokens of a conversation.

        They are deleted with the last conversation that needs them.

        Args:
            files: paths within the folder of states, without the suffix of their kind.
        """
        with self.transaction(durable=False) as db:
            db.executemany(
                "INSERT OR IGNORE INTO states (file, conversation)"
                " SELECT ?, id FROM conversations WHERE id = ?",
                [(file, conversation) for file in files],
            )

    # Lists and search

    def list(
        self, limit: int = 50, after: ConversationSummary | None = None, *, archived: bool = False
    ) -> Sequence[ConversationSummary]:
        """Up to `limit` conversations, pinned ones first, and then the last updated first.

        Args:
            after: the last summary of the previous page; None for the first page.
            archived: those that are archived, instead of the others.
        """
        if not self._list_checked:
            self._list_checked = True
            self.check_conversations()
        with self.reading() as db:
            return summary_page(db, limit, after, archived=archived)

    def newest(self) -> ConversationSummary | None:
        """The conversation that was last updated and is not archived; None if there is none."""
        with self.reading() as db:
            return newest_summary(db)

    def count(self) -> int:
        """The number of conversations that are not deleted."""
        with self.reading() as db:
            found = db.execute("SELECT count(*) FROM conversations WHERE deleted IS NULL")
            return found.fetchone()[0]

    def resolve(self, name: str) -> int:
        """The id of the conversation whose id, title or part of a title is `name`.

        Raises:
            Qwen35Error: no conversation matches, or several do; the message lists them.
        """
        with self.reading() as db:
            return find_by_name(db, name)

    def titled(self, title: str) -> int | None:
        """The id of the conversation with exactly this title; None if there is none.

        Raises:
            Qwen35Error: several have it.
        """
        with self.reading() as db:
            return find_by_title(db, replace_surrogates(title))

    def search(self, text: str, limit: int = 50) -> Sequence[Hit]:
        """Titles, then messages on any path, that contain all words of `text`; newest first.

        Words match inside longer words and in any spelling (`folded`); "quoted words" match as a
        phrase. There are no operators.
        """
        query = parse_query(text)
        if not query.terms:
            return []
        with self.reading() as db:
            return find_hits(db, query, limit)

    def search_conversations(self, text: str, limit: int = 50) -> Sequence[ConversationHits]:
        """Conversations that contain all words of `text`, each with its best line; as `search`."""
        query = parse_query(text)
        if not query.terms:
            return []
        with self.reading() as db:
            return find_conversations(db, query, limit)

    # Drafts

    def draft(self, conversation: int | None) -> str:
        """Text that was typed but not sent.

        Args:
            conversation: None for a conversation that does not exist yet. Each window has its own
                draft for that; the draft of a window that is gone passes to the next caller.
        """
        if conversation is not None:
            with self.reading() as db:
                found = db.execute("SELECT draft FROM conversations WHERE id = ?", (conversation,))
                return (found.fetchone() or ("",))[0]
        if self.read_only:  # the drafts of other windows cannot be locked
            return ""
        with self._draft_lock, self.reading() as db:
            for number, text in db.execute("SELECT id, text FROM drafts ORDER BY id DESC"):
                if self._new_draft is None and self._locks.acquire(f"draft-{number}", DRAFT):
                    self._new_draft = number
                if self._new_draft == number:
                    return text
        return ""

    def save_draft(self, conversation: int | None, text: str) -> None:
        """Save a draft; "" removes it. It does not wait for the disk, so call it freely."""
        text = replace_surrogates(text)
        if conversation is not None:
            self.set_columns(conversation, durable=False, draft=text)
            return
        with self._draft_lock:
            if self._new_draft is not None:
                self._update_new_draft(self._new_draft, text)
            elif text:
                with self.transaction(durable=False) as db:
                    number = db.execute("INSERT INTO drafts (text) VALUES (?)", (text,)).lastrowid
                    assert number is not None
                    # Locked before other windows can see it.
                    self._locks.acquire(f"draft-{number}", DRAFT)
                self._new_draft = number

    def _update_new_draft(self, number: int, text: str) -> None:
        with self.transaction(durable=False) as db:
            if text:
                db.execute("UPDATE drafts SET text = ? WHERE id = ?", (text, number))
            else:
                db.execute("DELETE FROM drafts WHERE id = ?", (number,))
        if not text:
            self._new_draft = None
            self._locks.release(f"draft-{number}", DRAFT)

    # Claims

    def claim(self, conversation: int) -> bool:
        """Reserve a conversation for writing; False if another window has claimed it.

        The claim lasts until `release` or `close`, or until the process ends for any reason. In a
        library that cannot be written there is nothing to reserve.
        """
        return not self.read_only and self._locks.acquire(str(conversation), CLAIMED)

    def release(self, conversation: int) -> None:
        """Give up the claim on a conversation."""
        self._locks.release(str(conversation), CLAIMED)

    # Deleting

    def delete(self, conversation: int) -> None:
        """Delete a conversation. `undelete` restores it until this window closes.

        If the window is killed instead, other windows can restore the conversation for a day.

        Raises:
            Qwen35Error: another window has claimed it.
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
        """Restore a conversation that `deleted` lists."""
        if not self._locks.acquire(str(conversation), DELETED):
            raise Qwen35Error(
                f"conversation {conversation} was deleted in another window: undo it there"
            )
        with self.transaction() as db:
            found = update(db, "conversations", conversation, {"deleted": None})
        self._locks.release(str(conversation), DELETED)
        if not found:
            raise no_such_conversation(conversation)

    def deleted(self) -> Sequence[ConversationSummary]:
        """Conversations that can be restored: deleted by this window or by one that was killed."""
        with self.reading() as db:
            found = deleted_summaries(db)
        return [summary for summary in found if self._is_restorable(summary.id)]

    def _is_restorable(self, conversation: int) -> bool:
        if self.read_only:
            return False
        lockable = self._locks.acquire(str(conversation), PROBE)
        self._locks.release(str(conversation), PROBE)
        return lockable

    def _purge(self) -> None:
        """Remove what this window deleted, and old deletions of windows that were killed.

        Nothing of their text remains in the folder: see `purging`.
        """
        if self.read_only:
            return
        with self.reading() as db:
            for conversation in purging.deleted_long_ago(db, KEEP_DELETED_SECONDS):
                self._locks.acquire(str(conversation), DELETED)
        if names := self._locks.names(DELETED):
            with self.transaction() as db:
                typed = purging.purge_rows(db, [int(name) for name in names])
                kept = purging.needed_states(db)
            self.empty_log()
            purging.purge_files(self.folder, typed, kept)
