"""A queue that is fair to clients: one entry of each in turn, those of one in order of arrival."""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

_Entry = TypeVar("_Entry")


class FairQueue(Generic[_Entry]):
    """Waiting entries by client. A client that was served goes behind all others.

    Args:
        client: the client of an entry.
    """

    def __init__(self, client: Callable[[_Entry], str]):
        self._client = client
        # Clients with entries, the one whose turn it is first.
        self._waiting: dict[str, deque[_Entry]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, entry: _Entry) -> None:
        """Add an entry at the end of its client's."""
        self._waiting.setdefault(self._client(entry), deque()).append(entry)

    def serve(self, entry: _Entry) -> None:
        """Take an entry out, and put its client behind all others."""
        self.drop(entry)
        client = self._client(entry)
        if client in self._waiting:
            self._waiting[client] = self._waiting.pop(client)

    def drop(self, entry: _Entry) -> None:
        """Take an entry out without serving it; its client keeps its turn."""
        client = self._client(entry)
        self._waiting[client].remove(entry)
        if not self._waiting[client]:
            del self._waiting[client]

    def in_order(self) -> list[_Entry]:
        """All entries in the order in which they would be served if no other came."""
        rounds = max(map(len, self._waiting.values()), default=0)
        lists = [list(entries) for entries in self._waiting.values()]
        return [one[index] for index in range(rounds) for one in lists if index < len(one)]
