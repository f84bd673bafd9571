"""Any damage to any file of a home: one line or no harm, never a message lost without a word.

A home is written by a process that is killed, so that its log and its locks are there too. Each try
damages one file and then uses the home. By default the tries are few. For a long run:

    QWEN35_DAMAGES=1000 scripts/test tests/library/test_home_damage.py -s
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import pytest
from qwen35_chat.history import History
from qwen35_chat.settings_file import SettingsFile

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Message
from qwen35_mlx.library.exporting import to_json, to_markdown
from qwen35_mlx.library.library import Library
from qwen35_mlx.library.rows import DAMAGED
from qwen35_mlx.session import __main__ as session_command
from tests.library.messages import add_message, begin_reply, finish_reply, update_reply

DAMAGES = int(os.environ.get("QWEN35_DAMAGES", "24"))
HANG_SECONDS = 5
Content = Mapping[int, tuple[int, str, str]]  # message -> its conversation, role and text


@dataclass
class Found:
    """What a user of a damaged home sees: messages, and lines that say what is wrong."""

    messages: dict[int, tuple[int, str, str]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def write_home(folder: Path) -> None:
    """Write some conversations, the last ones after the log was emptied, and do not close."""
    library = Library(folder)
    for number in range(6):
        conversation = library.create(title=f"title {number}")
        library.claim(conversation)
        parent = None
        for turn in range(3):
            text = f"question {number}.{turn} " + "about the quick brown fox " * 4
            parent = add_message(library, conversation, parent, "user", text).id
            reply = begin_reply(library, conversation, parent, "m")
            if number == 5 and turn == 2:
                update_reply(library, reply.id, "half a reply")
            elif number < 4:
                finish_reply(library, reply.id, f"answer {number}.{turn} " * 30, "Hm.")
            parent = reply.id
        if number == 3:
            library.empty_log()
    library.save_draft(None, "a draft")
    os._exit(0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    code = "import sys; from pathlib import Path; from tests.library.test_home_damage import *;"
    subprocess.run(
        [sys.executable, "-c", code + "write_home(Path(sys.argv[1]))", str(folder)], check=True
    )
    states = folder / "states" / "model"
    states.mkdir(parents=True)
    name = f"0000000-0000005-{'0' * 32}-{'1' * 32}.kv.safetensors"
    (states / name).write_bytes(b"no state " * 100)
    (states / f"{name}.1-0.tmp").write_bytes(b"half a state")
    (folder / "history.jsonl").write_text('"one"\n"two"\n')
    (folder / "settings.toml").write_text('theme = "dark"\n')
    assert (folder / "library.db-wal").stat().st_size > 50_000
    assert len(list((folder / "open").iterdir())) >= 6
    return folder


@pytest.fixture(scope="module")
def stored(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Content:
    found = use(shutil.copytree(home, tmp_path_factory.mktemp("stored") / "home"))
    assert not found.lines
    assert len(found.messages) == 36
    return found.messages


@contextmanager
def time_limit() -> Generator[None]:
    def stop(_: int, __: FrameType | None) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def use(home: Path) -> Found:
    """List, read, search, export and verify, as far as that goes."""
    found = Found()

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except Qwen35Error as error:
            found.lines.append(str(error))

    def read_all() -> None:
        with Library(home) as library:
            rows = library.list(100)
            for row in rows:
                attempt(lambda number=row.id: read(library, number))
            attempt(lambda: library.search("quick fox"))
            attempt(lambda: library.draft(None))
            attempt(library.deleted)
            attempt(lambda: add_message(library, library.create(), None, "user", "new"))
            found.lines += library.notices()

    def read(library: Library, number: int) -> None:
        conversation = library.conversation(number)
        to_json(conversation)
        to_markdown(conversation)
        for message in conversation.messages:
            if message.error == DAMAGED:
                found.lines.append(DAMAGED)
            found.messages[message.id] = (number, message.role, text_of(message))

    attempt(lambda: History(home / "history.jsonl").add("three"))
    attempt(SettingsFile(home / "settings.toml").load)
    attempt(read_all)
    attempt(lambda: session_command.verify(home, delete=False))
    return found


def text_of(message: Message) -> str:
    return f"{message.thinking}|{message.content}|{message.state}|{message.parent}"


def files_of(home: Path) -> list[Path]:
    return sorted(path.relative_to(home) for path in home.rglob("*") if path.is_file())


def damage(file: Path, kind: str, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    match kind:
        case "bit" if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "bits" if data:
            for _ in range(20):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "page" if data:
            start = rng.randrange(len(data)) // 4096 * 4096
            data[start : start + 4096] = bytes(len(data[start : start + 4096]))
        case "truncated" if data:
            del data[rng.randrange(len(data)) :]
        case "noise":
            data = bytearray(rng.randbytes(len(data) or 100))
        case "empty":
            data.clear()
    if kind in ("gone", "pipe", "folder", "link", "dangling"):
        file.unlink()
    match kind:
        case "gone":
            pass
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
        case "link":
            outside = Path(tempfile.mkdtemp(dir=file.parents[len(file.parents) - 3])) / "outside"
            outside.write_bytes(data)
            file.symlink_to(outside)
        case "dangling":
            file.symlink_to(file.with_name("nowhere"))
        case _:
            file.write_bytes(data)


KINDS = (
    *("bit", "bits", "page", "truncated", "noise", "empty", "gone", "pipe", "folder"),
    *("link", "dangling"),
)


def check(
    home: Path, folder: Path, file: Path, kind: str, rng: random.Random, stored: Content
) -> bool:
    """Damage a copy of the home and use it twice. Returns whether something was said."""
    copy = shutil.copytree(home, folder / "home")
    damage(copy / file, kind, rng)
    with time_limit():
        first = use(copy)
        second = use(copy)
    said = first.lines + second.lines
    for line in said:
        assert "\n" not in line
        assert "internal error" not in line
    if not first.lines or not file.name.startswith("library"):
        assert {id_: first.messages[id_] for id_ in stored} == stored, (file, kind)
    if not said:
        assert {id_: second.messages[id_] for id_ in stored} == stored, (file, kind)
    shutil.rmtree(folder)
    return bool(said)


def run(
    home: Path, folder: Path, stored: Content, tries: list[tuple[Path, str]], seed: int
) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    rng = random.Random(seed)
    for number, (file, kind) in enumerate(tries):
        place = folder / f"{number}"
        place.mkdir()
        said = check(home, place, file, kind, rng, stored)
        outcomes["said" if said else "no harm"] += 1
    print(f"\n{len(tries)} tries: {dict(outcomes)}")
    return outcomes


def test_every_kind_of_damage_to_every_file(home: Path, stored: Content, tmp_path: Path) -> None:
    rng = random.Random(DAMAGES)
    files = files_of(home)
    # A pipe in place of a file is what is most easily waited for.
    tries = [(file, "pipe") for file in files if file.parent.name != "open"]
    every = [(file, kind) for file in files for kind in KINDS]
    tries += rng.sample(every, min(max(DAMAGES - len(tries), 0), len(every)))
    while len(tries) < DAMAGES:
        tries.append((rng.choice(files), rng.choice(KINDS)))
    run(home, tmp_path, stored, tries, DAMAGES)


def test_damage_to_the_log(home: Path, stored: Content, tmp_path: Path) -> None:
    rng = random.Random(DAMAGES)
    kinds = ("bit", "bits", "page", "truncated", "empty", "gone")
    tries = [(Path("library.db-wal"), rng.choice(kinds)) for _ in range(max(DAMAGES // 4, 10))]
    assert run(home, tmp_path, stored, tries, 1)["said"] > len(tries) // 2


def test_flipped_bits_in_the_database(home: Path, stored: Content, tmp_path: Path) -> None:
    closed = shutil.copytree(home, tmp_path / "closed")
    Library(closed).close()  # nothing is left in the log
    tries = [(Path("library.db"), "bit")] * max(DAMAGES // 4, 20)
    assert run(closed, tmp_path, stored, tries, 2)["said"] > 0


def test_a_log_without_its_database_is_put_aside(home: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(home, tmp_path / "home")
    log = (copy / "library.db-wal").read_bytes()
    (copy / "library.db").unlink()
    with pytest.raises(Qwen35Error, match=r"is gone, and its log.*put a copy.*start again"):
        Library(copy)
    (aside,) = copy.glob("library-damaged-*.db-wal")
    assert aside.read_bytes() == log
    with Library(copy) as library:
        assert library.count() == 0
    assert aside.read_bytes() == log
