"""Lines that programs put in front of a system prompt, and that differ in every request.

Read as they are, nothing after them could be found in the prompt cache. They say nothing to a
model, so they are left out before a prompt is rendered.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# The beginning of a line, and what writes it.
CHANGING_LINES: Mapping[str, str] = {
    "x-anthropic-billing-header:": "Claude Code: its version, how it was started, and a checksum",
}


def without_changing_lines(
    messages: Sequence[Mapping[str, Any]],
) -> Sequence[Mapping[str, Any]]:
    """The messages without such lines at the start of the first one, if that is a system prompt.

    A text or a message of which nothing is left is left out. Whatever is no message stays.
    """
    if not messages or not isinstance(messages[0], Mapping):
        return messages
    first, *others = messages
    if first.get("role") not in ("system", "developer"):
        return messages
    content = _without(first.get("content"))
    if content == first.get("content"):
        return messages
    return [{**first, "content": content}, *others] if content else others


def _without(content: Any) -> Any:
    """The content of a message, a string or parts, without the lines."""
    if isinstance(content, str):
        start, lines = 0, tuple(CHANGING_LINES)
        while content.startswith(lines, start):
            end = content.find("\n", start)
            start = len(content) if end < 0 else end
            while content.startswith("\n", start):
                start += 1
        return content[start:]
    if isinstance(content, Sequence) and content and isinstance(content[0], Mapping):
        text = content[0].get("text")
        kept = _without(text)
        if isinstance(text, str) and kept != text:
            return [*([{**content[0], "text": kept}] if kept else []), *_rest(content, kept)]
    return content


def _rest(parts: Sequence[Any], kept: str) -> Sequence[Any]:
    """The parts after the first; if nothing of that is kept, the next may begin in the same way."""
    return parts[1:] if kept else _without(parts[1:])
