"""Results of tools, of which one may be longer than all that a model can read."""

from collections.abc import Sequence
from typing import Any

from qwen35_mlx.session.model import Model

# All results of one reply take at most this share of the context.
SHARE = 0.25
_SHRINK = 0.95  # beyond what the average length of a token says


def tool_messages(model: Model, texts: Sequence[str]) -> list[dict[str, Any]]:
    """The results of one reply's calls as messages of role "tool", cut by `within_context`."""
    return [{"role": "tool", "content": text} for text in within_context(model, texts)]


def within_context(model: Model, texts: Sequence[str]) -> list[str]:
    """The texts, each cut to its part of `SHARE` of the context.

    A text that is cut ends in a line that says so.
    """
    limit = max(int(model.context * SHARE) // max(len(texts), 1), 1)
    return [_cut(model, text, limit) for text in texts]


def _cut(model: Model, text: str, limit: int) -> str:
    if 4 * len(text) <= limit:  # a token has at least one byte, a character at most four
        return text
    tokens = total = len(model.tokenizer.encode(text))
    if total <= limit:
        return text
    while tokens > limit:
        text = text[: int(len(text) * limit / tokens * _SHRINK)]
        tokens = len(model.tokenizer.encode(text))
    return f"{text}\n[Cut: these are the first {tokens:,} of {total:,} tokens]"
