"""The conversations that can be read from the pages of a damaged database.

A row is recognised by the kinds of its columns, in any version of the format, and compared with its
checksum. Of several rows with one id, as after a transaction of which a part is lost, a whole one
counts, and of these that of the log.
"""

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from typing import Any, get_args

from qwen35_mlx.library.checksums import (
    CONVERSATION_COLUMNS,
    MESSAGE_COLUMNS,
    matches,
    row_checksum,
)
from qwen35_mlx.library.conversation import (
    Conversation,
    Message,
    MessageState,
    Role,
    reattached,
    title_from,
)
from qwen35_mlx.library.database_errors import DamagedError
from qwen35_mlx.library.page_records import PageRecords, Record
from qwen35_mlx.library.rows import DAMAGED, message_from_row, settings_from_json, usable_time

_MESSAGE = re.compile("NI[NI]TTTTT[NT]TT[NI]{3}[NIF]{2}[NI][NIF][IF]I?")
_CONVERSATION = re.compile("NTTTT[NI][IF][IF][NIF](II?I?)?")
DAMAGED_TITLE = "(damaged)"
# Columns of floats, of which SQLite stores whole numbers as integers.
_REAL = {"prefill_seconds", "decode_seconds", "thinking_seconds", "created", "updated", "deleted"}
# Entries of indexes: conversation, parent and id of a message; and of a conversation that is not
# deleted its place in the order of changes (since the fourth version), its time, and its id twice.
_BY_PARENT = re.compile("I[NI]I")
_BY_CHANGE = re.compile("I[IF]II|FII")
CHECKSUMS_SINCE = 3  # the version of the format


@dataclass(frozen=True, slots=True)
class Found:
    """A conversation that was found.

    Attributes:
        conversation: with the ids of the damaged database; None if nothing of it can be read.
        deleted: when it was deleted, the time of now if that is lost; None if it was not.
        whole: nothing of it is known to be missing or damaged.
    """

    conversation: Conversation | None
    deleted: float | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    """A row without its values.

    Attributes:
        sound: nothing is wrong with it; if it has a checksum, that matches.
        checked: it has a checksum.
        newer: it is of the log.
        conversation: that it belongs to.
    """

    sound: bool
    checked: bool
    newer: bool
    size: int
    place: tuple[int, int]
    conversation: int

    def beats(self, other: "_Row | None") -> bool:
        """Whether it counts, of two rows with one id."""
        if other is None:
            return True
        return astuple(self)[:4] > astuple(other)[:4]


