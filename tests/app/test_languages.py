"""Texts in six kinds of writing: typed, pasted, streamed, searched, exported, imported, resized.

Each text has 50 lines. `QWEN35_TYPED_LINES=50` types all of them.
"""

import os
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from qwen35_chat.chips import draft_in_full
from qwen35_chat.drawing.entries import ReplyEntry, UserEntry
from qwen35_chat.drawing.entry import TranscriptEntry
from qwen35_chat.fake import done
from qwen35_chat.html_export import to_html
from rich.cells import cell_len
from textual.widgets import Input

from qwen35_mlx.library.conversation import Conversation, Message
from qwen35_mlx.library.exporting import to_json, to_markdown
from qwen35_mlx.library.importing import from_json
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import Answer, PrefillProgress
from qwen35_mlx.text.tokenizer import Tokenizer
from scripts.support.terminal import Terminal
from tests.app.drive import Driver, chat
from tests.app.real_terminal import chat as terminal_chat
from tests.library.messages import add_message

TYPED_LINES = int(os.environ.get("QWEN35_TYPED_LINES", "5"))
FOLDER = Path(__file__).with_name("languages")
TEXTS = {file.stem: file.read_text(encoding="utf-8").strip() for file in FOLDER.glob("*.md")}
TITLE = "languages"
CLEAR = "\x03"
WIDTHS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 100)

every_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


def test_each_text_has_fifty_lines() -> None:
    assert sorted(TEXTS) == ["arabic", "chinese", "emoji", "japanese", "korean", "thai"]
    for text in TEXTS.values():
        assert sum(bool(line) for line in text.splitlines()) == 50
        assert unicodedata.is_normalized("NFC", text)


def letters(text: str) -> str:
    """What must not be lost of a text: all but blanks, punctuation and the marks of Markdown."""
    return "".join(char for char in text if _is_letter(char))


def _is_letter(char: str) -> bool:
    kind = unicodedata.category(char)
    # Parts of emoji are symbols and joiners, and marks of Markdown are symbols of ASCII.
    drawn = char.isascii() or "\u2500" <= char <= "\u259f"
    return kind[0] in "LMN" or (kind[0] == "S" and not drawn) or kind == "Cf"


def unnumbered(text: str) -> str:
    """A text without the numbers of its lists."""
    return re.sub(r"(?m)^\d+\. ", "", text)


# A real terminal


@pytest.fixture(scope="module")
def typing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Terminal, Library, int]]:
    """A chat in a terminal, without a model: what is typed is stored as the draft."""
    home = tmp_path_factory.mktemp("languages")
    with Library(home) as library:
        number = library.create(title=TITLE)
        add_message(library, number, None, "user", "hello")
        with terminal_chat(home, "-m", str(home / "none"), "--resume", TITLE) as terminal:
            terminal.until(lambda: "hello" in terminal.text and "no model" in terminal.text)
            yield terminal, library, number


