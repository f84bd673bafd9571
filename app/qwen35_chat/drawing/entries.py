"""The entries of the transcript: messages, replies and notices."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Literal

from textual.content import Content

from qwen35_chat.attachments import taken_apart
from qwen35_chat.drawing.entry_parts import (
    call_parts,
    call_text,
    list_of_calls,
    list_of_files,
    plain_parts,
    space,
)
from qwen35_chat.drawing.line import EMPTY_LINE, Line, sourced
from qwen35_chat.drawing.lines import action
from qwen35_chat.drawing.markdown_text import MarkdownText
from qwen35_chat.drawing.parts import Column, FixedPart, Part, estimate
from qwen35_chat.drawing.sections import fenced_code, pieces
from qwen35_chat.drawing.source_lines import SourceText
from qwen35_chat.drawing.wrapping import wrap
from qwen35_mlx.terminal import visible

ThinkingView = Literal["hidden", "collapsed", "open"]
# A longer message of the user is folded: it was pasted, and nobody reads it again.
FOLD_LINES, FOLDED_LINES = 24, 10
# The texts of a message and of a reply, by their place in `TranscriptEntry.sources`.
TEXT, FILES = range(2)
THINKING, ANSWER, CALLS, NOTE = range(4)
_keys = count()


class TranscriptEntry(ABC):
    """A message, or a notice of the app.

    Attributes:
        key: names it in actions; that of a later one is greater.
        message: its id in the library; None before it has one.
        indent: columns to its left.
        author: "user", "assistant", or "" for a notice.
        version: which of how many versions of this message it is, from 1.
        changed: its parts are out of date.
    """

    indent = 1
    author = ""

    def __init__(self, message: int | None = None, version: tuple[int, int] = (1, 1)):
        self.key = next(_keys)
        self.message = message
        self.version = version
        self._column: Column | None = None
        self.changed = True

    @property
    def copy_text(self) -> str:
        """What copying it puts on the clipboard."""
        return ""

    @property
    def sources(self) -> Sequence[str]:
        """The texts whose lines its parts show, as they were written; "" for what is folded."""
        return []

    @property
    def code_blocks(self) -> list[str]:
        """Its blocks of code."""
        return []

    @property
    def commands(self) -> Sequence[str]:
        """The names of the commands on a message that are of use here."""
        return ["mark_copy"]

    @property
    def complete(self) -> bool:
        """Whether its text is complete, so that code may get colours."""
        return True

    def invalidate(self) -> None:
        """Make its parts again when it is drawn next."""
        self.changed = True

    def toggle(self) -> None:  # noqa: B027 - most entries cannot be folded
        """Fold or unfold it, if it can be folded."""

    def column(self, width: int) -> Column:
        """Its parts for a width in cells, with an empty line at the end."""
        width = max(width - self.indent, 1)
        if self.changed or self._column is None:
            end = FixedPart(lambda _: [EMPTY_LINE])
            self._column = Column([*self._parts(), *self._version_parts(), end], width)
            self.changed = False
        elif self._column.width != width:
            self._column = Column(self._column.parts, width)
        return self._column

    def estimate(self, width: int) -> int:
        """Roughly its number of lines, without a layout."""
        return 2

    @abstractmethod
    def _parts(self) -> Sequence[Part]:
        """Its parts."""

    def _version_parts(self) -> Sequence[Part]:
        which, total = self.version
        if total < 2:
            return []
        shown = Content.assemble(
            Content.styled("<", ".link").stylize(action("version", self.key, -1)),
            (f" {which}/{total} ", ".muted"),
            Content.styled(">", ".link").stylize(action("version", self.key, 1)),
        )
        margin = "  " if self.indent == 1 else ""
        return [FixedPart(lambda width: wrap(shown, width, margin))]


class UserEntry(TranscriptEntry):
    """A message of the user."""

    author = "user"

    def __init__(self, text: str, message: int | None = None, version: tuple[int, int] = (1, 1)):
        super().__init__(message, version)
        self.text = text
        self._folded = True

    @property
    def copy_text(self) -> str:
        return self.text

    @property
    def sources(self) -> Sequence[str]:
        text, files = taken_apart(self.text)
        return [visible(text), list_of_files(files)]

    @property
    def commands(self) -> Sequence[str]:
        fold = ["mark_toggle"] if estimate(self.text, 80) > FOLD_LINES else []
        return ["mark_copy", "mark_edit", *fold]

    def toggle(self) -> None:
        self._folded = not self._folded
        self.invalidate()

    def estimate(self, width: int) -> int:
        return min(estimate(self.text, width), FOLD_LINES) + 1

    def _parts(self) -> Sequence[Part]:
        text, files = taken_apart(self.text)
        text = visible(text)
        if self._folded:
            parts: list[Part] = [
                FixedPart(lambda width: self._folded_lines(text, width), place=(TEXT, 0))
            ]
        else:
            parts = plain_parts(text, first="> ", rest="  ", fill=".user")
        if files:
            shown = list_of_files(files)
            parts += plain_parts(shown, ".muted", FILES, first="  ", rest="  ", fill=".user")
        return parts

    def _folded_lines(self, text: str, width: int) -> list[Line]:
        """The message, or its first lines if it is long."""
        start = next(pieces(text)).text
        lines = wrap(Content(start), width, "> ", "  ", ".user")
        lines = sourced(lines, SourceText(TEXT, start).plain())
        if len(start) < len(text):
            lines = lines[:FOLDED_LINES]
            seen = sum(len(line.content.plain) - line.prefix for line in lines)
            more = f"… {len(text) - seen:,} more characters"
        elif len(lines) > FOLD_LINES:
            more = f"… {len(lines) - FOLDED_LINES} more lines"
            lines = lines[:FOLDED_LINES]
        else:
            return lines
        shown = Content.styled(more, ".link").stylize(action("fold", self.key))
        return lines + wrap(shown, width, "  ", "  ", ".user")


class ReplyEntry(TranscriptEntry):
    """A reply: thinking, answer, tool calls, and a note at its end.

    Attributes:
        calls: name and arguments of each.
        thinking_seconds: how long the thinking took, once it has ended.
        view: how thinking is shown.
    """

    indent = 3
    author = "assistant"

    def __init__(
        self,
        *,
        thinking: str = "",
        answer: str = "",
        calls: list[tuple[str, Mapping[str, Any]]] | None = None,
        thinking_seconds: float | None = None,
        note: str = "",
        error: bool = False,
        view: ThinkingView = "collapsed",
        complete: bool = True,
        message: int | None = None,
        version: tuple[int, int] = (1, 1),
    ):
        super().__init__(message, version)
        self.thinking = thinking
        self.answer = answer
        self.calls = calls or []
        self.thinking_seconds = thinking_seconds
        self.view: ThinkingView = view
        self._note = note
        self._error = error
        self._complete = complete
        self._call_texts = [call_text(*call) for call in self.calls]
        self._body: MarkdownText | None = None
        self._thoughts: MarkdownText | None = None

    @property
    def copy_text(self) -> str:
        return self.answer.strip("\n")

    @property
    def sources(self) -> Sequence[str]:
        thinking = self._thoughts.text if self._thoughts and self.view == "open" else ""
        answer = self._body.text if self._body else visible(self.answer)
        return [thinking, answer, list_of_calls(self._call_texts), visible(self._note)]

    @property
    def code_blocks(self) -> list[str]:
        return fenced_code(visible(self.answer))

    @property
    def commands(self) -> Sequence[str]:
        code = ["mark_code"] if "```" in self.answer or "~~~" in self.answer else []
        fold = ["mark_toggle"] if self.thinking.strip() else []
        return ["mark_copy", *code, "mark_retry", "mark_branch", *fold]

    @property
    def complete(self) -> bool:
        return self._complete

    def add_thinking(self, text: str) -> None:
        if not self.thinking:
            text = text.lstrip("\n")
        self.thinking += text
        if self._thoughts is not None:
            self._thoughts.feed(visible(text))
        self.invalidate()

    def add_answer(self, text: str) -> None:
        if not self.answer:
            text = text.lstrip("\n")
        self.answer += text
        if self._body is not None:
            self._body.feed(visible(text))
        self.invalidate()

    def add_call(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Add a tool call."""
        self.calls.append((name, arguments))
        self._call_texts.append(call_text(name, arguments))
        self.invalidate()

    def end_thinking(self, seconds: float) -> None:
        self.thinking_seconds = seconds
        self.invalidate()

    def finish(self, note: str = "", *, error: bool = False) -> None:
        """Complete the reply."""
        self._complete = True
        for text in (self._body, self._thoughts):
            if text is not None:
                text.finish()
        self._note, self._error = note, error
        self.invalidate()

    def toggle(self) -> None:
        self.show_thinking("collapsed" if self.view == "open" else "open")

    def show_thinking(self, view: ThinkingView) -> None:
        if view != self.view:
            self.view = view
            if self.thinking.strip():
                self.invalidate()

    def estimate(self, width: int) -> int:
        thinking = bool(self.thinking.strip())
        if thinking and self.view == "open":
            return estimate(self.thinking, width) + estimate(self.answer, width) + 4
        return estimate(self.answer, width) + (2 if thinking else 0) + 2 * bool(self._note)

    def _parts(self) -> Sequence[Part]:
        parts = self._thinking_parts()
        if self.answer.strip():
            if parts:
                parts.append(space())
            if self._body is None:
                self._body = self._markdown(ANSWER, self.answer)
            parts += self._body.parts
        parts += call_parts(self._call_texts, CALLS)
        if self._note:
            if parts:
                parts.append(space())
            style = ".error" if self._error else ".muted"
            parts += plain_parts(visible(self._note), style, NOTE)
        return parts

    def _markdown(self, stream: int, text: str, margin: int = 0, style: str = "") -> MarkdownText:
        made = MarkdownText(margin, style, stream)
        made.feed(visible(text))
        if self._complete:
            made.finish()
        return made

    def _thinking_parts(self) -> list[Part]:
        if not self.thinking.strip() or self.view == "hidden":
            return []
        if self.thinking_seconds is not None:
            label = f"Thought for {self.thinking_seconds:.1f} s"
        else:
            label = "Thought" if self._complete else "Thinking"
        mark = "▾" if self.view == "open" else "▸"
        head = Content.styled(f"{mark} {label}", ".thinking-head")
        head = head.stylize(action("fold", self.key))
        parts: list[Part] = [FixedPart(lambda width: wrap(head, width))]
        if self.view == "open":
            if self._thoughts is None:
                self._thoughts = self._markdown(
                    THINKING, self.thinking.lstrip("\n"), 2, ".thinking"
                )
            parts += self._thoughts.parts
        return parts


class NoticeEntry(TranscriptEntry):
    """A line or two from the app."""

    indent = 3

    def __init__(self, text: str, *, error: bool = False, style: str = ".muted"):
        super().__init__()
        self.text = text
        self._style = ".error" if error else style

    @property
    def copy_text(self) -> str:
        return self.text

    @property
    def sources(self) -> Sequence[str]:
        return [visible(self.text)]

    def estimate(self, width: int) -> int:
        return estimate(self.text, width) + 1

    def _parts(self) -> Sequence[Part]:
        return plain_parts(visible(self.text), self._style)
