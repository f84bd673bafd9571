"""What a damaged database still holds comes back, and nothing else.

Each try of the property test damages a copy of one library. By default the tries are few. For a
long run:

    QWEN35_DAMAGES=2000 scripts/test tests/library/test_rescue_damage.py -s
"""

import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Message
from qwen35_mlx.library.library import FILE
from qwen35_mlx.library.page_records import PAGE_SIZE
from qwen35_mlx.library.remains import DAMAGED_TITLE
from qwen35_mlx.library.rows import DAMAGED
from tests.library.damaged import all_of, mark, rescued, same, write_library

DAMAGES = int(os.environ.get("QWEN35_DAMAGES", "6"))
Damage = Callable[[bytearray, random.Random], None]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_library(tmp_path_factory.mktemp("written"))


def plain(message: Message) -> Message:
    return replace(message, id=0, parent=None)


def overwrite(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 3, 20])):
        page = rng.randrange(len(data) // PAGE_SIZE)
        data[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = rng.randbytes(PAGE_SIZE)


def zero(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    for at in range(start, min(len(data), start + rng.choice([1, 600, 9000, 90_000]))):
        data[at] = 0


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def lose_header(data: bytearray, rng: random.Random) -> None:
    data[:PAGE_SIZE] = rng.choice([bytes(PAGE_SIZE), rng.randbytes(PAGE_SIZE)])
    overwrite(data, rng)


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 10, 300])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def misplace(data: bytearray, rng: random.Random) -> None:
    """Write a page in place of another."""
    for _ in range(rng.choice([1, 5])):
        pages = len(data) // PAGE_SIZE
        source, target = rng.randrange(pages) * PAGE_SIZE, rng.randrange(pages) * PAGE_SIZE
        data[target : target + PAGE_SIZE] = data[source : source + PAGE_SIZE]


DAMAGE: tuple[Damage, ...] = (overwrite, zero, cut, lose_header, flip, misplace)


def pages_of(data: bytes, messages: int) -> dict[int, list[int]]:
    """By message, the pages that hold a part of its row, found by its mark alone."""
    found: dict[int, list[int]] = {}
    for message in range(1, messages + 1):
        wanted, at, pages = mark(message).encode(), -1, set()
        while (at := data.find(wanted, at + 1)) >= 0:
            pages |= {at // PAGE_SIZE, (at + len(wanted) + 150) // PAGE_SIZE}
        found[message] = sorted(pages)
    return found


def is_intact(page: int, before: bytes, after: bytes | bytearray) -> bool:
    part = slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
    return before[part] == after[part] and len(after) >= part.stop


def test_all_on_intact_pages_comes_back_and_nothing_is_invented(
    written: Path, tmp_path: Path
) -> None:
    there = all_of(written)
    of_mark = {m.model: (at, m) for at, c in there.items() for m in c.messages}
    before = (written / FILE).read_bytes()
    pages = pages_of(before, max(m.id for _, m in of_mark.values()))
    counts: Counter[str] = Counter()
    for number in range(DAMAGES):
        rng = random.Random(number)
        data = bytearray(before)
        damage = DAMAGE[number % len(DAMAGE)]
        damage(data, rng)
        file = tmp_path / f"{number}.db"
        file.write_bytes(data)
        intact = {
            i for i, held in pages.items() if all(is_intact(p, before, data) for p in held)
        } & {m.id for _, m in of_mark.values()}
        if not intact:  # there may be no conversation at all
            with suppress(Qwen35Error):
                rescued(file, tmp_path / f"new-{number}")
            continue
        result, found = rescued(file, tmp_path / f"new-{number}")
        whole: set[int] = set()
        for conversation in found:
            sources = Counter()
            for message in conversation.messages:
                counts[f"{damage.__name__}: {message.error or 'whole'}"] += 1
                if message.error == DAMAGED:
                    continue
                at, original = of_mark[message.model]
                assert plain(message) == plain(original), number
                assert original.id not in whole
                whole.add(original.id)
                sources[at] += 1
                if original.parent in whole:
                    parent = conversation.message(message.parent or 0)
                    assert of_mark[parent.model][1].id == original.parent
            assert len(sources) <= 1
            assert conversation.title.removesuffix(f" {DAMAGED_TITLE}")
        assert whole >= intact, (number, damage.__name__, intact - whole)
        equal = {at for at, c in there.items() if any(same(c, one) for one in found)}
        with_gaps = {one.title for one in found if one.id in result.gaps}
        assert {one.title for one in found if one.id not in result.gaps} <= {
            there[at].title for at in equal
        }, number
        counts[f"{damage.__name__}: equal"] += len(equal)
        counts[f"{damage.__name__}: with gaps"] += len(with_gaps)
    print(*sorted(counts.items()), sep="\n")
    assert sum(count for name, count in counts.items() if DAMAGED in name)
