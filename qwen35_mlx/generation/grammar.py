"""Grammars, compiled: which tokens may follow in a reply.

`llguidance` compiles a grammar and computes which tokens of the vocabulary may follow: an Earley
parser over a trie of the tokens' bytes. What a grammar may be given as: `text/grammar_source.py`.

Where a grammar is complete, only tokens that end the reply are left. After one of them everything
is allowed: nobody reads what a pass computes there.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line
from qwen35_mlx.text.grammar_source import GrammarSource, unusable
from qwen35_mlx.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    # Imported where it is used: 60 ms, which a start without grammars need not take.
    from llguidance import LLMatcher

# Compiled grammars that are kept for the next reply.
REMEMBERED = 16
# Tokens that a reply may be shorter by, when it is given next, without being read again.
_MOST_STATES = 32


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
        self._compiled: OrderedDict[str, Grammar] = OrderedDict()

    def compile(self, source: GrammarSource) -> "Grammar":
        """The grammar, which is remembered for the next reply that has the same.

        Raises:
            Qwen35Error: it cannot be read, is too large, or has parts that cannot be enforced.
        """
        text = source.text()
        if text in self._compiled and self._compiled[text].usable:
            self._compiled.move_to_end(text)
            return self._compiled[text]
        matcher = self._matcher(text)
        if isinstance(matcher, str):
            # Which part it is, llguidance does not say.
            for part in source.parts.values():
                self.compile(part)
            raise unusable(source.what, matcher)
        grammar = Grammar(matcher, self.size, self.eos)
        self._compiled[text] = grammar
        if len(self._compiled) > REMEMBERED:
            self._compiled.popitem(last=False)
        return grammar

    def _matcher(self, text: str) -> "LLMatcher | str":
        """The matcher of a grammar; the reason if there is none."""
        from llguidance import LLMatcher

        try:
            matcher = LLMatcher(self._tokenizer, text, log_level=0, limits=self._limits)
        except (ValueError, TypeError, RecursionError) as error:
            return str(error)
        return matcher.get_error() if matcher.is_error() else matcher


class _Tokens:
    """What llguidance reads of a tokenizer; the names are its own."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int, eos: int):
        self._tokenizer = tokenizer
        self.eos_token_id = eos
        self.tokens = [tokenizer.token_bytes(i) for i in range(size)]
        # Ids without a token, which a network may have more of, are never text either.
        unused = {i for i, token in enumerate(self.tokens) if not token}
        for i in unused:
            self.tokens[i] = b"<|%d|>" % i
        self.special_token_ids = sorted(tokenizer.control_tokens.ids | unused)

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(
            text.decode(errors="replace") if isinstance(text, bytes) else text
        )


class Grammar:
    """A compiled grammar. Any number of replies may use it."""

    def __init__(self, matcher: "LLMatcher", size: int, eos: frozenset[int]):
        self._matcher = matcher
        self._size, self._eos = size, eos

    @property
    def usable(self) -> bool:
        """Whether replies can still begin: one that exceeds a limit of llguidance uses it up."""
        matcher = self._matcher.deep_copy()
        matcher.compute_bitmask()
        return not matcher.is_error()

    def matcher(self) -> "GrammarMatcher":
        """A matcher for one reply."""
        return GrammarMatcher(self._matcher.deep_copy(), self._size, self._eos)


class GrammarMatcher:
    """A grammar and how far a reply has come in it.

    What it was given last is compared with what it is given now, and only the difference is read:
    drafts that turn out to be wrong cost as little as those that are right.
    """

    def __init__(self, matcher: "LLMatcher", size: int, eos: frozenset[int]):
        self._size, self._eos = size, eos
        self._start = matcher
        self._read = np.array([], np.int32)
        # After the latest tokens, one for each; the last one is after all of `_read`. Copies are
        # kept, since llguidance's own `rollback` may leave the masks of what was taken back.
        self._states = [_State(matcher)]

    def allowed(self, reply: np.ndarray, drafts: Sequence[int] = ()) -> np.ndarray:
        """The tokens that may follow a reply and each of its drafts: [T, size] bool.

        Row t is after `reply` and the first t of `drafts`. Where a draft is not in the grammar
        itself, or the reply has ended, everything is allowed.

        Args:
            reply: [n] int32.
            drafts: T - 1 tokens.

        Raises:
            Qwen35Error: the grammar is too complex to go on with, or the reply is not in it.
        """
        same = self._read[: reply.size] == reply[: self._read.size]
        self._go_back(same.size if same.all() else int(same.argmin()))
        for token in reply[self._read.size :].tolist():
            if not self._take(token):
                if token not in self._eos:
                    raise Qwen35Error("the reply has left its grammar: please report it")
                return np.ones((len(drafts) + 1, self._size), bool)
        if not drafts:
            return self._states[-1].mask(self._size)[None]
        allowed = np.ones((len(drafts) + 1, self._size), bool)
        allowed[0] = self._states[-1].mask(self._size)
        for row, draft in enumerate(drafts, 1):
            if not self._take(draft):
                break
            allowed[row] = self._states[-1].mask(self._size)
        return allowed

    def _go_back(self, length: int) -> None:
        """Forget all but the first tokens of what was read."""
        if length == self._read.size:
            return
        kept = len(self._states) - (self._read.size - length)
        self._states = self._states[:kept] if kept > 0 else [_State(self._start)]
        self._read = self._read[: length if kept > 0 else 0]

    def _take(self, token: int) -> bool:
        """Read a token, unless it is not allowed or ends the reply; returns whether it was read."""
        if token in self._eos:
            return False
        matcher = self._states[-1].matcher.deep_copy()
        if not matcher.try_consume_tokens([token]):
            _check(matcher)
            return False
        self._states = [*self._states[-_MOST_STATES:], _State(matcher)]
        self._read = np.append(self._read, np.int32(token))
        return True


class _State:
    """A matcher after some tokens, which are never taken back."""

    def __init__(self, matcher: "LLMatcher"):
        self.matcher = matcher
        self._mask: np.ndarray | None = None

    def mask(self, size: int) -> np.ndarray:
        """The tokens that may follow: [size] bool."""
        if self._mask is None:
            packed = self.matcher.compute_bitmask()
            _check(self.matcher)
            bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
            self._mask = bits[:size].view(bool)
        return self._mask


def _check(matcher: "LLMatcher") -> None:
    """Refuse to go on where a limit of llguidance was exceeded.

    Raises:
        Qwen35Error: one was.
    """
    if matcher.is_error():
        reason = one_line(matcher.get_error())
        raise Qwen35Error(f"the grammar cannot be followed further ({reason}): make it simpler")
