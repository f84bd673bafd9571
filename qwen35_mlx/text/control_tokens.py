"""Control tokens: the text of a template becomes one, the text of a user, a file or a tool never.

A rendered prompt is one string, in which the `<|im_end|>` of the template and an `<|im_end|>` that
somebody typed look the same. So the strings that go into a template are quoted first: a mark
follows every character that could begin a control token. Templates pass the mark through like any
other character, and quoted text contains no token, even if a template cuts or joins it. `split`
finds the tokens that are left, which are the template's own, and removes the marks from the text
between them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# A character that hardly any text holds (a sign of the Phaistos disc); where one does, it is quoted
# as well. It is printable, since templates may print a list, and Python escapes all others there.
MARK = "\U000101d0"
# The tags in a reply as the model wrote it. Templates look for them, and drop old thinking.
REPLY_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A token that gives a prompt its structure, such as `<|im_start|>` or `<think>`.

    Attributes:
        strips_left, strips_right: whether it takes the whitespace before and after it along.
    """

    text: str
    id: int
    strips_left: bool = False
    strips_right: bool = False


class ControlTokens:
    """The control tokens of one tokenizer.

    Attributes:
        ids: of all of them.
    """

    def __init__(self, tokens: Iterable[ControlToken]):
        # Where several match, the `tokenizers` library takes the longest.
        longest_first = sorted(tokens, key=lambda token: len(token.text), reverse=True)
        self._tokens = {token.text: token for token in longest_first}
        self.ids = frozenset(token.id for token in longest_first)
        self._pattern = re.compile("|".join(map(re.escape, self._tokens)) or "(?!)")
        # Each string that begins a token, and how it is quoted. Letters and digits are not quoted
        # everywhere: a mark inside "function" would hide the word from a template.
        words = [text for text in self._tokens if text[0].isalnum()]
        signs = sorted({text[0] for text in self._tokens if not text[0].isalnum()})
        self._quotes = [
            (MARK, MARK * 2),
            *((word, word[0] + MARK + word[1:]) for word in words),
            *((sign, sign + MARK) for sign in signs),
        ]
        self._reply_tags = [(self.quote(tag), tag) for tag in REPLY_TAGS]

    def id(self, text: str) -> int | None:
        """The id of the token of this text; None if that is no control token."""
        token = self._tokens.get(text)
        return None if token is None else token.id

    def quote(self, text: str) -> str:
        """`text` with a mark after every character that could begin a control token."""
        for begins, quoted in self._quotes:
            text = text.replace(begins, quoted)
        return text

    def quote_reply(self, text: str) -> str:
        """As `quote`, except that the tags of a reply stay control tokens."""
        text = self.quote(text)
        for quoted, tag in self._reply_tags:
            text = text.replace(quoted, tag)
        return text

    def quote_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message in plain JSON types, with all its strings quoted.

        Without `reasoning_content`, the content of an assistant's message is a reply as the model
        wrote it, and keeps its tags.
        """
        parsed = isinstance(message.get("reasoning_content"), str)
        quoted = self.quote_all(message)
        if message.get("role") == "assistant" and not parsed and "content" in message:
            quoted["content"] = _map_strings(self.quote_reply, message["content"])
        return quoted

    def quote_all(self, value: Any) -> Any:
        """A value in plain JSON types, with all its strings quoted, keys too."""
        return _map_strings(self.quote, value)

    def split(self, rendered: str) -> Iterator[str | int]:
        """The parts of a rendered prompt: ids of control tokens, and the text between them."""
        start = 0
        for match in self._pattern.finditer(rendered):
            token = self._tokens[match[0]]
            text = rendered[start : match.start()]
            text = text.rstrip() if token.strips_left else text
            if text:
                yield self._unquote(text)
            yield token.id
            start = match.end()
            if token.strips_right:
                start = _SPACE.match(rendered, start).end()  # pyright: ignore[reportOptionalMemberAccess]
        if start < len(rendered):
            yield self._unquote(rendered[start:])

    def _unquote(self, text: str) -> str:
        if MARK in text:
            for begins, quoted in reversed(self._quotes):
                text = text.replace(quoted, begins)
        return text


def _map_strings(change: Callable[[str], str], value: Any) -> Any:
    """A copy of a value in plain JSON types with every string changed, keys too."""
    match value:
        case str():
            return change(value)
        case dict():
            return {change(key): _map_strings(change, item) for key, item in value.items()}
        case list():
            return [_map_strings(change, item) for item in value]
        case _:
            return value
