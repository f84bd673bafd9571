"""Export of a conversation to a file."""

from pathlib import Path

from qwen35_chat.controller import Controller
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.exporting import to_json, to_markdown
from qwen35_mlx.user_paths import user_path


def export(controller: Controller, conversation: int, name: str) -> Path:
    """Write a conversation to a new file, as JSON if its name ends in .json, else as Markdown.

    Args:
        name: of the file; "" to name it after the conversation.

    Raises:
        Qwen35Error: the file exists, or cannot be written.
    """
    stored = controller.library.conversation(conversation)
    file = user_path(name) if name else _file_for(stored.title)
    text = to_json(stored) if file.suffix == ".json" else to_markdown(stored)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise Qwen35Error(f"{file} exists: give another name, as in /export other.md") from None
    except OSError as error:
        raise Qwen35Error(f"{file} cannot be written: {error.strerror}") from None
    return file


def _file_for(title: str) -> Path:
    """A file in the current folder, named after a conversation."""
    plain = "".join(c if c.isalnum() or c in " -_" else " " for c in title)
    return Path(f"{'-'.join(plain.split())[:60] or 'conversation'}.md")
