"""The files of a message in plain mode."""

from collections.abc import Callable
from pathlib import Path

from qwen35_chat.attachments import attached
from qwen35_chat.controller import Controller
from qwen35_chat.group_question import ask_about
from qwen35_chat.question import Question
from qwen35_mlx.terminal import print_line


def with_files(
    text: str, controller: Controller, agree: Callable[[Question], bool], *, edit: bool = False
) -> str | None:
    """A message with the files that it names; None if the user does not want to send them.

    Args:
        agree: lets the user answer.
        edit: it is another version of a message.

    Raises:
        Qwen35Error: as for `attached` and `ask_about`.
    """
    found = attached(text, Path())
    if found.groups:
        room = controller.room(edit=edit)
        if not agree(ask_about(found.groups, controller.tokens, room)):
            return None
    if found.note:
        print_line(found.note)
    return found.text
