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

import sqlite3
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.conversation import Conversation, Message, Role, State, title_from
from qwen35_mlx.session.database import connect, prepare, told
from qwen35_mlx.session.events import Figures, FinishReason
from qwen35_mlx.session.home import home
from qwen35_mlx.session.locks import Lock, try_lock
from qwen35_mlx.session.requests import Configure
from qwen35_mlx.session.rows import COLUMNS, message_of, settings_json, settings_of, storable
from qwen35_mlx.session.rows import values_of as message_values
from qwen35_mlx.session.search import Snippet, parse, snippet

FILE = "library.db"
# Deleted in a window that was killed: so long it can still be brought back.
KEEP_DELETED_SECONDS = 24 * 3600.0
PREVIEW = 200
_MESSAGE = f"SELECT {', '.join(COLUMNS)} FROM messages"
_SUMMARY = f"""
    SELECT id, title, model, created, updated,
        (SELECT count(*) FROM messages WHERE conversation = c.id),
        coalesce((SELECT prompt_tokens + reply_tokens FROM messages
            WHERE conversation = c.id AND reply_tokens IS NOT NULL ORDER BY id DESC LIMIT 1), 0),
        coalesce((SELECT substr(content, 1, {PREVIEW}) FROM messages WHERE id = c.leaf), '')
    FROM conversations c
"""


