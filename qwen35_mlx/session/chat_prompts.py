"""The prompts of a chat: their messages and tokens, and how far the next turns share them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from qwen35_mlx.errors import Qwen35Error, TooLongError
from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.session.anchors import PromptAnchors
from qwen35_mlx.session.history_parts import counted
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.reply_options import ReplyOptions


def prompt_anchors(model: Model, options: ReplyOptions) -> PromptAnchors:
    """The anchors of prompts with these options."""
    return PromptAnchors(partial(model.prompt_ids, options=options), bool(options.tools))


def messages_before(tree: Conversation, parent: int | None) -> list[dict[str, Any]]:
    """The path to `parent` as a template takes it; without one, the system prompt alone."""
    if parent is not None:
        return tree.for_template(parent)
    system = tree.settings.system
    return [] if system is None else [{"role": "system", "content": system}]


def tokens_so_far(
    model: Model, tree: Conversation, options: ReplyOptions
) -> tuple[int, Sequence[int]]:
    """The number of tokens of the selected path, without the start of a reply, and these tokens.

    A path that is far too long to be rendered is counted message by message, and has no tokens.
    """
    messages = tree.for_template()
    if not messages:
        return 0, ()
    try:
        if all(message["role"] == "system" for message in messages):
            # Templates reject a conversation without a question.
            ids = prompt_anchors(model, options).system_prefix(messages)
        else:
            ids = model.prompt_ids(messages, options, reply=False)
    except TooLongError:
        encode = model.tokenizer.encode
        return sum(counted(message, encode).tokens for message in messages), ()
    except Qwen35Error:  # an imported path without a question: nothing could be sent
        return 0, ()
    return len(ids), ids
