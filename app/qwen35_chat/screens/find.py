"""Words in the conversation: the messages that have them, one after the other."""

from typing import Protocol

from qwen35_chat.drawing.entries import ReplyEntry
from qwen35_chat.drawing.entry import TranscriptEntry
from qwen35_chat.widgets.transcript import TranscriptView
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.search import parse_query
from qwen35_mlx.text.folding import folded


class FindView(Protocol):
    """Where the messages are."""

    def key(self, name: str, most: int = 1) -> str: ...

    def show_message(self, text: str, *, error: bool = False) -> None: ...

    def to_composer(self) -> None:
        """Let keys go to the composer that would go to the messages."""
        ...


class Find:
    """Goes to messages with the words of a search; the words are selected there.

    The message is marked, as by a click: keys go on to where they went.

    Args:
        transcript: the messages.
        view: names keys, and shows a line.
    """

    def __init__(self, transcript: TranscriptView, view: FindView):
        self._transcript = transcript
        self._view = view
        self._words = ""
        self._later: tuple[int, int] | None = None  # a conversation, and the message to go to
        self._last: TranscriptEntry | None = None  # where it went last

    def later(self, conversation: int, message: int, words: str) -> None:
        """Go to words in a message once its conversation is shown."""
        self._later, self._words = (conversation, message), words

    def shown(self, conversation: int) -> None:
        """A conversation is shown: go where it was opened for, if it was."""
        later, self._later = self._later, None
        if later is None or later[0] != conversation:
            return
        self._view.to_composer()
        # Not before the messages have lost the focus, which leaves none of them marked.
        self._transcript.call_later(self._go_to, later[1])

    def _go_to(self, message: int) -> None:
        found = self._found()
        here = next((entry for entry in found if entry.message == message), None)
        if here is not None:
            self._go(here, found)

    def step(self, step: int) -> None:
        """Go to the next (1) message with the words, or to the one before (-1), round the end."""
        found = self._found()
        if not found:
            raise Qwen35Error(f"no search has led here: {self._view.key('sessions')} begins one")
        entries = self._transcript.entries
        here = self._transcript.marked or self._last
        at = entries.index(here) if here in entries else -1
        places = [entries.index(entry) for entry in found]
        after = [n for n, place in enumerate(places) if place > at]
        before = [n for n, place in enumerate(places) if place < at]
        to = (after or [0])[0] if step > 0 else (before or [-1])[-1]
        self._go(found[to], found)

    def _found(self) -> list[TranscriptEntry]:
        """The messages with all of the words."""
        query = parse_query(self._words)
        return [
            entry
            for entry in self._transcript.entries
            if entry.author and query.terms and query.is_in(folded(_text(entry)))
        ]

    def _version(self, entry: TranscriptEntry) -> tuple[int, int]:
        """The nearest version up to this message that is not the last one, and how many there are.

        That of the message itself if all are the last ones.
        """
        entries = self._transcript.entries
        before = reversed(entries[: entries.index(entry) + 1])
        return next(
            (one.version for one in before if one.version[0] < one.version[1]), entry.version
        )

    def _go(self, entry: TranscriptEntry, found: list[TranscriptEntry]) -> None:
        self._last = entry
        pattern = parse_query(self._words).pattern()
        if isinstance(entry, ReplyEntry) and not pattern.search(folded(entry.answer)):
            entry.show_thinking("open")
            self._transcript.lay_out()
        self._transcript.reveal(entry, pattern)
        words, several = self._words.strip(), len(found) > 1
        line = f"{found.index(entry) + 1} of {len(found)} message{'s' * several} with {words}"
        which, total = self._version(entry)
        if which < total:
            line += f", in version {which} of {total}"
        if several:
            line += f"; {self._view.key('find_next')} goes on, {self._view.key('find_last')} back"
        self._view.show_message(line)


def _text(entry: TranscriptEntry) -> str:
    thinking = entry.thinking if isinstance(entry, ReplyEntry) else ""
    return f"{entry.copy_text}\n{thinking}"
