"""Replies of the demo model within grammars.

By default few random schemas. For more:

    QWEN35_SCHEMAS=500 scripts/test tests/generation/test_grammar.py
"""

import itertools
import json
import os
import random
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jsonschema
import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.drafter import Drafter, PassCosts
from qwen35_mlx.generation.drafts import CopyDrafts, MTPDrafts
from qwen35_mlx.generation.grammar import Grammar, GrammarVocabulary
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler, masked
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.model.cache import Cache, Snapshot
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from qwen35_mlx.text.bounded_schema import bounded
from qwen35_mlx.text.grammar_source import GrammarSource, json_schema, lark, regex
from tests.random_schemas import PERSON, random_schema

SCHEMAS = int(os.environ.get("QWEN35_SCHEMAS", "8"))
GREEDY = Sampling(temperature=0)
WARM = Sampling(temperature=0.7, top_p=0.95, top_k=20)
ANYTHING = "start: <[*]>*"


class WrongDrafts(CopyDrafts):
    """Drafts in place of copies that are mostly wrong, and often forbidden by a grammar."""

    def __init__(self, likely: Sequence[int]):
        super().__init__()
        self._random, self._likely = random.Random(1), likely

    @property
    def match_length(self) -> int:
        return 32

    def draft(self, count: int, sampler: Sampler, reply: mx.array, position: int) -> mx.array:
        right = list(self._likely[position : position + count])
        if right and self._random.random() < 0.5:
            right[self._random.randrange(len(right))] = self._random.randrange(2048)
        return mx.array(np.array(right, np.int32))


class Writer:
    """Replies of the demo model to one prompt, which is read once."""

    def __init__(self, model: Model):
        self.model, self.network = model, model.network
        self.vocabulary = GrammarVocabulary(
            model.tokenizer, self.network.config.vocab_size, model.eos
        )
        question = [{"role": "user", "content": "Who are you? Reply in JSON."}]
        self.prompt = model.render(question, thinking=False)
        self.state = self._read()

    def _read(self) -> Snapshot:
        cache = self.network.make_cache()
        drafts = MTPDrafts(self.network, cache)
        drafts.begin(self.prompt, 0)
        for _ in prefill(
            self.network,
            cache,
            self.prompt[:-1],
            512,
            lambda hidden, at: drafts.read(self.prompt[at + 1 : at + 1 + hidden.shape[1]], hidden),
        ):
            pass
        drafts.save()
        return cache.snapshot()

    def write(
        self,
        grammar: Grammar | None,
        sampling: Sampling = GREEDY,
        *,
        seed: int = 0,
        depth: int | None = None,
        copies: CopyDrafts | None = None,
        tokens: int = 400,
    ) -> list[int]:
        """A reply up to its end, `depth` drafts of the MTP head or copies a pass."""
        cache = self.network.make_cache()
        cache.restore(self.state)
        drafter = self._drafter(cache, depth, copies)
        sampler = Sampler(sampling, self.network.config.vocab_size, seed, grammar)
        stream = decode(self.network, cache, self.prompt[-1:], sampler, drafter)
        reply: list[int] = []
        for token in stream:
            reply.append(token)
            if token in self.model.eos or len(reply) == tokens:
                break
        stream.close()
        assert cache.offset == len(self.prompt) + len(reply)
        return reply

    def _drafter(self, cache: Cache, depth: int | None, copies: CopyDrafts | None):
        if depth is None and copies is None:
            return None
        head = MTPDrafts(self.network, cache) if depth else None
        drafter = Drafter(head, copies, PassCosts(), depth=depth, clock=itertools.count().__next__)
        drafter.begin(self.prompt, cache.offset)
        return drafter

    def text(self, reply: Sequence[int]) -> str:
        """Of a reply that has ended."""
        assert reply[-1] in self.model.eos, self.model.tokenizer.decode(reply)
        return self.model.tokenizer.decode(reply[:-1])


@pytest.fixture(scope="module")
def writer() -> Generator[Writer]:
    with load("demo", dtype="float32") as model:
        yield Writer(model)


def compiled(writer: Writer, kind: Callable[[Any], GrammarSource], source: Any) -> Grammar:
    return writer.vocabulary.compile(kind(source))


def allowed_texts(writer: Writer, grammar: Grammar, before: str) -> set[str]:
    """The tokens that may follow a text."""
    tokenizer = writer.model.tokenizer
    reply = np.array(tokenizer.encode(before), np.int32)
    ids = np.flatnonzero(grammar.matcher().allowed(reply)[0])
    return {tokenizer.decode([int(i)]) for i in ids}


