"""Token ids of rendered conversations, with each message encoded only once."""

import re

from qwen35_mlx.text.tokenizer import Tokenizer

_MARK = "<|im_start|>"
_MESSAGE_START = re.compile(rf"(?={re.escape(_MARK)})")


class PromptEncoder:
    """Encodes renderings message by message, and remembers the ids of recent messages.

    Args:
        capacity: tokens to remember.

    Attributes:
        per_message: whether the tokenizer allows this: `<|im_start|>` is one token that takes
            nothing before it along. If not, every rendering is encoded as a whole.
    """

    def __init__(self, tokenizer: Tokenizer, capacity: int):
        self._tokenizer = tokenizer
        self._capacity = capacity
        self._remembered: dict[str, list[int]] = {}  # the least recently used message first
        self._remembered_tokens = 0
        single = tokenizer.token_id(_MARK) is not None
        self.per_message = single and tokenizer.encodes_separately(["a. \n", f"{_MARK}user\n"])

    def encode(self, rendered: str) -> list[int]:
        """The token ids of a rendered conversation, in which the messages' strings are quoted."""
        if not self.per_message:
            return self._tokenizer.encode_prompt(rendered)
        ids: list[int] = []
        for message in _MESSAGE_START.split(rendered):
            encoded = self._remembered.pop(message, None)
            if encoded is None:
                encoded = self._tokenizer.encode_prompt(message)
                self._remembered_tokens += len(encoded)
            self._remembered[message] = encoded
            ids += encoded
        while self._remembered_tokens > self._capacity:
            oldest = next(iter(self._remembered))
            self._remembered_tokens -= len(self._remembered.pop(oldest))
        return ids
