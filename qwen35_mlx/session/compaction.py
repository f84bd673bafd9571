"""Compaction: a summary in place of the oldest turns of a conversation, to free context."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import SUMMARY_HEADING, Message
from qwen35_mlx.library.transcript import Transcript
from qwen35_mlx.prompt_cache.snapshots import SnapshotCache
from qwen35_mlx.session.chat_settings import readable_settings, turn_options
from qwen35_mlx.session.events import PrefillProgress, Written
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.reply_options import ReplyOptions, Tools

# Newest turns that stay as they are.
RECENT_TURNS = 2
# The longest summary is the context's length divided by this.
SUMMARY_SHARE = 8
REQUEST = (
    "Summarise our conversation up to here, for yourself to go on from. Keep names, numbers, "
    "facts, decisions and open questions; leave out greetings. Write the summary only."
)


def compact(
    model: Model,
    transcript: Transcript,
    snapshots: SnapshotCache,
    tools: Tools | None,
) -> Generator[PrefillProgress | Written]:
    """Summarise the oldest turns of a transcript, and select a new path with the summary.

    Raises:
        Qwen35Error: at once, as for `summary_cut`; while iterating, if there is no summary.
    """
    tree = transcript.tree
    path, longest = tree.path(), model.context // SUMMARY_SHARE

    def request(messages: Sequence[Message]) -> list[Mapping[str, Any]]:
        return [*tree.for_template(messages[-1].id), {"role": "user", "content": REQUEST}]

    def fits(messages: Sequence[Message]) -> bool:
        tokens = len(model.prompt_ids(request(messages), options))
        return tokens + longest <= model.context

    given = ReplyOptions(max_tokens=longest, thinking=False)
    settings, _ = readable_settings(tree.settings, model)
    options = turn_options(settings, tools, given)
    cut = summary_cut(path, fits)
    turn = model.turn(request(path[:cut]), model.make_cache(), options)

    def run() -> Generator[PrefillProgress | Written]:
        snapshots.restore(turn.prompt, turn.cache)
        for event in turn.run():
            # The text is not shown, but every token is an event at which the turn can be cancelled.
            yield event if isinstance(event, PrefillProgress) else Written(len(turn.reply_ids))
        summary = turn.content.text
        if not summary:
            raise Qwen35Error("the model wrote no summary: try again, or start a new conversation")
        transcript.add_all(compacted_path(tree.settings.system, path, cut, summary))

    return run()


def summary_cut(path: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> int:
    """The number of messages, from the start of a path, to summarise: as many as possible.

    Args:
        fits: whether the context has room for these messages, the request and a summary.

    Raises:
        Qwen35Error: there is nothing that could be summarised.
    """
    turns = [i for i, message in enumerate(path) if message.role == "user"]
    if len(turns) <= RECENT_TURNS:
        raise Qwen35Error(
            f"there is nothing to summarise: the newest {RECENT_TURNS} turns stay as they are, and "
            f"there {'is' if len(turns) == 1 else 'are'} {len(turns)}; shorten the message or "
            "start a new conversation"
        )
    for cut in reversed(turns[1 : len(turns) - RECENT_TURNS + 1]):
        if fits(path[:cut]):
            return cut
    raise Qwen35Error(
        "the first turn alone leaves no room for a summary of it: start a new conversation"
    )


def compacted_path(
    system: str | None, path: Sequence[Message], cut: int, summary: str
) -> list[Message]:
    """The new path: a system message with the summary, and the messages from `cut` on."""
    if path[0].role == "system":  # it has the summary of an earlier compaction, now summarised too
        system = path[0].content.partition(SUMMARY_HEADING)[0].strip() or None
    parts = [part for part in (system, f"{SUMMARY_HEADING}\n{summary}") if part]
    first = Message(0, None, "system", "\n\n".join(parts))
    return [first, *(message for message in path[cut:] if not message.abandoned)]
