"""Reads and writes conversations and messages in the library's database."""

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen35_mlx.arguments import checked
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.checksums import (
    CONVERSATION_COLUMNS,
    MESSAGE_COLUMNS,
    insert,
    matches,
    update,
)
from qwen35_mlx.library.conversation import (
    SUMMARY_HEADING,
    ChatSettings,
    Conversation,
    Message,
    Shelf,
    reattached,
    title_from,
)
from qwen35_mlx.library.database import Database
from qwen35_mlx.library.database_errors import DamagedError, how_to_rescue
from qwen35_mlx.library.listing import last_change
from qwen35_mlx.library.rows import (
    DAMAGED,
    SHELVES,
    message_from_row,
    replace_surrogates,
    row_from_message,
    settings_from_json,
    settings_to_json,
    shelf_of,
    usable_time,
)

_SELECT_MESSAGES = f"SELECT {', '.join(MESSAGE_COLUMNS)}, checksum FROM messages"
_SELECT_CONVERSATION = f"SELECT {', '.join(CONVERSATION_COLUMNS)}, checksum FROM conversations"


@checked
class ConversationStore(Database):
    """Conversations and messages in a database.

    Args:
        file: the SQLite file.

    Raises:
        Qwen35Error: from every method: see `Database`; or there is no conversation or message of
            the given id.
    """

    def __init__(self, file: Path):
        super().__init__(file)
        self._reported: set[str] = set()

    def create(
        self, *, title: str = "", model: str = "", settings: ChatSettings | None = None
    ) -> int:
        """Add an empty conversation and return its id.

        If `title` is empty, the first user message sets it.
        """
        now = time.time()
        return self.add_conversation(
            Conversation(
                id=0,
                title=title,
                model=model,
                settings=settings or ChatSettings(),
                created=now,
                updated=now,
            )
        )

    def add_conversation(self, conversation: Conversation) -> int:
        """Store a conversation under new ids, in one transaction, and return its id.

        In the order of changes it comes after those that were last changed before it.
        """
        updated = usable_time(conversation.updated)
        with self.transaction() as db:
            new = insert(
                db,
                "conversations",
                {
                    "title": replace_surrogates(conversation.title),
                    "model": replace_surrogates(conversation.model),
                    "settings": settings_to_json(conversation.settings),
                    "draft": replace_surrogates(conversation.draft),
                    "leaf": None,
                    "created": usable_time(conversation.created),
                    "updated": updated,
                    "deleted": None,
                    "changed": last_change(db, until=updated),
                    "shelf": SHELVES[conversation.shelf],
                },
            )
            ids: dict[int | None, int | None] = {None: None}
            for message in conversation.messages:
                values = row_from_message(replace(message, parent=ids[message.parent]))
                ids[message.id] = insert(db, "messages", {"conversation": new, **values})
            update(db, "conversations", new, {"leaf": ids[conversation.leaf]})
        return new

    def check_conversations(self) -> None:
        """Compare the rows of all conversations, without their messages, with their checksums.

        What is damaged is reported. A damaged row or index may hide a conversation from the list.
        """
        with self.reading() as db:
            rows = list(db.execute(f"{_SELECT_CONVERSATION} NOT INDEXED"))
            ((listed,),) = db.execute(
                "SELECT count(*) FROM conversations INDEXED BY conversations_by_change"
                " WHERE deleted IS NULL"
            )
        for row in rows:
            if not matches(row):
                self._report_damage(row[0], "its title, settings or order may have changed")
        if listed != sum(row[CONVERSATION_COLUMNS.index("deleted")] is None for row in rows):
            self.report(
                f"{self.file} is damaged, and the list of conversations may lack some:"
                f" {how_to_rescue(self.file)}"
            )

    def conversation(self, conversation: int, *, deleted: bool = False) -> Conversation:
        """The conversation of this id, with all its messages.

        What does not match its checksum is reported, and a message of that kind has the state
        "failed": see `rows.message_from_row`. The messages beside it can be read as usual.

        Args:
            deleted: whether it is one that was deleted.

        Raises:
            Qwen35Error: there is none of that id, or only one that was deleted, or not.
        """
        with self.reading() as db:
            row = db.execute(
                f"{_SELECT_CONVERSATION} WHERE id = ? AND (deleted IS NOT NULL) = ?",
                (conversation, deleted),
            ).fetchone()
            if row is None:
                raise no_such_conversation(conversation)
            ((shelf,),) = db.execute("SELECT shelf FROM conversations WHERE id = ?", row[:1])
            rows = db.execute(
                f"{_SELECT_MESSAGES} WHERE conversation = ? ORDER BY id", (conversation,)
            ).fetchall()
            messages = [message_from_row(row) for row in rows]
            # The rows come by one index; another one has the same entries, unless one is damaged.
            ((count,),) = db.execute(
                "SELECT count(*) FROM messages INDEXED BY messages_by_parent"
                " WHERE conversation = ?",
                (conversation,),
            )
        if count != len(messages):
            self._report_damage(conversation, "some of its messages are missing or out of place")
        damaged = [
            one[0] for one, read in zip(rows, messages, strict=True) if _is_damaged(one, read)
        ]
        if damaged:
            self._report_damage(conversation, f"the text of {_numbered(damaged)} may have changed")
        return replace(self._from_row(row, messages), shelf=shelf_of(shelf))

    def _from_row(self, row: tuple[Any, ...], messages: list[Message]) -> Conversation:
        """The conversation in a row. What is damaged is reported and replaced by a default."""
        values = dict(zip(CONVERSATION_COLUMNS, row[:-1], strict=True))
        whole = matches(row)
        try:
            settings = settings_from_json(values["settings"])
        except (DamagedError, TypeError):
            settings, whole = ChatSettings(), False
        attached = reattached(messages)
        whole = whole and attached == tuple(messages)
        leaf = values["leaf"]
        if leaf is not None and leaf not in {message.id for message in attached}:
            whole, leaf = False, attached[-1].id if attached else None
        if not whole:
            self._report_damage(values["id"], "its title, settings or order may have changed")
        return Conversation(
            id=values["id"],
            title=_of_kind(values["title"], str, ""),
            messages=attached,
            leaf=leaf,
            settings=settings,
            model=_of_kind(values["model"], str, ""),
            draft=_of_kind(values["draft"], str, ""),
            created=usable_time(values["created"]),
            updated=usable_time(values["updated"]),
        )

    def _report_damage(self, conversation: int, what: str) -> None:
        """Report damage of a conversation, once in the life of this window."""
        line = (
            f"conversation {conversation} is damaged on disk, and {what}: python -m"
            " qwen35_mlx.session verify lists what is damaged"
        )
        if line not in self._reported:
            self._reported.add(line)
            self.report(line)

    def rename(self, conversation: int, title: str) -> str:
        """Set the title and return it; an empty one is replaced by one from the first question."""
        title = " ".join(title.split())
        with self.transaction() as db:
            if not title:
                question = db.execute(
                    "SELECT content FROM messages WHERE conversation = ? AND role = 'user'"
                    " ORDER BY id LIMIT 1",
                    (conversation,),
                ).fetchone()
                title = title_from(question[0]) if question else ""
            self.set_columns(conversation, title=replace_surrogates(title))
        return title

    def shelve(self, conversation: int, shelf: Shelf) -> None:
        """Pin or archive a conversation, or take it back to the others."""
        self.set_columns(conversation, shelf=SHELVES[shelf])

    def configure(self, conversation: int, settings: ChatSettings) -> None:
        """Store the settings of the next turns."""
        self.set_columns(conversation, settings=settings_to_json(settings))

    def use_model(self, conversation: int, model: str) -> None:
        """Store the name of the model that is used now."""
        self.set_columns(conversation, model=replace_surrogates(model))

    def select(self, conversation: int, leaf: int | None) -> None:
        """Select the path to `leaf`; None selects no path."""
        with self.transaction() as db:
            _check_exists(db, conversation, leaf)
            self.set_columns(conversation, leaf=leaf)

    def set_columns(self, conversation: int, *, durable: bool = True, **values: Any) -> None:
        """Set columns of a conversation that is not deleted."""
        with self.transaction(durable=durable) as db:
            if not update(db, "conversations", conversation, values, "deleted IS NULL"):
                raise no_such_conversation(conversation)

    # Messages

    def add_message(self, conversation: int, message: Message) -> Message:
        """Add a message after its parent and select it.

        The first user message gives the conversation its title, if it has none. One that is
        archived is listed again.

        Args:
            message: its id is ignored; a `created` of 0 becomes the current time.

        Returns:
            the message with its id and time.
        """
        new = replace(message, created=usable_time(message.created) or time.time())
        with self.transaction() as db:
            _check_exists(db, conversation, new.parent)
            values = {"conversation": conversation, **row_from_message(new)}
            new = replace(new, id=insert(db, "messages", values))
            self.set_columns(
                conversation, leaf=new.id, updated=new.created, changed=last_change(db) + 1
            )
            if new.role == "user":
                title = replace_surrogates(title_from(new.content))
                update(db, "conversations", conversation, {"title": title}, "title = ''")
            listed = {"shelf": SHELVES["listed"]}
            update(db, "conversations", conversation, listed, f"shelf = {SHELVES['archived']}")
        return new

    def save(self, message: Message, *, durable: bool = True) -> None:
        """Update a stored message: everything except its parent, role, model and creation time.

        Args:
            durable: False while a reply is being written. The save then does not wait for the
                disk, and `updated` of the conversation stays the same.
        """
        values = row_from_message(message)
        for name in ("parent", "role", "model", "created"):
            del values[name]
        with self.transaction(durable=durable) as db:
            if not update(db, "messages", message.id, values):
                raise Qwen35Error(f"message {message.id} is not there (any more): it was deleted")
            if durable:
                ((conversation,),) = db.execute(
                    "SELECT conversation FROM messages WHERE id = ?", (message.id,)
                )
                changes = {"updated": time.time(), "changed": last_change(db) + 1}
                update(db, "conversations", conversation, changes)

    def message(self, message: int) -> Message:
        """The message of this id."""
        with self.reading() as db:
            row = db.execute(f"{_SELECT_MESSAGES} WHERE id = ?", (message,)).fetchone()
        if row is None:
            raise Qwen35Error(f"message {message} is not there (any more): open the list again")
        found = message_from_row(row)
        if _is_damaged(row, found):
            self._report_damage(row[1], f"the text of {_numbered([message])} may have changed")
        return found

    def has_message(self, message: int) -> bool:
        """Whether there is a message of this id."""
        with self.reading() as db:
            found = db.execute("SELECT 1 FROM messages WHERE id = ?", (message,)).fetchone()
        return found is not None

    def position(self, message: int) -> tuple[int, int]:
        """`Conversation.position`, without loading the conversation."""
        with self.reading() as db:
            row = db.execute(
                "SELECT sum(other.id <= one.id), count(*) FROM messages one JOIN messages other"
                " ON other.conversation = one.conversation AND other.parent IS one.parent"
                " AND (other.id = one.id OR NOT EXISTS (SELECT 1 FROM messages summary WHERE"
                " summary.id IN (one.id, other.id) AND summary.role = 'system'"
                " AND instr(summary.content, ?)))"
                " WHERE one.id = ?",
                (SUMMARY_HEADING, message),
            ).fetchone()
        if row is None or not row[1]:
            raise Qwen35Error(f"message {message} is not there (any more): open the list again")
        return row[0], row[1]


def _is_damaged(row: tuple[Any, ...], message: Message) -> bool:
    """Whether a message is damaged here, and not only where it was rescued from."""
    return message.error == DAMAGED and not matches(row)


def _of_kind(value: Any, kind: type, default: Any) -> Any:
    return value if isinstance(value, kind) else default


def _numbered(messages: Iterable[int]) -> str:
    numbers = list(messages)
    return f"message{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _check_exists(db: sqlite3.Connection, conversation: int, message: int | None) -> None:
    found = db.execute(
        "SELECT 1 FROM conversations WHERE id = ? AND deleted IS NULL", (conversation,)
    )
    if found.fetchone() is None:
        raise no_such_conversation(conversation)
    if message is not None:
        found = db.execute(
            "SELECT 1 FROM messages WHERE conversation = ? AND id = ?", (conversation, message)
        )
        if found.fetchone() is None:
            raise Qwen35Error(
                f"conversation {conversation} has no message {message}: open it again"
            )


def no_such_conversation(conversation: int) -> Qwen35Error:
    return Qwen35Error(
        f"conversation {conversation} is not there, or was deleted: see qwen35-chat --list"
    )