@dataclass(frozen=True, slots=True)
class Summary:
    """A line of a list of conversations.

    Attributes:
        messages: how many there are, on all paths.
        tokens: of the newest turn, prompt and reply; 0 before the first.
        preview: how the last message of the selected path begins.
    """

    id: int
    title: str
    model: str
    created: float
    updated: float
    messages: int
    tokens: int
    preview: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A place where a search found something.

    Attributes:
        message: None if it is the title.
        where: "title", "content" or "thinking".
    """

    conversation: int
    title: str
    message: int | None
    role: Role | None
    where: str
    snippet: Snippet
    created: float


class Library:
    """The conversations in a folder, which is made if need be. Close it at the end.

    Args:
        folder: None for $QWEN35_HOME, or the platform's place for user data.

    Raises:
        Qwen35Error: from every method: the disk is full, the file damaged, or what is named is
            not there. Nothing has changed then.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = home(folder)
        self.file = self.folder / FILE
        prepare(self.file)
        self._here = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False
        self._locks: dict[int, Lock] = {}
        self._claimed: set[int] = set()
        self._deleted: set[int] = set()
        self._new_draft: tuple[int, Lock] | None = None
        self._guard = threading.RLock()  # of the connections, locks and sets above

    def __enter__(self) -> "Library":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything; what this window deleted is gone for good.

        No other thread may be in a call, and no call may follow.
        """
        with self._guard:
            if self._closed:
                return
            # What a full disk keeps here stays deleted, and is purged another time.
            with suppress(Qwen35Error):
                self._purge()
            self._closed = True
            for db in self._connections:
                db.close()
            self._claimed.clear()
            self._deleted.clear()
            for lock in self._locks.values():
                lock.release()
            if self._new_draft:
                self._new_draft[1].release()

    # Transactions

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Generator[sqlite3.Connection]:
        """Several changes as one, with one wait for the disk; an exception takes all back.

        Only calls of this thread belong to it. Keep it short: other windows wait.
        """
        db = self._connection()
        if db.in_transaction:
            yield db
            return
        with told(self.file):
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection]:
        """Several reads that see the same moment."""
        db = self._connection()
        with told(self.file):
            if db.in_transaction:
                yield db
                return
            db.execute("BEGIN")
            try:
                yield db
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def _connection(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._here, "db", None)
        if db is None or self._closed:
            with self._guard:
                if self._closed:
                    raise Qwen35Error(f"{self.file} was closed: open it again")
                with told(self.file):
                    db = self._here.db = connect(self.file)
                self._connections.append(db)
        return db

    # Conversations

    def create(self, *, title: str = "", model: str = "", settings: Configure | None = None) -> int:
        """A new, empty conversation; its id. Without a title it gets one from what is asked."""
        now = time.time()
        return self.add_conversation(
            Conversation(
                id=0,
                title=title,
                model=model,
                settings=settings or Configure(),
                created=now,
                updated=now,
            )
        )

    def add_conversation(self, conversation: Conversation) -> int:
        """Store a whole conversation under new ids, all of it or nothing; its id."""
        with self.transaction() as db:
            new = _inserted(
                db,
                "conversations",
                {
                    "title": storable(conversation.title),
                    "model": storable(conversation.model),
                    "settings": settings_json(conversation.settings),
                    "draft": storable(conversation.draft),
                    "created": conversation.created,
                    "updated": conversation.updated,
                },
            )
            ids: dict[int | None, int | None] = {None: None}
            for message in conversation.messages:
                values = message_values(replace(message, parent=ids[message.parent]))
                ids[message.id] = _inserted(db, "messages", {"conversation": new, **values})
            db.execute(
                "UPDATE conversations SET leaf = ? WHERE id = ?", (ids[conversation.leaf], new)
            )
        return new

    def conversation(self, conversation: int) -> Conversation:
        """A conversation with all its messages.

        Raises:
            Qwen35Error: there is none of that id, or it was deleted.
        """
        with self._reading() as db:
            row = db.execute(
                "SELECT title, leaf, settings, model, draft, created, updated"
                " FROM conversations WHERE id = ? AND deleted IS NULL",
                (conversation,),
            ).fetchone()
            if row is None:
                raise _missing(conversation)
            title, leaf, settings, *rest = row
            found = db.execute(f"{_MESSAGE} WHERE conversation = ? ORDER BY id", (conversation,))
            messages = tuple(message_of(row) for row in found)
        return Conversation(conversation, title, messages, leaf, settings_of(settings), *rest)

    def list(self, limit: int = 50, after: Summary | None = None) -> Sequence[Summary]:
        """Conversations, the last changed first; `after` the last one of the page before."""
        where = "WHERE deleted IS NULL"
        values: tuple[float, ...] = ()
        if after is not None:
            where += " AND (updated, id) < (?, ?)"
            values = (after.updated, after.id)
        with self._reading() as db:
            rows = db.execute(
                f"{_SUMMARY} {where} ORDER BY updated DESC, id DESC LIMIT ?", (*values, limit)
            )
            return [Summary(*row) for row in rows]

    def count(self) -> int:
        """How many conversations there are."""
        with self._reading() as db:
            found = db.execute("SELECT count(*) FROM conversations WHERE deleted IS NULL")
            return found.fetchone()[0]

    def resolve(self, name: str) -> int:
        """The id of the conversation that is meant: by its id, its title, or how that begins.

        Raises:
            Qwen35Error: none is, or several are; these are named.
        """
        wanted = name.strip().casefold()
        with self._reading() as db:
            titles: dict[int, str] = dict(
                db.execute("SELECT id, title FROM conversations WHERE deleted IS NULL ORDER BY id")
            )
        if wanted.isascii() and wanted.isdigit() and int(wanted) in titles:
            return int(wanted)
        beginning = [i for i, title in titles.items() if title.casefold().startswith(wanted)]
        same = [i for i in beginning if titles[i].casefold() == wanted]
        found = same or beginning
        if not wanted or not found:
            raise Qwen35Error(f"no conversation is called {name!r}: see qwen35-chat --list")
        if len(found) > 1:
            named = ", ".join(f"{i} {titles[i]!r}" for i in found[-5:])
            raise Qwen35Error(
                f"{len(found)} conversations are called {name!r}: say which by its id, as in "
                f"{named}"
            )
        return found[0]

    def rename(self, conversation: int, title: str) -> str:
        """Give a title, which is returned; an empty one is made from what was asked first."""
        title = " ".join(title.split())
        with self.transaction() as db:
            if not title:
                asked = db.execute(
                    "SELECT content FROM messages WHERE conversation = ? AND role = 'user'"
                    " ORDER BY id LIMIT 1",
                    (conversation,),
                ).fetchone()
                title = title_from(asked[0]) if asked else ""
            self._set(conversation, title=storable(title))
        return title

    def configure(self, conversation: int, settings: Configure) -> None:
        """Keep how its turns are answered."""
        self._set(conversation, settings=settings_json(settings))

    def use_model(self, conversation: int, model: str) -> None:
        """Keep which model it was last used with."""
        self._set(conversation, model=storable(model))

    def select(self, conversation: int, leaf: int | None) -> None:
        """Make the path to `leaf` the selected one."""
        with self.transaction() as db:
            _must_have(db, conversation, leaf)
            self._set(conversation, leaf=leaf)

    def _set(self, conversation: int, *, durable: bool = True, **values: Any) -> None:
        names = ", ".join(f"{name} = :{name}" for name in values)
        with self.transaction(durable=durable) as db:
            changed = db.execute(
                f"UPDATE conversations SET {names} WHERE id = :id AND deleted IS NULL",
                {**values, "id": conversation},
            )
            if not changed.rowcount:
                raise _missing(conversation)

    # Messages

    def add_message(
        self,
        conversation: int,
        parent: int | None,
        role: Role,
        content: str,
        *,
        thinking: str = "",
        tool_calls: Sequence[Mapping[str, Any]] = (),
        state: State = "complete",
        model: str = "",
    ) -> Message:
        """Add a message after `parent` and select it.

        The first user message gives the conversation its title, if it has none.
        """
        new = Message(
            id=0,
            parent=parent,
            role=role,
            content=content,
            thinking=thinking,
            tool_calls=tuple(tool_calls),
            state=state,
            model=model,
            created=time.time(),
        )
        with self.transaction() as db:
            _must_have(db, conversation, parent)
            values = message_values(new)
            new = replace(
                new, id=_inserted(db, "messages", {"conversation": conversation, **values})
            )
            self._set(conversation, leaf=new.id, updated=new.created)
            if role == "user":
                db.execute(
                    "UPDATE conversations SET title = ? WHERE id = ? AND title = ''",
                    (storable(title_from(content)), conversation),
                )
        return new

    def begin_reply(self, conversation: int, parent: int, model: str) -> Message:
        """Add an empty reply after `parent`, in the state "partial", and select it."""
        return self.add_message(conversation, parent, "assistant", "", state="partial", model=model)

    def update_reply(
        self,
        message: int,
        content: str,
        thinking: str = "",
        tool_calls: Sequence[Mapping[str, Any]] = (),
        thinking_seconds: float | None = None,
    ) -> None:
        """Keep how far a reply has come: all of it, not what is new. Cheap; call it each second."""
        changes = Message(0, None, "assistant", content, thinking, tuple(tool_calls))
        changes = replace(changes, state="partial", thinking_seconds=thinking_seconds)
        self._change(message, changes, durable=False)

    def finish_reply(
        self,
        message: int,
        content: str,
        thinking: str = "",
        tool_calls: Sequence[Mapping[str, Any]] = (),
        *,
        state: State = "complete",
        finish_reason: FinishReason | None = None,
        error: str = "",
        figures: Figures | None = None,
        thinking_seconds: float | None = None,
    ) -> None:
        """Keep a whole reply, or as much of it as there was when it was cancelled or failed."""
        changes = Message(
            id=0,
            parent=None,
            role="assistant",
            content=content,
            thinking=thinking,
            tool_calls=tuple(tool_calls),
            state=state,
            finish_reason=finish_reason,
            error=error,
            figures=figures,
            thinking_seconds=thinking_seconds,
        )
        with self.transaction() as db:
            self._change(message, changes)
            db.execute(
                "UPDATE conversations SET updated = ?"
                " WHERE id = (SELECT conversation FROM messages WHERE id = ?)",
                (time.time(), message),
            )

    def message(self, message: int) -> Message:
        """A message by its id."""
        with self._reading() as db:
            row = db.execute(f"{_MESSAGE} WHERE id = ?", (message,)).fetchone()
        if row is None:
            raise Qwen35Error(f"message {message} is not there (any more): open the list again")
        return message_of(row)

    def _change(self, message: int, changes: Message, *, durable: bool = True) -> None:
        """Write what a reply changes: all but its place, role, model and time."""
        values = message_values(changes)
        for name in ("parent", "role", "model", "created"):
            del values[name]
        names = ", ".join(f"{name} = :{name}" for name in values)
        with self.transaction(durable=durable) as db:
            changed = db.execute(
                f"UPDATE messages SET {names} WHERE id = :id", {**values, "id": message}
            )
            if not changed.rowcount:
                raise Qwen35Error(f"message {message} is not there (any more): it was deleted")

    # Drafts

    def draft(self, conversation: int | None) -> str:
        """What was typed and not sent; None for the new conversation.

        Each window has its own new conversation. One that died with a draft leaves it to the next
        that asks.
        """
        with self._guard, self._reading() as db:
            if conversation is not None:
                found = db.execute("SELECT draft FROM conversations WHERE id = ?", (conversation,))
                return (found.fetchone() or ("",))[0]
            for number, text in db.execute("SELECT id, text FROM drafts ORDER BY id DESC"):
                if self._new_draft is None and (lock := self._lock(f"draft-{number}")):
                    self._new_draft = (number, lock)
                if self._new_draft and self._new_draft[0] == number:
                    return text
        return ""

    def save_draft(self, conversation: int | None, text: str) -> None:
        """Keep what was typed; "" once it was sent. Cheap; call it as often as you like."""
        if conversation is not None:
            self._set(conversation, durable=False, draft=storable(text))
            return
        with self._guard, self.transaction(durable=False) as db:
            if self._new_draft is None and text:
                number = _inserted(db, "drafts", {"text": ""})
                if lock := self._lock(f"draft-{number}"):
                    self._new_draft = (number, lock)
            if self._new_draft:
                number, lock = self._new_draft
                db.execute("UPDATE drafts SET text = ? WHERE id = ?", (storable(text), number))
                if not text:
                    db.execute("DELETE FROM drafts WHERE id = ?", (number,))
                    self._new_draft = None
                    lock.release()

    # Search

    def search(self, text: str, limit: int = 50) -> Sequence[Hit]:
        """Titles, then messages on any path, that have all the words; the newest first.

        Words are found inside longer ones and whatever their case; "words in quotes" as they
        stand. Nothing in the text is an operator.
        """
        query = parse(text)
        if not query.terms:
            return []
        wanted = [term.casefold() for term in query.terms]
        conditions = ["deleted IS NULL"]
        values: list[Any] = []
        if query.match:
            conditions.append("messages.id IN (SELECT rowid FROM search WHERE search MATCH ?)")
            values.append(query.match)
        for spellings in query.short:
            either = [f"instr({column}, ?)" for column in ("content", "thinking")] * len(spellings)
            conditions.append(f"({' OR '.join(either)})")
            values.extend(spelling for spelling in spellings for _ in range(2))
        with self._reading() as db:
            titles = db.execute(
                "SELECT id, title, updated FROM conversations WHERE deleted IS NULL"
                " ORDER BY updated DESC"
            )
            hits = [
                Hit(number, title, None, None, "title", snippet(title, query), updated)
                for number, title, updated in titles
                if all(term in title.casefold() for term in wanted)
            ][:limit]
            rows = db.execute(
                "SELECT conversation, title, messages.id, role, content, thinking,"
                " messages.created FROM messages JOIN conversations c ON c.id = conversation"
                f" WHERE {' AND '.join(conditions)} ORDER BY messages.id DESC LIMIT ?",
                (*values, limit - len(hits)),
            )
            pattern = query.pattern()
            for number, title, message, role, content, thinking, created in rows:
                found = content if pattern.search(content) or not thinking else thinking
                where = "content" if found is content else "thinking"
                piece = snippet(found, query)
                hits.append(Hit(number, title, message, role, where, piece, created))
        return hits

    # Windows

    def claim(self, conversation: int) -> bool:
        """Take a conversation to write to it; False if another window has it.

        It stays claimed until `release` or `close`, or until the process ends, however it does.
        """
        with self._guard:
            if self._hold(conversation):
                self._claimed.add(conversation)
                return True
            return False

    def release(self, conversation: int) -> None:
        """Let other windows write to a conversation."""
        with self._guard:
            self._claimed.discard(conversation)
            self._let_go(conversation)

    def _hold(self, conversation: int) -> bool:
        if conversation not in self._locks:
            lock = self._lock(str(conversation))
            if lock is None:
                return False
            self._locks[conversation] = lock
        return True

    def _let_go(self, conversation: int) -> None:
        if conversation not in self._claimed | self._deleted and conversation in self._locks:
            self._locks.pop(conversation).release()

    def _lock(self, name: str) -> Lock | None:
        folder = self.folder / "open"
        folder.mkdir(mode=0o700, exist_ok=True)
        return try_lock(folder / name)

    # Deleting

    def delete(self, conversation: int) -> None:
        """Delete a conversation; `undelete` brings it back until this window closes.

        If the window is killed instead, the conversation stays deleted, and can be brought back
        for a day: see `deleted`.

        Raises:
            Qwen35Error: it is open in another window.
        """
        with self._guard:
            if not self._hold(conversation):
                raise Qwen35Error(
                    f"conversation {conversation} is open in another window: close it there first"
                )
            try:
                self._set(conversation, deleted=time.time())
                self._deleted.add(conversation)
            finally:
                self._let_go(conversation)

    def undelete(self, conversation: int) -> None:
        """Bring back what `deleted` lists."""
        with self._guard:
            if not self._hold(conversation):
                raise Qwen35Error(
                    f"conversation {conversation} was deleted in another window: undo it there"
                )
            with self.transaction() as db:
                changed = db.execute(
                    "UPDATE conversations SET deleted = NULL WHERE id = ?", (conversation,)
                )
            self._deleted.discard(conversation)
            self._let_go(conversation)
            if not changed.rowcount:
                raise _missing(conversation)

    def deleted(self) -> Sequence[Summary]:
        """What can be brought back: deleted by this window, or by one that was killed."""
        with self._guard, self._reading() as db:
            rows = db.execute(f"{_SUMMARY} WHERE deleted IS NOT NULL ORDER BY deleted DESC")
            found = [Summary(*row) for row in rows]
            return [summary for summary in found if self._mine_or_nobodys(summary.id)]

    def _mine_or_nobodys(self, conversation: int) -> bool:
        free = self._hold(conversation)
        self._let_go(conversation)
        return free

    def _purge(self) -> None:
        """Remove for good what this window deleted, and what one did that was killed long ago."""
        with self.transaction() as db:
            old = db.execute(
                "SELECT id FROM conversations WHERE deleted < ?",
                (time.time() - KEEP_DELETED_SECONDS,),
            ).fetchall()
            gone = self._deleted | {number for (number,) in old if self._mine_or_nobodys(number)}
            db.executemany("DELETE FROM conversations WHERE id = ?", [(i,) for i in gone])


def _inserted(db: sqlite3.Connection, table: str, values: Mapping[str, Any]) -> int:
    names = ", ".join(values)
    places = ", ".join(f":{name}" for name in values)
    new = db.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", values).lastrowid
    assert new is not None
    return new


def _must_have(db: sqlite3.Connection, conversation: int, message: int | None) -> None:
    if message is not None:
        found = db.execute(
            "SELECT 1 FROM messages WHERE conversation = ? AND id = ?", (conversation, message)
        )
        if found.fetchone() is None:
            raise Qwen35Error(f"conversation {conversation} has no message {message}")


def _missing(conversation: int) -> Qwen35Error:
    return Qwen35Error(
        f"conversation {conversation} is not there, or was deleted: see qwen35-chat --list"
    )
