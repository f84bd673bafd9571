"""Exports of conversations: to a text, or to a new file."""

from collections.abc import Callable, Mapping
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import write_new
from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.library.exporting import to_json, to_markdown
from qwen35_mlx.library.library import Library
from qwen35_mlx.user_paths import short_path, shown, user_path


def _to_html(conversation: Conversation) -> str:
    from qwen35_chat.html_export import to_html

    return to_html(conversation)


FORMATS: Mapping[str, Callable[[Conversation], str]] = {
    "md": to_markdown,
    "html": _to_html,
    "json": to_json,
}
SUFFIXES = {".md": "md", ".markdown": "md", ".html": "html", ".htm": "html", ".json": "json"}


def export(library: Library, conversation: int, name: str) -> Path:
    """Write a conversation to a new file, in the format of its suffix: Markdown without one.

    Args:
        name: of the file; "" or a format alone to name it after the conversation.

    Raises:
        Qwen35Error: there is no format of this suffix, the file exists, or it cannot be written.
    """
    stored = library.conversation(conversation)
    if name.lower() in FORMATS or not name:
        file = Path(f"{_plain_name(stored.title)}.{name.lower() or 'md'}")
    else:
        file = user_path(name)
        file = file if file.suffix else file.with_name(f"{file.name}.md")
    if (kind := SUFFIXES.get(file.suffix.lower())) is None:
        known = ", ".join(SUFFIXES)
        raise Qwen35Error(f"{shown(str(file))}: there is no format for it; end it in {known}")
    text = FORMATS[kind](stored)
    write_new(file, text, "give another name, as in /export other.md")
    return file


def written_to(file: Path) -> str:
    """A line for the user."""
    return f"Written to {file.name} in {short_path(file.absolute().parent)}"


def _plain_name(title: str) -> str:
    """A name for a file, after the title of a conversation."""
    plain = "".join(c if c.isalnum() or c in " -_" else " " for c in title)
    return "-".join(plain.split())[:60] or "conversation"
