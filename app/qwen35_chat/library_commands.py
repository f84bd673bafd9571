"""The commands for stored conversations: `--list`, `--export`, `--import` and so on."""

import os
import time
from dataclasses import asdict
from typing import Any

from qwen35_chat.exporting import FORMATS
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import open_regular
from qwen35_mlx.json_text import write_json
from qwen35_mlx.library.backup import back_up
from qwen35_mlx.library.foreign.reading import read_conversations
from qwen35_mlx.library.home import VARIABLE
from qwen35_mlx.library.library import FILE, Library
from qwen35_mlx.library.listing import ConversationSummary
from qwen35_mlx.library.present import present
from qwen35_mlx.library.rescue import rescue
from qwen35_mlx.terminal import print_error, visible, write_output
from qwen35_mlx.user_paths import absolute_user_path, user_path

_PAGE_SIZE = 500
MAX_IMPORT_BYTES = 256 << 20
MAX_GAPS = 20  # conversations with gaps that are named


def print_list(*, as_json: bool = False, archived: bool = False) -> int:
    """Print the conversations, pinned ones first, then the last changed. Returns the exit code.

    Args:
        as_json: an array of objects in place of a table.
        archived: print those that are archived, instead of the others.
    """
    with Library() as library:
        rows: list[ConversationSummary] = []
        while page := library.list(_PAGE_SIZE, rows[-1] if rows else None, archived=archived):
            rows += page
        _print_notices(library)
    if as_json:
        write_output(write_json([_document(row) for row in rows], indent=2) + "\n")
        return 0
    if not rows:
        print_error("nothing is archived" if archived else "no conversations yet")
        return 0
    heading = ("ID", "CHANGED", "MESSAGES", "TOKENS", "TITLE")
    table = [heading, *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    lines = [
        f"{row[0]:>{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}"
        f"  {row[3]:>{widths[3]}}  {row[4]}"
        for row in table
    ]
    write_output("\n".join(lines) + "\n")
    return 0


def _document(row: ConversationSummary) -> dict[str, Any]:
    values = asdict(row)
    del values["changed"]
    return values


def _cells(row: ConversationSummary) -> tuple[str, str, str, str, str]:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.updated))
    title = visible(" ".join(row.title.split())) or "(untitled)"
    if row.shelf == "pinned":
        title = f"(pinned) {title}"
    return str(row.id), when, f"{row.messages:,}", f"{row.tokens:,}", title


def _print_notices(library: Library) -> None:
    for line in library.notices():
        print_error(f"note: {line}")


def export(name: str, kind: str) -> int:
    """Write a conversation to standard output. Returns the exit code.

    Args:
        name: its id or title.
        kind: one of `exporting.FORMATS`.
    """
    with Library() as library:
        conversation = library.conversation(library.resolve(name))
        _print_notices(library)
    write_output(FORMATS[kind](conversation))
    return 0


def write_backup(name: str) -> int:
    """Write all conversations to a new file. Returns the exit code."""
    file = absolute_user_path(name)
    with Library() as library:
        count = back_up(library, file)
        _print_notices(library)
    verb = "is" if count == 1 else "are"
    write_output(
        f"{_counted(count)} {verb} in {visible(str(file))}: to use it, copy it to an empty"
        f" folder as {FILE}, and set {VARIABLE} to the folder\n"
    )
    return 0


def rescue_file(name: str) -> int:
    """Add what can be read of a damaged database to the library. Returns the exit code."""
    file = absolute_user_path(name)
    with Library() as library:
        found = rescue(library, file)
        titles = {row: library.conversation(row).title for row in found.gaps[:MAX_GAPS]}
        _print_notices(library)
    rescued = len(found.added) + found.present
    line = f"{rescued:,} of {_counted(found.total)} rescued"
    if found.present:
        line += f", {found.present:,} of them there already"
    if found.gaps:
        named = [f"{row} ({visible(title)})" for row, title in titles.items()]
        more = ["..."] * (len(found.gaps) > MAX_GAPS)
        line += f", {len(found.gaps):,} with gaps: {', '.join(named + more)}"
    write_output(f"{line}\n")
    if not found.checked:
        print_error("note: the file is of a version without checksums: changed text is not noticed")
    return 0


def _counted(number: int) -> str:
    return f"{number:,} conversation{'s' * (number != 1)}"


def import_file(name: str, *, again: bool = False) -> int:
    """Add exported conversations to the library, all or none, and print their new ids.

    Returns the exit code.

    Args:
        again: also add those that are there already.
    """
    file = user_path(name)
    try:
        with open_regular(file) as opened:
            if os.fstat(opened.fileno()).st_size > MAX_IMPORT_BYTES:
                raise Qwen35Error(f"{file} has more than {MAX_IMPORT_BYTES >> 20} MiB: split it")
            data = opened.readall()
    except OSError as error:
        raise Qwen35Error(f"{file} cannot be read: {error.strerror}") from None
    try:
        conversations = read_conversations(data)
    except Qwen35Error as error:
        raise Qwen35Error(f"{file}: {error}") from None
    with Library() as library, library.transaction() as db:
        new = [one for one in conversations if again or present(library, db, one) is None]
        numbers = [library.add_conversation(conversation) for conversation in new]
    there = len(conversations) - len(new)
    if not numbers:
        them = "it" if there == 1 else "them"
        print_error(
            f"{_counted(there)} {'is' if there == 1 else 'are'} there already, nothing is imported;"
            f" --again adds {them} once more"
        )
        return 0
    already = f", {there:,} there already" if there else ""
    imported = f"{_counted(len(numbers))} imported{already}"
    print_error(f"{imported}; `qwen35-chat --resume {numbers[-1]}` opens the last one")
    write_output("".join(f"{number}\n" for number in numbers))
    return 0