class Remains:
    """What a damaged database holds.

    Attributes:
        checked: whether its rows have checksums.
    """

    def __init__(self, records: PageRecords):
        self._records = records
        self._conversations: dict[int, _Row] = {}
        self._live: set[int] = set()
        self._messages: dict[int, _Row] = {}
        for record in records.rows():
            if _MESSAGE.fullmatch(record.kinds):
                self._keep(record, self._messages, MESSAGE_COLUMNS)
            elif _CONVERSATION.fullmatch(record.kinds):
                self._keep(record, self._conversations, CONVERSATION_COLUMNS)
                if record.kinds[CONVERSATION_COLUMNS.index("deleted")] == "N":
                    self._live.add(record.rowid)
        version = records.user_version
        found = (*self._conversations.values(), *self._messages.values())
        self.checked = (
            any(row.sound and row.checked for row in found)
            if version is None
            else version >= CHECKSUMS_SINCE
        )
        self._parents: dict[int, dict[int, int | None]] = defaultdict(dict)
        self._listed: set[int] = set()
        self._by_conversation: dict[int, list[int]] = defaultdict(list)
        self._read_index()
        for message, row in sorted(self._messages.items()):
            self._by_conversation[row.conversation].append(message)

    def conversations(self) -> Iterator[Found]:
        """All conversations that there are signs of, in the order of their ids."""
        for number in sorted({*self._conversations, *self._by_conversation, *self._parents}):
            yield self._found(number)

    def _keep(self, record: Record, rows: dict[int, _Row], columns: Sequence[str]) -> None:
        """Note a row, unless a better one has its id."""
        values = (record.rowid, *record.values[1 : len(columns) + 1])
        checked = len(values) > len(columns)
        sound = record.entire and (matches(values) if checked else True)
        conversation = values[1] if "conversation" in columns else record.rowid
        newer = self._records.in_log(record.place[0])
        row = _Row(sound, checked, newer, record.size, record.place, conversation)
        known = record.rowid > 0 and conversation is not None
        if known and row.beats(rows.get(record.rowid)):
            rows[record.rowid] = row

    def _read_index(self) -> None:
        """Note what the index of messages names, and where damaged messages belong by it."""
        for entry in self._records.entries():
            by_parent, by_change = (i.fullmatch(entry.kinds) for i in (_BY_PARENT, _BY_CHANGE))
            if not entry.entire or not (by_parent or by_change):
                continue
            *_, before, last = entry.values
            if by_parent and (before is None or 0 < before < last):
                self._name(last, before, entry.values[0])
            elif by_change and before == last:
                self._listed.add(last)

    def _name(self, message: int, parent: int | None, conversation: int) -> None:
        """Note where a message that is lost or damaged belongs."""
        row = self._messages.get(message)
        if row is None or not self._is_whole(row):
            self._parents[conversation][message] = parent
            if row is not None:
                self._messages[message] = replace(row, conversation=conversation)

    def _is_whole(self, row: _Row) -> bool:
        return row.sound and row.checked == self.checked

    def _found(self, number: int) -> Found:
        """The conversation of an id, which has a row of its own, a message, or an entry."""
        own = self._conversations.get(number)
        values = self._values(own, CONVERSATION_COLUMNS) if own else {}
        named = self._parents.get(number, {})
        rows = self._by_conversation.get(number, [])
        if own is None and not rows:
            return Found(None)
        read = [self._message(message, named) for message in rows]
        lost = {i: parent for i, parent in named.items() if i not in self._messages}
        messages = reattached(read, lost)
        leaf = values.get("leaf")
        while leaf in lost:
            leaf = lost[leaf]
        if leaf not in rows and (leaf is not None or not (own and self._is_whole(own))):
            leaf = rows[-1] if rows else None
        whole = (
            own is not None
            and self._is_whole(own)
            and not lost
            and messages == tuple(read)
            and leaf == values["leaf"]
            and not any(message.error == DAMAGED for message in read)
        )
        conversation = _without_row(number, messages, leaf)
        if own is not None and self._is_whole(own):
            try:
                conversation = _with_row(conversation, values)
            except DamagedError:
                whole = False
        elif own is not None:
            conversation = _with_damaged_row(conversation, values)
        deleted = usable_time(values.get("deleted")) or None
        if own is None and self._list_is_whole() and number not in self._listed:
            deleted = time.time()
        return Found(conversation, deleted, whole)

    def _list_is_whole(self) -> bool:
        """Whether the index lists all conversations that are not deleted, as far as one can see."""
        return bool(self._listed) and self._live <= self._listed

    def _values(self, row: _Row, columns: Sequence[str]) -> dict[str, Any]:
        """The values of a row by column."""
        record = self._records.row(row.place)
        values = dict(zip(columns, (record.rowid, *record.values[1:]), strict=False))
        for name in _REAL & values.keys():
            if isinstance(values[name], int):
                values[name] = float(values[name])
        return values

    def _message(self, number: int, named: Mapping[int, int | None]) -> Message:
        """A message; a damaged one as `rows.message_from_row` gives it.

        Args:
            named: the parents that the index names.
        """
        row = self._messages[number]
        values = self._values(row, MESSAGE_COLUMNS)
        columns = tuple(values.values())
        possible = values["role"] in get_args(Role) and values["state"] in get_args(MessageState)
        if possible and self._is_whole(row):
            with suppress(DamagedError):
                return message_from_row((*columns, row_checksum(*columns)))
        message = message_from_row((*columns, None))
        return replace(message, parent=named.get(number, message.parent))


def _without_row(number: int, messages: tuple[Message, ...], leaf: int | None) -> Conversation:
    """A conversation whose own row is lost, with what its messages say of it."""
    questions = [message for message in messages if message.role == "user"]
    whole = [message for message in questions if message.error != DAMAGED]
    titles = [title_from(message.content) for message in (*whole, *questions, *messages)]
    times = [message.created for message in messages if message.created]
    return Conversation(
        id=number,
        title=next(filter(None, titles), ""),
        messages=messages,
        leaf=leaf,
        model=next((message.model for message in reversed(messages) if message.model), ""),
        created=min(times, default=0.0),
        updated=max(times, default=0.0),
    )


def _with_row(conversation: Conversation, values: Mapping[str, Any]) -> Conversation:
    """The conversation with the columns of its row.

    Raises:
        DamagedError: the settings cannot be read.
    """
    return replace(
        conversation,
        title=values["title"],
        settings=settings_from_json(values["settings"]),
        model=values["model"],
        draft=values["draft"],
        created=usable_time(values["created"]),
        updated=usable_time(values["updated"]),
    )


def _with_damaged_row(conversation: Conversation, values: Mapping[str, Any]) -> Conversation:
    """The conversation with what a damaged row can give: texts that say so, and no settings."""
    title, draft = values["title"], values["draft"]
    return replace(
        conversation,
        title=f"{title} {DAMAGED_TITLE}" if title.strip() else conversation.title,
        draft=f"[{DAMAGED}]\n\n{draft}" if draft else "",
        created=usable_time(values["created"]) or conversation.created,
        updated=usable_time(values["updated"]) or conversation.updated,
    )
