"""The files of a message in plain mode."""

from collections.abc import Callable
from pathlib import Path

from qwen35_chat.attachments import attached
from qwen35_chat.controller import Controller
from qwen35_chat.file_question import ask_about, may_need_question
from qwen35_chat.question import Question
from qwen35_mlx.terminal import print_line


def with_files(
    text: str,
    controller: Controller,
    agree: Callable[[Question], bool],
    *,
    attended: bool = True,
    edit: bool = False,
) -> str | None:
    """A message with the files that it names; None if the user does not want to send them.

    Args:
        agree: lets the user answer.
        attended: there is a user; without one, files that are named one by one need no answer.
        edit: it is another version of a message.

    Raises:
        Qwen35Error: as for `attached` and `ask_about`.
    """
    found = attached(text, Path())
    context = controller.context
    if found.groups or (attended and may_need_question(found, context)):
        question = ask_about(found, controller.tokens, controller.room(edit=edit), context)
        if question is not None and not agree(question):
            return None
    if found.note:
        print_line(found.note)
    return found.text
