"""The entries of the transcript: messages, replies and notices."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from textual.content import Content

from qwen35_chat.attachments import taken_apart
from qwen35_chat.drawing.entry import TranscriptEntry
from qwen35_chat.drawing.entry_parts import (
    call_parts,
    call_text,
    list_of_calls,
    list_of_files,
    plain_parts,
    space,
)
from qwen35_chat.drawing.line import Line, sourced
from qwen35_chat.drawing.lines import action
from qwen35_chat.drawing.markdown_text import MarkdownText
from qwen35_chat.drawing.parts import FixedPart, Part, estimate
from qwen35_chat.drawing.sections import fenced_code, pieces
from qwen35_chat.drawing.source_lines import SourceText
from qwen35_chat.drawing.wrapping import wrap
from qwen35_chat.progress import short_duration
from qwen35_mlx.terminal import visible

ThinkingView = Literal["hidden", "collapsed", "open"]
# A longer message of the user is folded: it was pasted, and nobody reads it again.
FOLD_LINES, FOLDED_LINES = 24, 10
# The texts of a message and of a reply, by their place in `TranscriptEntry.sources`.
TEXT, FILES = range(2)
THINKING, ANSWER, CALLS, NOTE = range(4)
ROOMY = 64  # cells of width, from which a message of the user has a margin above and below
HEAD_GAP = 2  # cells between the parts of a head
MODEL_CELLS = 8  # of a model's name, that are left to it on a narrow screen


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
        margins = 2 if width - self.indent >= ROOMY else 0
        return min(estimate(self.text, width), FOLD_LINES) + margins + 1

    def _parts(self) -> Sequence[Part]:
        text, files = taken_apart(self.text)
        text = visible(text)
        if self._folded:
            parts: list[Part] = [
                FixedPart(lambda width: self._folded_lines(text, width), place=(TEXT, 0))
            ]
        else:
            parts = plain_parts(text, fill=".user")
        if files:
            parts += plain_parts(list_of_files(files), ".muted", FILES, fill=".user")
        return [_user_margin(), *parts, _user_margin()]

    def _folded_lines(self, text: str, width: int) -> list[Line]:
        """The message, or its first lines if it is long."""
        start = next(pieces(text)).text
        lines = wrap(Content(start), width, fill=".user")
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
        return lines + wrap(shown, width, fill=".user")


class ReplyEntry(TranscriptEntry):
    """A reply: thinking, answer, tool calls, and a note at its end.

    Args:
        model: the name of the model for its head; "" if that is not known.
        seconds: how long the whole reply took; None if that is not known.

    Attributes:
        calls: name and arguments of each.
        thinking_seconds: how long the thinking took, once it has ended.
        view: how thinking is shown.
    """

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
        model: str = "",
        message: int | None = None,
        version: tuple[int, int] = (1, 1),
        seconds: float | None = None,
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
        self._model = model
        self._seconds = seconds
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
        edit = [] if self._call_texts else ["mark_edit"]
        return ["mark_copy", *code, *edit, "mark_retry", "mark_branch", *fold]

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

    def finish(self, note: str = "", *, error: bool = False, seconds: float | None = None) -> None:
        """Complete the reply, which took `seconds`."""
        self._complete = True
        self._seconds = seconds
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
        thoughts = 0
        if self.thinking.strip() and self.view == "open":
            thoughts = estimate(self.thinking, width) + 2
        return thoughts + estimate(self.answer, width) + 2 + 2 * bool(self._note)

    def _parts(self) -> Sequence[Part]:
        parts: list[Part] = [FixedPart(self._head_lines)]
        if self.thinking.strip() and self.view == "open":
            if self._thoughts is None:
                thinking = self.thinking.lstrip("\n")
                self._thoughts = self._markdown(THINKING, thinking, 2, ".thinking")
            parts += self._thoughts.parts
            if self.answer.strip():
                parts.append(space())
        if self.answer.strip():
            if self._body is None:
                self._body = self._markdown(ANSWER, self.answer)
            parts += self._body.parts
        parts += call_parts(self._call_texts, CALLS)
        if self._note:
            if len(parts) > 1:
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

    def _head_lines(self, width: int) -> list[Line]:
        """Who replies, and how long the thinking took; at the right the whole reply."""
        name = Content.styled(self._model or "Reply", ".reply-name")
        thought = self._thought()
        room = max(width - thought.cell_length, MODEL_CELLS)
        head = name.truncate(room, ellipsis=True) + thought
        took = "" if self._seconds is None else short_duration(self._seconds)
        gap = width - head.cell_length - len(took)
        if took and gap >= HEAD_GAP:
            head += Content.styled(" " * gap + took, ".muted")
        return [Line(head.truncate(width, ellipsis=True), len(head.plain), fill=".reply")]

    def _thought(self) -> Content:
        """The thinking in a few words, which fold and unfold it; empty if there is none."""
        if not self.thinking.strip() or self.view == "hidden":
            return Content("")
        if self.thinking_seconds is not None:
            label = f"Thought {short_duration(self.thinking_seconds)}"
        else:
            label = "Thought" if self._complete else "Thinking"
        mark = "▾" if self.view == "open" else "▸"
        shown = Content.styled(f"{mark} {label}", ".thinking-head")
        return Content(" " * HEAD_GAP) + shown.stylize(action("fold", self.key))


class NoticeEntry(TranscriptEntry):
    """A line or two from the app."""

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


def _user_margin() -> Part:
    """Above and below a message of the user, where there is room."""
    margin = Line(Content(""), fill=".user")
    return FixedPart(lambda width: [margin] if width >= ROOMY else [])