@pytest.mark.parametrize("seed", range(SCHEMAS))
def test_a_reply_under_a_random_schema_is_valid(writer: Writer, seed: int):
    schema = random_schema(seed)
    grammar = compiled(writer, json_schema, schema)
    reply = writer.write(grammar, WARM, seed=seed, depth=None if seed % 4 else 3)
    jsonschema.validate(json.loads(writer.text(reply)), schema)


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("depth", [None, 3])
def test_a_grammar_that_allows_everything_changes_no_token(writer: Writer, sampling, depth):
    free = writer.write(None, sampling, tokens=40)
    grammar = compiled(writer, lark, ANYTHING)
    assert writer.write(grammar, sampling, depth=depth, tokens=40) == free


def test_a_grammar_that_allows_everything_changes_no_bit_of_the_logits(writer: Writer):
    matcher = compiled(writer, lark, ANYTHING).matcher()
    logits = mx.random.normal((3, 2048)).astype(mx.bfloat16)
    after = masked(logits, matcher, mx.array([5, 6]), mx.array([7, 8]))
    assert after.dtype == logits.dtype
    assert mx.array_equal(after, logits)


def test_where_everything_is_allowed_nothing_is_masked(writer: Writer):
    """Neither at the start nor after a token; after what a grammar forbids, it is."""
    logits, nothing = mx.zeros((1, 2048)), mx.array([], mx.int32)
    matcher = compiled(writer, lark, ANYTHING).matcher()
    assert masked(logits, matcher, nothing) is logits
    assert masked(logits, matcher, mx.array([5])) is logits
    some = compiled(writer, regex, "a").matcher()
    assert mx.isinf(masked(logits, some, nothing)).any()


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_drafts_change_no_token_of_a_reply_in_a_grammar(writer: Writer, sampling):
    grammar = compiled(writer, json_schema, PERSON)
    single = writer.write(grammar, sampling)
    jsonschema.validate(json.loads(writer.text(single)), PERSON)
    assert writer.write(grammar, sampling, depth=4) == single
    wrong = WrongDrafts(single)
    assert writer.write(grammar, sampling, copies=wrong) == single


def test_rows_after_drafts_have_the_masks_of_the_same_reply(writer: Writer):
    grammar = compiled(writer, json_schema, PERSON)
    ids = np.array(writer.model.tokenizer.encode('{"name": "Ann", "tags": ["a"]}'), np.int32)
    matcher, rng = grammar.matcher(), random.Random(0)
    for _ in range(30):
        start = rng.randrange(ids.size)
        end = rng.randint(start, ids.size)
        rows = matcher.allowed(ids[:start], ids[start:end].tolist())
        for row, length in zip(rows, range(start, end + 1), strict=True):
            assert (row == grammar.matcher().allowed(ids[:length])[0]).all()


@pytest.mark.parametrize("seed", range(SCHEMAS))
def test_masks_after_wrong_drafts_are_those_of_the_reply_alone(writer: Writer, seed: int):
    """At each token of a random reply, several are drafted that the schema allows as well."""
    grammar, rng = compiled(writer, json_schema, random_schema(seed)), random.Random(seed)
    matcher, reply = grammar.matcher(), np.array([], np.int32)
    for _ in range(20):
        fresh = grammar.matcher().allowed(reply)[0]
        assert (matcher.allowed(reply)[0] == fresh).all()
        choices = [i for i in np.flatnonzero(fresh).tolist() if i not in writer.model.eos]
        if not choices:
            break
        for _ in range(2):
            drafts: list[int] = []
            while len(drafts) < 4:
                row = matcher.allowed(reply, drafts)[-1]
                drafts.append(rng.choice(np.flatnonzero(row).tolist()))
        reply = np.append(reply, np.int32(rng.choice(choices)))


def test_rows_after_a_forbidden_draft_are_free_and_later_ones_are_not(writer: Writer):
    grammar = compiled(writer, json_schema, PERSON)
    good, bad = writer.model.tokenizer.encode("{")[0], writer.model.tokenizer.encode("}")[0]
    matcher, nothing = grammar.matcher(), np.array([], np.int32)
    rows = matcher.allowed(nothing, [good, bad, good])
    assert not rows[1, bad]
    assert rows[2:].all()
    assert (matcher.allowed(nothing) == grammar.matcher().allowed(nothing)).all()


def test_where_a_grammar_is_complete_only_the_end_is_left(writer: Writer):
    grammar = compiled(writer, json_schema, PERSON)
    reply = np.array(writer.model.tokenizer.encode('{"name": "", "tags": ["a"]}'), np.int32)
    rows = grammar.matcher().allowed(reply, [min(writer.model.eos)])
    assert set(np.flatnonzero(rows[0]).tolist()) == writer.model.eos
    assert rows[1].all()  # nobody reads what follows


def test_after_the_end_everything_is_allowed_where_the_grammar_could_go_on(writer: Writer):
    tokenizer = writer.model.tokenizer
    rows = (
        compiled(writer, regex, "a*")
        .matcher()
        .allowed(np.array(tokenizer.encode("a"), np.int32), [min(writer.model.eos)])
    )
    assert 0 < rows[0].sum() < 100
    assert rows[1].all()


