"""The entries of the transcript: messages, replies and notices."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import count
from typing import Any, Literal

from textual.content import Content

from qwen35_chat.attachments import taken_apart
from qwen35_chat.drawing.lines import BLANK, Code, Line, Paragraph, action, wrap
from qwen35_chat.drawing.markdown import Markdown, StreamingMarkdown
from qwen35_mlx.terminal import visible

ThinkingView = Literal["hidden", "collapsed", "open"]
# A longer message of the user is folded: it was pasted, and nobody reads it again.
FOLD_LINES, FOLDED_LINES = 24, 10
_keys = count()


class TranscriptEntry(ABC):
    """A message, or a notice of the app.

    Attributes:
        key: names it in actions.
        message: its id in the library; None before it has one.
        indent: columns to its left.
        author: "user", "assistant", or "" for a notice.
        version: which of how many versions of this message it is, from 1.
        changed: its layout is out of date.
    """

    indent = 1
    author = ""

    def __init__(self, message: int | None = None, version: tuple[int, int] = (1, 1)):
        self.key = next(_keys)
        self.message = message
        self.version = version
        self._lines: list[Line] = []
        self._width = -1
        self.changed = True

    @property
    def copy_text(self) -> str:
        """What copying it puts on the clipboard."""
        return ""

    @property
    def code_blocks(self) -> list[str]:
        """Its blocks of code."""
        return []

    @property
    def uncoloured(self) -> list[Code]:
        """Its code without colours yet, once it has been laid out."""
        return []

    def invalidate(self) -> None:
        """Lay it out again when it is drawn next."""
        self.changed = True

    def toggle(self) -> None:  # noqa: B027 - most entries cannot be folded
        """Fold or unfold it, if it can be folded."""

    def lines(self, width: int) -> list[Line]:
        """Its lines for a width in cells, with an empty one at the end."""
        if self.changed or width != self._width:
            self._lines = [*self._layout(max(width - self.indent, 1)), Line(BLANK)]
            self._width = width
            self.changed = False
        return self._lines

    def estimate(self, width: int) -> int:
        """Roughly its number of lines, without a layout."""
        return 2

    @abstractmethod
    def _layout(self, width: int) -> list[Line]:
        """Its lines, in `width` cells."""

    def _version_line(self, width: int) -> list[Line]:
        which, total = self.version
        if total < 2:
            return []
        shown = Content.assemble(
            Content.styled("<", ".link").stylize(action("version", self.key, -1)),
            (f" {which}/{total} ", ".muted"),
            Content.styled(">", ".link").stylize(action("version", self.key, 1)),
        )
        return wrap(shown, width, "  " if self.indent == 1 else "")


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

    def toggle(self) -> None:
        self._folded = not self._folded
        self.invalidate()

    def estimate(self, width: int) -> int:
        return min(_estimate(self.text, width), FOLD_LINES) + 1

    def _layout(self, width: int) -> list[Line]:
        text, files = taken_apart(self.text)
        lines = wrap(Content(visible(text)), width, "> ", "  ", ".user")
        if self._folded and len(lines) > FOLD_LINES:
            more = f"… {len(lines) - FOLDED_LINES} more lines"
            shown = Content.styled(more, ".link").stylize(action("fold", self.key))
            lines = lines[:FOLDED_LINES] + wrap(shown, width, "  ", "  ", ".user")
        for file in files:
            word = "line" if file.lines == 1 else "lines"
            shown = Content.styled(f"@ {visible(file.name)}, {file.lines:,} {word}", ".muted")
            lines += wrap(shown, width, "  ", "  ", ".user")
        return lines + self._version_line(width)


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
        self._live = StreamingMarkdown()
        self._live_thinking = StreamingMarkdown()
        self._markdown: Markdown | None = None
        self._thoughts: Markdown | None = None
        if not complete:
            self._live.feed(visible(answer))
            self._live_thinking.feed(visible(thinking))

    @property
    def copy_text(self) -> str:
        return self.answer.strip("\n")

    @property
    def code_blocks(self) -> list[str]:
        return self._rendered().code_blocks

    @property
    def uncoloured(self) -> list[Code]:
        if not self._complete:
            return []
        texts = [self._thoughts if self.view == "open" else None, self._markdown]
        return [code for text in texts if text is not None for code in text.uncoloured]

    def add_thinking(self, text: str) -> None:
        self.thinking += text
        self._live_thinking.feed(visible(text))
        self.invalidate()

    def add_answer(self, text: str) -> None:
        if not self.answer:
            text = text.lstrip("\n")
        self.answer += text
        self._live.feed(visible(text))
        self.invalidate()

    def add_call(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Add a tool call, which is only shown."""
        self.calls.append((name, arguments))
        self.invalidate()

    def end_thinking(self, seconds: float) -> None:
        self.thinking_seconds = seconds
        self.invalidate()

    def finish(self, note: str = "", *, error: bool = False) -> None:
        """Complete the reply."""
        self._complete = True
        self._live, self._live_thinking = StreamingMarkdown(), StreamingMarkdown()
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
            return _estimate(self.thinking, width) + _estimate(self.answer, width) + 4
        return _estimate(self.answer, width) + (2 if thinking else 0) + 2 * bool(self._note)

    def _layout(self, width: int) -> list[Line]:
        lines = self._thinking_lines(width)
        if self.answer.strip():
            if lines:
                lines.append(Line(BLANK))
            lines += (self._rendered() if self._complete else self._live).lines(width)
        for name, arguments in self.calls:
            shown = json.dumps(dict(arguments), ensure_ascii=False)
            call = Content.assemble(
                ("asks for  ", ".muted"), (visible(name), "bold"), f"({visible(shown)})"
            )
            lines += wrap(call, width, "", "  ")
        if self._note:
            if lines:
                lines.append(Line(BLANK))
            style = ".error" if self._error else ".muted"
            lines += Paragraph(Content.styled(visible(self._note), style)).lines(width)
        return lines + self._version_line(width)

    def _rendered(self) -> Markdown:
        if self._markdown is None or not self._complete:
            self._markdown = Markdown(visible(self.answer))
        return self._markdown

    def _thinking_lines(self, width: int) -> list[Line]:
        if not self.thinking.strip() or self.view == "hidden":
            return []
        if self.thinking_seconds is not None:
            label = f"Thought for {self.thinking_seconds:.1f} s"
        else:
            label = "Thought" if self._complete else "Thinking"
        mark = "▾" if self.view == "open" else "▸"
        head = Content.styled(f"{mark} {label}", ".thinking-head")
        lines = wrap(head.stylize(action("fold", self.key)), width)
        if self.view == "open":
            if self._complete:
                if self._thoughts is None:
                    self._thoughts = Markdown(visible(self.thinking.strip()))
                body = self._thoughts.lines(width - 2)
            else:
                body = self._live_thinking.lines(width - 2)
            for line in body:
                shown = ("  " + line.content).stylize_before(".thinking")
                lines.append(Line(shown, line.prefix + 2, line.joined, line.fill))
        return lines


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

    def estimate(self, width: int) -> int:
        return _estimate(self.text, width) + 1

    def _layout(self, width: int) -> list[Line]:
        return wrap(Content.styled(visible(self.text), self._style), width)


def _estimate(text: str, width: int) -> int:
    """The lines that a text takes, if most of its own are shorter than the screen."""
    return text.count("\n") + len(text) // max(width, 1) + 1