@every_text
def test_typed_and_pasted(typing: tuple[Terminal, Library, int], text: str) -> None:
    terminal, library, number = typing
    lines = [line for line in text.splitlines() if line]
    typed = "\n".join(lines[1 :: len(lines) // TYPED_LINES])
    terminal.write(typed)  # a line feed is Ctrl+J, which begins a new line
    terminal.write(f"\x1b[200~{text}\x1b[201~")
    try:
        terminal.until(lambda: draft_in_full(library.draft(number)).endswith(text), 10)
        assert draft_in_full(library.draft(number)) == typed + text
    finally:
        terminal.write(CLEAR)
        terminal.until(lambda: library.draft(number) == "", 10)


# The screen


def lines_of(entry: TranscriptEntry, width: int) -> list[str]:
    column = entry.column(width)
    return [line.content.plain for part in column.parts for line in part.lines(column.width)]


@every_text
async def test_streamed_resized_and_found(home: Path, text: str, tokenizer: Tokenizer) -> None:
    async with chat(home, size=(60, 24)) as at:
        await at.send("tell me")
        await stream(at, text, tokenizer)
        await resize(at, text)
        await at.press("ctrl+n")
        await at.shown()
        await find(at, text.splitlines()[-1])


async def stream(at: Driver, text: str, tokenizer: Tokenizer) -> None:
    """Show a text in tokens, which may end within a character, a grapheme or a mark of Markdown."""
    decoder, numbers = tokenizer.stream(), random.Random(19)
    pieces = [decoder.push(token) for token in tokenizer.encode(text)]
    await at.shown([PrefillProgress(0, 100, 0)])
    while pieces:
        some = numbers.randint(1, 1_000)
        await at.shown([Answer("".join(pieces[:some]))])
        del pieces[:some]
    await at.shown([done()])
    assert at.library.conversation(1).path()[-1].content == text
    width = at.transcript.rows.columns
    shown = lines_of(ReplyEntry(answer=text, model="demo"), width)
    assert lines_of(at.messages[-1], width)[1:] == shown[1:]  # the head says how long it took
    # What is drawn of it is what is at the end of the view.
    end = [line.strip() for line in shown if line.strip()][-3:]
    await at.until(lambda: {*end} <= {line.strip() for line in at.text.splitlines()})


async def resize(at: Driver, text: str) -> None:
    """The window may have any size, and shows all again when it is as large as before."""
    before, size = at.text, at.app.size
    at.composer.set_text(text)
    for columns, rows in ((7, 30), (3, 3), size):
        await at.pilot.resize_terminal(columns, rows)
        await at.settled()
        assert all(cell_len(line) <= columns for line in at.text.splitlines())
    at.composer.set_text("")
    await at.settled()
    assert at.text == before


async def find(at: Driver, line: str) -> None:
    """Look for a line in all conversations, and go to it."""
    await at.press("ctrl+s")
    at.app.screen.query_one(Input).value = line
    await at.until(lambda: "Messages" in at.text or "tell me" in at.text)
    await at.press("enter")
    await at.until(lambda: letters(line) in letters(at.text))


@every_text
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_drawn_at_any_width(text: str, role: str) -> None:
    """No line is too wide, and nothing is lost."""
    entry = UserEntry(text) if role == "user" else ReplyEntry(answer=text)
    entry.toggle()  # a long message is folded
    for width in WIDTHS:
        lines = lines_of(entry, width)
        # Blanks at the end hang over, and a wide character of a list needs three cells.
        assert max(cell_len(line.rstrip()) for line in lines) <= max(width, 3)
        # The cells of a table are wrapped side by side, and numbers of a list need some room.
        assert not Counter(letters(unnumbered(text))) - Counter(letters("".join(lines)))


# What is kept


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """A library with a conversation for each text, which has its name."""
    with Library(tmp_path_factory.mktemp("stored")) as library:
        for name, text in TEXTS.items():
            question, _, answer = text.partition("\n\n")
            user = add_message(library, library.create(title=name), None, "user", question)
            number = library.list()[0].id
            added = Message(0, user.id, "assistant", answer, model="demo")
            library.add_message(number, added)
        yield library


def conversation(library: Library, name: str) -> Conversation:
    (number,) = [found.id for found in library.list() if found.title == name]
    return library.conversation(number)


def words_of(line: str) -> list[str]:
    """Runs of letters of a line, of at most six characters from their second character on."""
    runs = re.findall(r"[^\W_]{4,}", line)
    return [run[1:7] for run in runs if not run.isascii()]


@pytest.mark.parametrize("name", TEXTS)
def test_searched(stored: Library, name: str) -> None:
    for line in TEXTS[name].splitlines():
        for words in [line.strip("*` "), *words_of(line)]:
            if len(words) > 2:
                found = {hit.title for hit in stored.search(words, limit=1000)}
                assert name in found, words


@pytest.mark.parametrize("name", TEXTS)
def test_exported_and_imported(stored: Library, name: str, tmp_path: Path) -> None:
    before = conversation(stored, name)
    exported = to_json(before)
    with Library(tmp_path) as other:
        number = other.add_conversation(from_json(exported))
        again = other.conversation(number)
        assert [m.content for m in again.path()] == [m.content for m in before.path()]
        assert "\n\n".join(m.content for m in again.path()) == TEXTS[name]
        assert to_json(again) == exported
    assert exported.isascii() or TEXTS[name].splitlines()[-1] in exported
    markdown, page = to_markdown(before), unescape(re.sub(r"<[^>]*>", "", to_html(before)))
    for line in filter(None, TEXTS[name].splitlines()):
        assert line in markdown
        assert letters(unnumbered(line)) in letters(page)
