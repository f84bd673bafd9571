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
# The tags that a reply consists of. Templates look for them in the text of earlier replies.
REPLY_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
# The keys of an assistant's message that hold the text of its reply.
_REPLY_KEYS = ("content", "reasoning_content")


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
        self._ids = {token.text: token.id for token in longest_first}
        self.ids = frozenset(self._ids.values())
        self._token = re.compile("|".join(map(_token_pattern, longest_first)) or "(?!)")
        self._quotable = re.compile(_quotable_pattern(self._ids))
        tags = "|".join(map(re.escape, REPLY_TAGS))
        self._quotable_in_reply = re.compile(f"(?!{tags})(?:{self._quotable.pattern})")
        self._quoted = re.compile(
            f"([{_escape_all({MARK, *(text[0] for text in self._ids)})}]){MARK}"
        )

    def quote(self, text: str) -> str:
        """`text` with a mark after every character that could begin a control token."""
        return self._quotable.sub(rf"\g<0>{MARK}", text)

    def quote_reply(self, text: str) -> str:
        """As `quote`, except that the tags of a reply stay control tokens."""
        return self._quotable_in_reply.sub(rf"\g<0>{MARK}", text)

    def quote_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message in plain JSON types, with all its strings quoted."""
        reply_keys = _REPLY_KEYS if message.get("role") == "assistant" else ()
        return {
            self.quote(key): _map_strings(
                self.quote_reply if key in reply_keys else self.quote, value
            )
            for key, value in message.items()
        }

    def quote_all(self, value: Any) -> Any:
        """A value in plain JSON types, with all its strings quoted, keys too."""
        return _map_strings(self.quote, value)

    def split(self, rendered: str) -> Iterator[str | int]:
        """The parts of a rendered prompt: ids of control tokens, and the text between them."""
        start = 0
        for match in self._token.finditer(rendered):
            if match.start() > start:
                yield self._unquote(rendered[start : match.start()])
            token_id = self._ids.get(match[0])
            yield self._ids[match[0].strip()] if token_id is None else token_id
            start = match.end()
        if start < len(rendered):
            yield self._unquote(rendered[start:])

    def _unquote(self, text: str) -> str:
        return self._quoted.sub(r"\1", text) if MARK in text else text


def _token_pattern(token: ControlToken) -> str:
    """A regular expression for the token and the whitespace that it takes along."""
    left, right = (r"\s*" if strips else "" for strips in (token.strips_left, token.strips_right))
    return left + re.escape(token.text) + right


def _quotable_pattern(tokens: Iterable[str]) -> str:
    """A regular expression for the characters that could begin a token, and for the mark.

    A letter or digit counts only where the whole token follows: a mark inside a word could hide
    the word from a template, such as the "function" of a tool's schema.
    """
    words = [text for text in tokens if text[0].isalnum()]
    others = {MARK, *(text[0] for text in tokens if not text[0].isalnum())}
    whole = [rf"{re.escape(word[0])}(?={re.escape(word[1:])})" for word in words]
    return "|".join([f"[{_escape_all(others)}]", *whole])


def _escape_all(characters: Iterable[str]) -> str:
    return "".join(re.escape(character) for character in sorted(characters))


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
