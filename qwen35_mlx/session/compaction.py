"""Making room: the oldest turns of a conversation as one summary."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Conversation, Message
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.turn import Turn

# So many of the newest turns stay as they are.
KEPT_TURNS = 2
# The longest summary, as a share of the context.
SHARE = 8
REQUEST = (
    "Summarise our conversation up to here, for yourself to go on from. Keep names, numbers, "
    "facts, decisions and open questions; leave out greetings. Write the summary only."
)
HEADING = "Summary of the conversation so far:"


def oldest(path: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> int:
    """How many messages from the start of a path are to be summarised.

    Args:
        fits: whether so many messages and the request leave room for a summary.

    Raises:
        Qwen35Error: there is nothing that could be summarised.
    """
    turns = [i for i, message in enumerate(path) if message.role == "user"]
    if len(turns) <= KEPT_TURNS:
        raise Qwen35Error(
            f"there is nothing to summarise: the newest {KEPT_TURNS} turns stay as they are, and "
            f"there {'is' if len(turns) == 1 else 'are'} {len(turns)}; shorten the message or "
            "start a new conversation"
        )
    for cut in reversed(turns[1 : len(turns) - KEPT_TURNS + 1]):
        if fits(path[:cut]):
            return cut
    raise Qwen35Error(
        "the first turn alone leaves no room for a summary of it: start a new conversation"
    )


def begin(
    model: Model, tree: Conversation, tools: Sequence[Mapping[str, Any]] | None
) -> tuple[Turn, int]:
    """The turn that writes the summary, and how many messages of the path it is of.

    Raises:
        Qwen35Error: as for `oldest`.
    """
    path, share = tree.path(), model.context // SHARE

    def asked(messages: Sequence[Message]) -> list[Mapping[str, Any]]:
        return request(tree.for_template(messages[-1].id))

    def fits(messages: Sequence[Message]) -> bool:
        tokens = model.count(asked(messages), thinking=False, tools=tools)
        return tokens + share <= model.context

    cut = oldest(path, fits)
    turn = model.turn(
        asked(path[:cut]),
        model.make_cache(),
        max_tokens=share,
        thinking=False,
        tools=tools,
        sampling=tree.settings.sampling,
    )
    return turn, cut


def summarised(
    system: str | None, path: Sequence[Message], cut: int, summary: str
) -> list[Message]:
    """The new path: a system message with the summary, and the messages from `cut` on."""
    if path[0].role == "system":  # of an earlier summary, which the model has seen
        system = path[0].content.partition(HEADING)[0].strip() or None
    parts = [part for part in (system, f"{HEADING}\n{summary}") if part]
    first = Message(0, None, "system", "\n\n".join(parts))
    return [
        first,
        *(message for message in path[cut:] if not message.unsaid),
    ]


def request(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What the model is asked."""
    return [*messages, {"role": "user", "content": REQUEST}]
