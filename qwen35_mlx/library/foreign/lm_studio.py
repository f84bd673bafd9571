"""LM Studio's `*.conversation.json`: a list of messages, each in one or more versions.

What follows a message follows the version that is selected. A reply has steps: thinking, text, and
calls of tools with their results.
"""

from collections.abc import Mapping
from typing import Any

from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.library.foreign.tree import Tree, items, mapping, moment, text, tool_call


def is_conversation(value: object) -> bool:
    messages = mapping(value).get("messages")
    if not isinstance(messages, list) or "createdAt" not in mapping(value):
        return False
    return all("versions" in mapping(one) for one in messages)


def read(values: Mapping[str, Any]) -> Conversation | None:
    """The conversation; None if it is empty."""
    tree = Tree()
    parent: int | None = None
    for message in items(values.get("messages")):
        versions = items(mapping(message).get("versions"))
        selected = mapping(message).get("currentlySelected")
        ends = [_add(tree, parent, mapping(version)) for version in versions]
        if isinstance(selected, int) and 0 <= selected < len(ends):
            parent = ends[selected]
        elif ends:
            parent = ends[-1]
    times = [moment(values.get(f"{who}LastMessagedAt")) for who in ("assistant", "user")]
    created = moment(values.get("createdAt"))
    return tree.conversation(
        title=text(values.get("name")),
        leaf=parent,
        system=_system(values),
        created=created,
        updated=max(*times, created),
    )


def _system(values: Mapping[str, Any]) -> str:
    """The system prompt, of the chat or of its settings."""
    fields = [
        mapping(one) for one in items(mapping(values.get("perChatPredictionConfig")).get("fields"))
    ]
    named = (text(f.get("value")) for f in fields if f.get("key") == "llm.prediction.systemPrompt")
    return next(named, "") or text(values.get("systemPrompt"))


def _add(tree: Tree, parent: int | None, version: Mapping[str, Any]) -> int | None:
    """Add a version of a message; the id of its last message."""
    role = text(version.get("role"))
    if role in ("user", "system"):
        said = _text(items(version.get("content")))
        return tree.add(parent, "user" if role == "user" else "system", said)
    if role != "assistant":
        return parent
    model = text(mapping(version.get("senderInfo")).get("senderName"))
    thinking, said, calls = list[str](), list[str](), list[Mapping[str, Any]]()
    results = list[str]()

    def finish() -> None:
        nonlocal parent
        if thinking or said or calls:
            values = {"thinking": "\n\n".join(thinking), "tool_calls": tuple(calls), "model": model}
            parent = tree.add(parent, "assistant", "\n\n".join(said), **values)
        for result in results:
            parent = tree.add(parent, "tool", result)
        for each in (thinking, said, calls, results):
            each.clear()

    steps = [mapping(step) for step in items(version.get("steps"))] or [version]
    for step in steps:
        if step.get("type") not in ("contentBlock", "singleStep"):
            continue
        content = items(step.get("content"))
        if results and any(mapping(part).get("type") != "toolCallResult" for part in content):
            finish()  # what follows the results is another reply
        is_thinking = mapping(step.get("style")).get("type") == "thinking"
        if words := _text(content):
            (thinking if is_thinking else said).append(words.strip("\n"))
        for part in map(mapping, content):
            if part.get("type") == "toolCallRequest":
                calls.append(tool_call(text(part.get("name")), part.get("parameters")))
            elif part.get("type") == "toolCallResult":
                results.append(text(part.get("content")))
    finish()
    return parent


def _text(content: object) -> str:
    parts = [mapping(part) for part in items(content)]
    return "".join(text(part.get("text")) for part in parts if part.get("type") == "text")
