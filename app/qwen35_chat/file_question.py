"""The question before many files, or a large one, are sent."""

from collections import Counter

from qwen35_chat.attachments import Attached, Attachments, shown_reasons
from qwen35_chat.question import Question
from qwen35_chat.tokens import TokenCounter
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.terminal import visible_line
from qwen35_mlx.user_paths import shown

LARGE = 0.1  # of the context, from which files are sent after a question


def may_need_question(found: Attachments, context: int) -> bool:
    """Whether `ask_about` may have a question. It counts no tokens.

    Args:
        context: in tokens; 0 if that is not known.
    """
    # A token has at least one character.
    characters = sum(len(file.text) for file in found.files)
    return bool(found.groups) or 0 < LARGE * context <= characters


def ask_about(
    found: Attachments, counter: TokenCounter, room: int | None, context: int
) -> Question | None:
    """The question whether to send these files; None if they are few tokens, named one by one.

    It counts their tokens, which may take seconds.

    Args:
        room: tokens that are left in the context; None if that is not known.
        context: in tokens; 0 if that is not known.

    Raises:
        Qwen35Error: there are more tokens than room.
    """
    grouped = (file for group in found.groups for file in group.files)
    files: dict[str, Attached] = {file.name: file for file in (*found.files, *grouped)}
    counts = {name: counter.count(file.text) for name, file in files.items()}
    total = sum(counts.values())
    if not found.groups and not 0 < LARGE * context <= total:
        return None
    alone = [file.name for file in found.files]
    named = [visible_line(name) for name in (*alone, *(group.name for group in found.groups))]
    names = " and ".join(named) if len(named) < 3 else f"{named[0]} and {len(named) - 1} others"
    number = f"{len(files):,} {'file' if len(files) == 1 else 'files'}"
    tokens = f"{total:,} {'token' if total == 1 else 'tokens'}"
    about = "" if counter.exact else "about "
    if room is not None and total >= room:
        what = f"{number} with {about}{tokens}" if found.groups else f"{about}{tokens}"
        raise Qwen35Error(
            f"{shown(names)}: {what}, and {max(room, 0):,} are left in the context: "
            f"{'name a part of them' if found.groups else 'give a part of it'}"
        )
    share = "" if room is None else f", {total / room:.0%} of the {room:,} left in the context"
    lines = [f"{about}{tokens}{share}".capitalize()]
    left_out: Counter[str] = Counter()
    for group in found.groups:
        left_out.update(group.left_out)
    if left_out:
        lines.append(f"Left out: {shown_reasons(left_out)}")
    width = max(len(f"{count:,}") for count in counts.values())
    listed = [f"{count:>{width},}  {visible_line(name)}" for name, count in counts.items()]
    what = f"{number} of {names}" if not alone else names if not found.groups else number
    back = "Go back to the message"
    return Question(f"Send {what}?", "\n".join(lines), "\n".join(listed), f"Send {number}", back)