def test_a_string_of_json_holds_no_control_token(writer: Writer):
    grammar = compiled(writer, json_schema, {"type": "string"})
    reply = np.array(writer.model.tokenizer.encode('"a'), np.int32)
    allowed = set(np.flatnonzero(grammar.matcher().allowed(reply)[0]).tolist())
    assert len(allowed) > 1000
    assert allowed.isdisjoint(writer.model.tokenizer.control_tokens.ids)


def test_ids_without_a_token_are_never_allowed(writer: Writer):
    model = writer.model
    vocabulary = GrammarVocabulary(model.tokenizer, model.tokenizer.vocab_size + 53, model.eos)
    last = model.tokenizer.vocab_size + 52
    row, after = (
        vocabulary.compile(regex("(?s:.*)")).matcher().allowed(np.array([], np.int32), [last])
    )
    assert after.all()  # it is no draft that could be accepted
    assert row.size == model.tokenizer.vocab_size + 53
    assert row.any()
    assert not row[model.tokenizer.vocab_size :].any()


def test_json_is_one_line_and_a_space_follows_a_separator_alone(writer: Writer):
    grammar = compiled(writer, json_schema, PERSON)
    for before in ("{", '{"name": ', '{"name":"a"', '{"name": "a", ', '{"name":"a","tags": ["a"'):
        assert not any(text[:1].isspace() for text in allowed_texts(writer, grammar, before))
    for before in ('{"name":', '{"name":"a",'):
        assert {text for text in allowed_texts(writer, grammar, before) if text[:1].isspace()} > {
            " "
        }


def test_a_whole_number_has_at_most_64_bits(writer: Writer):
    schema = {"type": "array", "items": {"type": "integer"}}
    allowed = allowed_texts(writer, compiled(writer, json_schema, schema), "[" + 18 * "9")
    assert "9" not in allowed
    assert "]" in allowed
    values = {"default": {"type": "integer"}, "enum": [{"type": "integer"}, 10**30]}
    assert bounded(values) == values


def test_a_regex_is_matched_as_a_whole(writer: Writer):
    assert writer.text(writer.write(compiled(writer, regex, "(yes|no), [0-9]{3}!"))).endswith("!")


def test_a_lark_grammar_may_name_control_tokens(writer: Writer):
    grammar = compiled(writer, lark, "start: <think> /[ab]{3}/ </think>")
    assert len(writer.text(writer.write(grammar))) == len("<think>aaa</think>")


def test_penalties_do_not_bring_forbidden_tokens_back(writer: Writer):
    penalised = Sampling(temperature=0, repetition_penalty=1.9, presence_penalty=2)
    reply = writer.write(compiled(writer, regex, "a{30}"), penalised)
    assert writer.text(reply) == 30 * "a"


def test_drafts_of_a_shorter_vocabulary_are_masked(writer: Writer):
    sampler = Sampler(GREEDY, 2048, grammar=compiled(writer, regex, "a|bcd"))
    (token,) = np.array(sampler(mx.zeros((1, 300)), mx.array([], mx.int32), 0)).tolist()
    assert writer.model.tokenizer.decode([token]) == "a"


@pytest.mark.parametrize(
    ("kind", "source", "names"),
    [
        (json_schema, {"type": "text"}, "Invalid type: text"),
        (json_schema, {"type": "array", "uniqueItems": True}, "uniqueItems"),
        (
            json_schema,
            {"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}},
            "uniqueItems",
        ),
        (json_schema, {"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        (json_schema, {"$ref": "http://127.0.0.1:9/s.json"}, "does not fetch"),
        (json_schema, {"minimum": 3, "maximum": 2, "type": "integer"}, "minimum"),
        (json_schema, {"type": {"no", "json"}}, "not JSON serializable"),
        (json_schema, [{}], "object"),
        (regex, "(open", "unclosed group"),
        (lark, "begin: /a/", "no start rule"),
    ],
)
def test_a_grammar_that_cannot_be_enforced_is_refused_in_one_line(
    writer: Writer, kind: Callable[[Any], GrammarSource], source: Any, names: str
):
    with pytest.raises(Qwen35Error, match=f"^the .* cannot be used .*{names}") as raised:
        writer.vocabulary.compile(kind(source))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (regex("(ab){400000}"), "ababab"),
        (json_schema({"type": "string", "pattern": "^(a{1000}){1000}$"}), '"aaa'),
    ],
)
def test_a_grammar_beyond_a_limit_ends_the_reply_and_not_itself(model, source, text):
    """What llguidance can follow no further is not what it forbids: the reply says so."""
    vocabulary = GrammarVocabulary(model.tokenizer, model.network.config.vocab_size, model.eos)
    reply = np.array(model.tokenizer.encode(text), np.int32)

    def follow() -> None:
        matcher = vocabulary.compile(source).matcher()
        for count in range(len(reply) + 1):
            matcher.allowed(reply[:count])

    for _ in range(2):  # the second one finds no grammar that is used up
        with pytest.raises(Qwen35Error, match="cannot be followed further"):
            follow()
