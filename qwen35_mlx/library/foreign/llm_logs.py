"""The logs of the command `llm`, as `llm logs -n 0 --json` prints them: a list of turns."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.library.foreign.tree import Tree, items, mapping, moment, text, tool_call


def is_turn(value: object) -> bool:
    return {"conversation_id", "prompt", "response", "datetime_utc"} <= mapping(value).keys()


def read(turns: Sequence[Mapping[str, Any]]) -> list[Conversation]:
    """The conversations of turns, in the order of their first ones."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for number, turn in enumerate(turns):
        # A turn without a conversation is one of its own.
        groups.setdefault(text(turn.get("conversation_id")) or f"turn {number}", []).append(turn)
    found = (_conversation(group) for group in groups.values())
    return [conversation for conversation in found if conversation is not None]


def _conversation(turns: list[Mapping[str, Any]]) -> Conversation | None:
    turns.sort(key=lambda turn: moment(turn.get("datetime_utc")))
    tree = Tree()
    parent: int | None = None
    for turn in turns:
        created = moment(turn.get("datetime_utc"))
        for result in map(mapping, items(turn.get("tool_results"))):
            parent = tree.add(parent, "tool", text(result.get("output")), created=created)
        if asked := _with_fragments(turn, "prompt"):
            parent = tree.add(parent, "user", asked, created=created)
        calls = [mapping(call) for call in items(turn.get("tool_calls"))]
        parent = tree.add(
            *(parent, "assistant", text(turn.get("response"))),
            created=created,
            thinking=text(turn.get("reasoning")),
            tool_calls=tuple(
                tool_call(text(call.get("name")), _arguments(call.get("arguments")))
                for call in calls
            ),
            model=text(turn.get("model")),
        )
    last = turns[-1]
    return tree.conversation(
        title=text(last.get("conversation_name")),
        system=next(filter(None, (_with_fragments(turn, "system") for turn in turns)), ""),
        model=text(last.get("conversation_model")) or text(last.get("model")),
    )


def _with_fragments(turn: Mapping[str, Any], name: str) -> str:
    """A prompt with the fragments that it was sent with."""
    fragments = [text(mapping(one).get("content")) for one in items(turn.get(f"{name}_fragments"))]
    return "\n\n".join(part for part in (*fragments, text(turn.get(name))) if part)


def _arguments(value: object) -> object:
    """The arguments of a call, which older versions have as JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
