"""A library to be damaged, and what is rescued of it."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

from qwen35_mlx.library.conversation import ChatSettings, Conversation, Usage
from qwen35_mlx.library.exporting import to_json
from qwen35_mlx.library.library import FILE, Library
from qwen35_mlx.library.page_records import PAGE_SIZE
from qwen35_mlx.library.rescue import Rescue, rescue
from qwen35_mlx.library.verifying import damages
from tests.library.messages import add_message


def mark(message: int) -> str:
    """What only a row of this message holds, again and again; the search index has it folded."""
    return f"MARK-{message}-OF "


def fill(library: Library, conversations: int, seed: int = 1) -> None:
    """Write conversations with branches, long texts, calls of tools and figures."""
    rng = random.Random(seed)
    message = 0
    for number in range(conversations):
        at = library.create(
            title=f"Title {number}", model="m", settings=ChatSettings(system=f"Be {number}.")
        )
        parents: list[int | None] = [None]
        for _ in range(rng.randrange(2, 9)):
            message += 1
            length = rng.choice([1, 3, 20, 300, 900]) if rng.random() < 0.5 else 2
            text = mark(message) * length
            calls = ({"type": "function", "function": {"name": "f", "arguments": {"x": message}}},)
            added = add_message(
                library,
                at,
                rng.choice(parents[-2:]),
                rng.choice(["user", "assistant"]),
                text,
                thinking=rng.choice(["", mark(message)]),
                tool_calls=rng.choice([(), calls]),
                model=mark(message),
                usage=rng.choice([None, Usage(message, 1, 2, 0.5, 2.0, 3 << 33)]),
                created=1.7e9 + message + rng.choice([0, 0.25]),
            )
            assert added.id == message
            parents.append(message)
        library.save_draft(at, f"draft {number}")


def write_library(folder: Path) -> Path:
    """Write a library that has free pages and no log; the folder."""
    with Library(folder) as library:
        fill(library, 40)
        for at in (3, 17, 25):
            library.delete(at)
    with closing(sqlite3.connect(folder / FILE)) as db:
        assert db.execute("PRAGMA freelist_count").fetchone()[0]
        assert db.execute("PRAGMA page_size").fetchone()[0] == PAGE_SIZE
    return folder


def all_of(folder: Path) -> dict[int, Conversation]:
    with Library(folder) as library:
        return {at: library.conversation(at) for at in sorted(row.id for row in library.list(1000))}


def rescued(file: Path, folder: Path) -> tuple[Rescue, list[Conversation]]:
    """The conversations of a new library that was filled from a file, by their ids."""
    before = file.read_bytes() if file.exists() else b""
    with Library(folder) as library:
        result = rescue(library, file)
        found = [library.conversation(row.id) for row in library.list(1000)]
        assert not library.notices()
        assert not damages(library)
    assert (file.read_bytes() if file.exists() else b"") == before
    return result, sorted(found, key=lambda one: one.id)


def same(one: Conversation, other: Conversation) -> bool:
    return to_json(one) == to_json(other) and one.draft == other.draft
