"""Open WebUI's export of chats: a list of chats, each with a tree of messages."""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.library.foreign.tree import Tree, duration, items, mapping, moment, text

# How the content of a reply holds its thinking: folded, and quoted line by line.
_REASONING = re.compile(
    r"<details\b([^>]*\btype=\"reasoning\"[^>]*)>\s*(?:<summary>.*?</summary>)?(.*?)</details>\s*",
    re.DOTALL,
)
_DURATION = re.compile(r"\bduration=\"([^\"]*)\"")


def is_conversation(value: object) -> bool:
    return isinstance(_chat(mapping(value)).get("history"), dict)


def _chat(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The chat within what the server knows about it; one may also be exported alone."""
    return mapping(values.get("chat")) or values


def read(values: Mapping[str, Any]) -> Conversation | None:
    """One conversation; None if it is empty."""
    chat = _chat(values)
    history = mapping(chat.get("history"))
    messages = mapping(history.get("messages"))
    tree, ids = Tree(), dict[str, int | None]()
    for name, parent in _walk(messages):
        ids[name] = _add(tree, ids.get(parent), mapping(messages[name]))
    models = [text(name) for name in items(chat.get("models"))]
    return tree.conversation(
        title=text(values.get("title")) or text(chat.get("title")),
        leaf=ids.get(text(history.get("currentId"))),
        system=text(mapping(chat.get("params")).get("system")) or text(chat.get("system")),
        model=models[0] if models else "",
        created=moment(values.get("created_at")) or moment(chat.get("timestamp")),
        updated=moment(values.get("updated_at")),
    )


def _walk(messages: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The messages that a root leads to, each once, after its parent, with the parent's name."""
    children: dict[str | None, list[str]] = {}
    for name in messages:
        parent = mapping(messages[name]).get("parentId")
        known = isinstance(parent, str) and parent in messages
        children.setdefault(parent if known else None, []).append(name)
    for name, below in children.items():
        listed = items(mapping(messages.get(name or "")).get("childrenIds"))
        order = {child: at for at, child in enumerate(listed) if isinstance(child, str)}
        below.sort(key=lambda child: order.get(child, len(order)))
    waiting = [(name, "") for name in reversed(children.get(None, []))]
    while waiting:
        name, parent = waiting.pop()
        yield name, parent
        waiting += [(child, name) for child in reversed(children.get(name, []))]


def _add(tree: Tree, parent: int | None, message: Mapping[str, Any]) -> int | None:
    """Add a message; the id that its children follow."""
    content, role = _content(message.get("content")), text(message.get("role"))
    created = moment(message.get("timestamp"))
    if role in ("user", "system") and content.strip():
        return tree.add(parent, "user" if role == "user" else "system", content, created=created)
    if role != "assistant":
        return parent
    thinking = [_unquoted(found[2]) for found in _REASONING.finditer(content)]
    seconds = [duration(_first(_DURATION, found[1])) for found in _REASONING.finditer(content)]
    times = [time for time in seconds if time is not None]
    return tree.add(
        *(parent, "assistant", _REASONING.sub("", content)),
        created=created,
        thinking="\n\n".join(thinking),
        thinking_seconds=sum(times) if times else None,
        model=text(message.get("model")),
    )


def _content(content: object) -> str:
    """The text of a content, which may be in parts; pictures are left out."""
    if isinstance(content, str):
        return content
    parts = [text(mapping(part).get("text")) for part in items(content)]
    return "\n\n".join(part for part in parts if part)


def _unquoted(quoted: str) -> str:
    lines = html.unescape(quoted).strip().split("\n")
    return "\n".join(re.sub(r"^> ?", "", line) for line in lines)


def _first(pattern: re.Pattern[str], within: str) -> str:
    found = pattern.search(within)
    return found[1] if found else ""
