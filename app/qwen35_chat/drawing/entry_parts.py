"""Small parts of entries: notes, tool calls, attached files."""

from collections.abc import Mapping, Sequence
from typing import Any

from textual.content import Content

from qwen35_chat.attachments import Attached
from qwen35_chat.drawing.line import EMPTY_LINE, sourced
from qwen35_chat.drawing.parts import FixedPart, Part, PlainPart
from qwen35_chat.drawing.sections import LONGEST, pieces
from qwen35_chat.drawing.source_lines import SourceText
from qwen35_chat.drawing.wrapping import wrap
from qwen35_chat.tools.shown import shown_arguments, shown_name
from qwen35_mlx.terminal import visible

MOST_FILES = 50  # of a message, that are listed
ASKS_FOR = "asks for  "


def list_of_files(files: Sequence[Attached]) -> str:
    """A line about each file in a message."""
    shown = [
        f"@ {visible(file.name)}, {file.lines:,} {'line' if file.lines == 1 else 'lines'}"
        for file in files[:MOST_FILES]
    ]
    if len(files) > MOST_FILES:
        shown.append(f"@ {len(files) - MOST_FILES:,} more files")
    return "\n".join(line[:LONGEST] for line in shown)


def space() -> Part:
    """An empty line."""
    return FixedPart(lambda _: [EMPTY_LINE])


def plain_parts(
    text: str, style: str = "", stream: int = 0, *, first: str = "", rest: str = "", fill: str = ""
) -> list[Part]:
    """A text as it is.

    Args:
        stream: as in `Part.place`.
        first, rest, fill: as for `wrap`.
    """
    return [
        PlainPart(
            piece.text,
            style,
            joined=piece.joined,
            place=(stream, piece.start),
            first=rest if n else first,
            rest=rest,
            fill=fill,
        )
        for n, piece in enumerate(pieces(text))
    ]


def call_parts(calls: Sequence[tuple[str, str]], stream: int) -> list[Part]:
    """Tool calls, each a name and its arguments; `stream` as in `Part.place`."""
    parts: list[Part] = []
    start = 0
    for name, arguments in calls:
        shown = Content.assemble((ASKS_FOR, ".muted"), (name, "bold"), f"({arguments})")
        parts.append(_wrapped(shown, stream, start))
        start += len(shown.plain) + 1
    return parts


def list_of_calls(calls: Sequence[tuple[str, str]]) -> str:
    """What `call_parts` shows."""
    return "\n".join(f"{ASKS_FOR}{name}({arguments})" for name, arguments in calls)


def _wrapped(shown: Content, stream: int, start: int) -> Part:
    rows = SourceText(stream, shown.plain, start).plain()
    return FixedPart(
        lambda width: sourced(wrap(shown, width, "", "  "), rows), place=(stream, start)
    )


def call_text(name: str, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """A tool call's name and arguments, as much of them as fits a part."""
    shown = shown_arguments(arguments, None)
    if len(shown) > LONGEST:
        shown = f"{shown[:LONGEST]}… {len(shown) - LONGEST:,} more characters"
    return shown_name(name), shown
