"""Grammars: which tokens may follow in a reply, by a JSON schema, a regex or a Lark grammar.

`llguidance` compiles a grammar and computes which tokens of the vocabulary may follow: an Earley
parser over a trie of the tokens' bytes. Control tokens are never text to it: a string of JSON may
hold "<think>", and not the token. A Lark grammar may name them, as in `start: <think> /a+/`, or
give their ids, `<[2025]>`; `<[*]>` is any token.

Where a grammar is complete, only tokens that end the reply are left. After one of them everything
is allowed: nobody reads what a pass computes there.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line
from qwen35_mlx.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    # Imported where it is used: 60 ms, which a start without grammars need not take.
    from llguidance import LLMatcher


class GrammarVocabulary:
    """The tokens of a model in the form that grammars are compiled for; made once for a model.

    Args:
        size: of the network's logits; ids without a token are never allowed.
        eos: tokens that end a reply, at least one.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, eos: Collection[int]):
        import llguidance

        assert eos
        self.size, self.eos = size, frozenset(eos)
        self._limits = llguidance.LLParserLimits(verbose_errors=False)
        wrapped = llguidance.TokenizerWrapper(_Tokens(tokenizer, size, min(self.eos)))
        self._tokenizer = llguidance.LLTokenizer(wrapped, n_vocab=size, eos_token=sorted(eos))

    def json_schema(self, schema: Mapping[str, Any]) -> "Grammar":
        """Replies that are one JSON value which `schema` allows, on one line.

        Strings, numbers and arrays without bounds in the schema have none in the reply.

        Raises:
            Qwen35Error: it is no schema, or has keywords that cannot be enforced.
        """
        from llguidance import LLMatcher

        def source() -> str:
            # White space is that of `json.dumps`. Where it is free, a small model fills lines with
            # it, and any model pays for the indentation. The other options keep a schema from
            # having keywords ignored that cannot be enforced.
            return LLMatcher.grammar_from_json_schema(
                json.dumps(schema),
                overrides={
                    "whitespace_flexible": False,
                    "item_separator": r",\x20?",
                    "key_separator": r":\x20?",
                    "lenient": False,
                    "coerce_one_of": False,
                },
            )

        return self._compiled("JSON schema", source)

    def regex(self, pattern: str) -> "Grammar":
        """Replies that `pattern` matches as a whole, in the syntax of Rust's regex crate.

        Raises:
            Qwen35Error: it cannot be read.
        """
        from llguidance import LLMatcher

        return self._compiled("regex", lambda: LLMatcher.grammar_from_regex(pattern))

    def lark(self, text: str) -> "Grammar":
        """Replies that a Lark grammar derives from its rule `start`.

        Raises:
            Qwen35Error: it cannot be read.
        """
        from llguidance import LLMatcher

        return self._compiled("Lark grammar", lambda: LLMatcher.grammar_from_lark(text))

    def _compiled(self, kind: str, source: Callable[[], str]) -> "Grammar":
        from llguidance import LLMatcher

        try:
            matcher = LLMatcher(self._tokenizer, source(), log_level=0, limits=self._limits)
        except (ValueError, TypeError, RecursionError) as error:
            raise _unreadable(kind, error) from None
        if matcher.is_error():
            raise _unreadable(kind, matcher.get_error())
        return Grammar(matcher, self.size, self.eos)


class _Tokens:
    """What llguidance reads of a tokenizer; the names are its own."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int, eos: int):
        self._tokenizer = tokenizer
        self.eos_token_id = eos
        self.tokens = [tokenizer.token_bytes(i) for i in range(min(size, tokenizer.vocab_size))]
        self.special_token_ids = sorted(tokenizer.control_tokens.ids)

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(
            text.decode(errors="replace") if isinstance(text, bytes) else text
        )


class Grammar:
    """A compiled grammar. Any number of replies may use it."""

    def __init__(self, matcher: "LLMatcher", size: int, eos: frozenset[int]):
        self._matcher = matcher
        self._size, self._eos = size, eos

    def matcher(self) -> "GrammarMatcher":
        """A matcher for one reply."""
        return GrammarMatcher(self._matcher.deep_copy(), self._size, self._eos)


class GrammarMatcher:
    """A grammar and how far a reply has come in it.

    What it was given last is compared with what it is given now, and only the difference is read:
    drafts that turn out to be wrong cost as little as those that are right.
    """

    def __init__(self, matcher: "LLMatcher", size: int, eos: frozenset[int]):
        self._matcher = matcher
        self._size, self._eos = size, eos
        self._read = np.array([], np.int32)

    def allowed(self, reply: np.ndarray, drafts: Sequence[int] = ()) -> np.ndarray:
        """The tokens that may follow a reply and each of its drafts: [T, size] bool.

        Row t is after `reply` and the first t of `drafts`. Where these are not in the grammar
        themselves, or have ended the reply, everything is allowed.

        Args:
            reply: [n] int32.
            drafts: T - 1 tokens.

        Raises:
            Qwen35Error: the grammar is too complex to go on with.
        """
        allowed = np.ones((len(drafts) + 1, self._size), bool)
        same = self._read[: reply.size] == reply[: self._read.size]
        shared = same.size if same.all() else int(same.argmin())
        self._take_back(self._read.size - shared)
        if not all(map(self._take, reply[shared:].tolist())):
            return allowed
        allowed[0] = self._mask()
        for row, draft in enumerate(drafts, 1):
            if not self._take(draft):
                break
            allowed[row] = self._mask()
        return allowed

    def _take_back(self, count: int) -> None:
        if count:
            self._matcher.rollback(count)
            self._read = self._read[:-count]

    def _take(self, token: int) -> bool:
        """Read a token, unless it is not allowed or ends the reply; returns whether it was read."""
        if token in self._eos or not self._matcher.try_consume_tokens([token]):
            return False
        self._read = np.append(self._read, np.int32(token))
        return True

    def _mask(self) -> np.ndarray:
        packed = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise Qwen35Error(
                f"the grammar cannot be followed further ({one_line(self._matcher.get_error())}):"
                " make it simpler"
            )
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")[: self._size]
        # There are bits for the tokenizer's tokens alone, of which a network may have more.
        return np.pad(bits, (0, self._size - bits.size)).view(bool)


def _unreadable(kind: str, error: object) -> Qwen35Error:
    return Qwen35Error(f"the {kind} cannot be used ({one_line(error)}): correct it")
