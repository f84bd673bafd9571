"""ChatGPT's `conversations.json`: a list of trees of nodes, most of which hold a message.

Thinking is in nodes of its own, before the reply, and so are the calls of tools.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.library.foreign.tree import (
    Tree,
    duration,
    items,
    mapping,
    moment,
    text,
    tool_call,
)


def is_conversation(value: object) -> bool:
    return isinstance(mapping(value).get("mapping"), dict)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the children of a node go on.

    Attributes:
        parent: the message that they follow.
        thinking, seconds: of nodes since, for the reply that comes.
    """

    parent: int | None = None
    thinking: str = ""
    seconds: float | None = None


def read(values: Mapping[str, Any]) -> Conversation | None:
    """One conversation; None if it is empty."""
    nodes = mapping(values.get("mapping"))
    tree, places = Tree(), dict[str, _Place]()
    for name, parent in _walk(nodes):
        at = places.get(parent, _Place())
        places[name] = _add(tree, at, mapping(mapping(nodes[name]).get("message")))
    selected = places.get(text(values.get("current_node")))
    return tree.conversation(
        title=text(values.get("title")),
        leaf=selected and selected.parent,
        created=moment(values.get("create_time")),
        updated=moment(values.get("update_time")),
    )


def _walk(nodes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The nodes that a root leads to, each once, after its parent, with the parent's name."""
    parents = {name: mapping(nodes[name]).get("parent") for name in nodes}
    roots = [n for n, over in parents.items() if not isinstance(over, str) or over not in nodes]
    waiting = [(name, "") for name in reversed(roots)]
    seen = set[str]()
    while waiting:
        name, parent = waiting.pop()
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        yield name, parent
        children = items(mapping(nodes[name]).get("children"))
        waiting += [(child, name) for child in reversed(children) if isinstance(child, str)]


def _add(tree: Tree, at: _Place, message: Mapping[str, Any]) -> _Place:
    """Add the message of a node; where its children go on."""
    content, metadata = mapping(message.get("content")), mapping(message.get("metadata"))
    role = text(mapping(message.get("author")).get("role"))
    kind = text(content.get("content_type"))
    if kind == "thoughts":
        thoughts = [_thought(mapping(one)) for one in items(content.get("thoughts"))]
        parts = [at.thinking, *thoughts]
        return _Place(at.parent, "\n\n".join(filter(None, parts)), at.seconds)
    if kind == "reasoning_recap":
        seconds = duration(metadata.get("finished_duration_sec"))
        return _Place(at.parent, at.thinking, at.seconds if seconds is None else seconds)
    said = _content(content)
    # Instructions of ChatGPT itself, and what the user has told about himself.
    hidden = metadata.get("is_visually_hidden_from_conversation") or kind == "user_editable_context"
    created = moment(message.get("create_time"))
    model = text(metadata.get("model_slug"))
    match role:
        case "user" | "tool" | "system" if said.strip() and not hidden:
            return _Place(tree.add(at.parent, role, said, created=created))
        case "assistant" if said.strip() or at.thinking:
            to = text(message.get("recipient")) or "all"
            calls = () if to == "all" else (tool_call(to, said),)
            values = {"thinking": at.thinking, "model": model, "tool_calls": calls}
            new = tree.add(
                *(at.parent, role, "" if calls else said),
                **(values | {"created": created, "thinking_seconds": at.seconds}),
            )
            return _Place(new)
        case _:
            return at


def _thought(thought: Mapping[str, Any]) -> str:
    parts = (text(thought.get("summary")), text(thought.get("content")))
    return "\n\n".join(part for part in parts if part)


def _content(content: Mapping[str, Any]) -> str:
    """The text of a content; pictures and sounds are left out, transcripts are not."""
    if "parts" in content:
        parts = [
            part if isinstance(part, str) else text(mapping(part).get("text"))
            for part in items(content["parts"])
        ]
        return "\n\n".join(part for part in parts if part)
    return text(content.get("text")) or text(content.get("result"))
