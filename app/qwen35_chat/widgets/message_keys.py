"""The line below a marked message: what can be done with it."""

from collections.abc import Collection, Mapping

from textual.content import Content

from qwen35_chat.commands import BY_NAME, keys_for_people
from qwen35_chat.drawing.line import Line
from qwen35_chat.drawing.lines import action

APART = "   "


def message_keys(
    names: Collection[str], remapped: Mapping[str, str], width: int, *, keys: bool
) -> Line:
    """Commands on a message as a line; those that do not fit are left out.

    Args:
        names: of the commands.
        remapped: the keys that the settings change.
        width: cells.
        keys: whether keys act on the message now, and so are named.
    """
    line = Content("")
    for name in names:
        title = BY_NAME[name].title.lower()
        key = keys_for_people(name, remapped)
        shown = Content.assemble((f"{key} ", "bold"), title) if keys else Content(title)
        shown = shown.stylize_before(".link").stylize(action("command", name))
        longer = line + APART + shown if line.plain else shown
        if longer.cell_length > width:
            break
        line = longer
    return Line(line, len(line.plain))
