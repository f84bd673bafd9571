"""The question before the files of a folder or a pattern are sent."""

from collections import Counter
from collections.abc import Sequence

from qwen35_chat.attachments import Attached, AttachedGroup, shown_reasons
from qwen35_chat.question import Question
from qwen35_chat.tokens import TokenCounter
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.terminal import visible_line
from qwen35_mlx.user_paths import shown


def ask_about(groups: Sequence[AttachedGroup], counter: TokenCounter, room: int | None) -> Question:
    """The question whether to send these files. It counts their tokens, which may take seconds.

    Args:
        room: tokens that are left in the context; None if that is not known.

    Raises:
        Qwen35Error: there are more tokens than room.
    """
    files: dict[str, Attached] = {file.name: file for group in groups for file in group.files}
    counts = {name: counter.count(file.text) for name, file in files.items()}
    total = sum(counts.values())
    names = " and ".join(visible_line(group.name) for group in groups)
    number = f"{len(files):,} {'file' if len(files) == 1 else 'files'}"
    tokens = f"{total:,} {'token' if total == 1 else 'tokens'}"
    about = "" if counter.exact else "about "
    if room is not None and total >= room:
        raise Qwen35Error(
            f"{shown(names)}: {number} with {about}{tokens}, and {max(room, 0):,} are left "
            "in the context: name a part of them"
        )
    share = "" if room is None else f", {total / room:.0%} of the {room:,} left in the context"
    lines = [f"{about}{tokens}{share}".capitalize()]
    left_out: Counter[str] = Counter()
    for group in groups:
        left_out.update(group.left_out)
    if left_out:
        lines.append(f"Left out: {shown_reasons(left_out)}")
    width = max(len(f"{count:,}") for count in counts.values())
    listed = [f"{count:>{width},}  {visible_line(name)}" for name, count in counts.items()]
    title = f"Send {number} of {names}?"
    back = "Go back to the message"
    return Question(title, "\n".join(lines), "\n".join(listed), f"Send {number}", back)
