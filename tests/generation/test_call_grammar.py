"""Texts that grammars of tool calls allow, chosen at random: the parser finds the calls in them.

By default few. For more:

    QWEN35_CALLS=500 scripts/test tests/generation/test_call_grammar.py
"""

import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
import numpy as np
import pytest

from qwen35_mlx import demo
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.grammar import Grammar, GrammarVocabulary
from qwen35_mlx.text.grammar_source import json_schema
from qwen35_mlx.text.reply import Answer, ReplyParser, ToolCall
from qwen35_mlx.text.reply_events import ReplyEvent
from qwen35_mlx.text.reply_grammar import ReplyContent, reply_grammar
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.text.tokenizer import Tokenizer
from tests.random_schemas import random_tool

CALLS = int(os.environ.get("QWEN35_CALLS", "60"))
# Where several tokens are allowed, these are taken more often: they are where a call could break.
RISKY = ("<", "</", ">", "/", "=", "\n", "param", "function", "tool", "_call", '"', "\\", "}", "{")


class Writer:
    """Random replies of the demo model's vocabulary."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.from_files(TextFiles.from_folder(demo.folder()))
        named = [self.tokenizer.token_id(name) for name in ("<|im_end|>", "<|endoftext|>")]
        self.eos = {i for i in named if i is not None}
        self.vocabulary = GrammarVocabulary(self.tokenizer, self.tokenizer.vocab_size, self.eos)
        # Otherwise, texts without bounds would not end.
        self.closing = self.tokenizer.encode("\n</parameter>\n")
        self.risky = {i for text in RISKY for i in self.tokenizer.encode(text)}

    def grammar(self, content: ReplyContent, *, thinking: bool = False) -> Grammar:
        source = reply_grammar(content, self.tokenizer, self.eos, thinking=thinking)
        return self.vocabulary.compile(source)

    def write(self, grammar: Grammar, rng: random.Random, most: int = 600) -> str:
        matcher, reply = grammar.matcher(), np.array([], np.int32)
        while reply.size < most:
            allowed = np.flatnonzero(matcher.allowed(reply)[0]).tolist()
            inner = [i for i in allowed if i not in self.eos]
            if not inner or (len(inner) < len(allowed) and rng.random() < 0.7):
                return self.tokenizer.decode(reply.tolist())
            if rng.random() < 0.1:
                rows = matcher.allowed(reply, self.closing)
                if all(rows[row, token] for row, token in enumerate(self.closing)):
                    reply = np.append(reply, np.array(self.closing, np.int32))
                    continue
            risky = [i for i in inner if i in self.risky]
            token = rng.choice(risky if risky and rng.random() < 0.4 else inner)
            reply = np.append(reply, np.int32(token))
        return self.tokenizer.decode(reply.tolist()) + "..."

    def accepts(self, grammar: Grammar, text: str) -> bool:
        """Whether a text is a whole reply."""
        ids = np.array(self.tokenizer.encode_prompt(text), np.int32)
        rows = grammar.matcher().allowed(np.array([], np.int32), ids.tolist())
        fits = all(rows[row, token] for row, token in enumerate(ids.tolist()))
        return fits and all(rows[-1, i] for i in self.eos)


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer()


def parsed(text: str, tools: Sequence[Mapping[str, Any]], **options: Any) -> list[ReplyEvent]:
    parser = ReplyParser(**{"thinking": False, "tools": tools, **options})
    return [*parser.push(text), *parser.finish()]


def function(properties: Mapping[str, Any], *required: str, name: str = "f") -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": [*required]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def call(name: str = "f", **arguments: str) -> str:
    """The text of a call."""
    values = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{values}</function>\n</tool_call>"


@pytest.mark.parametrize("seed", range(0, CALLS, 2))
def test_every_text_that_a_grammar_allows_is_read_as_calls_that_fit_the_schemas(writer, seed):
    tools = [random_tool(seed), random_tool(seed + 1)]
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    grammar, rng = writer.grammar(ReplyContent(tools=tools)), random.Random(seed)
    for _ in range(2):
        text = writer.write(grammar, rng)
        events = parsed(text, tools)
        assert events, text
        for event in events:
            assert isinstance(event, ToolCall), (text, event)
            jsonschema.validate(dict(event.arguments), schemas[event.name])
            assert event.arguments.keys() <= schemas[event.name]["properties"].keys()


TEXT = function({"x": {"type": "string"}}, "x")


@pytest.mark.parametrize(
    "value",
    [
        "",
        " a ",
        "\n",
        "two\nlines",
        "\nlast\n",
        "<b>x</b>",
        "</para",
        "<tool_",
        "5",
        'a "b" \\',
        "é",
    ],
)
def test_a_raw_text_comes_back_as_it_is(writer, value):
    text = call(x=value)
    assert writer.accepts(writer.grammar(ReplyContent(tools=[TEXT])), text)
    assert parsed(text, [TEXT]) == [ToolCall("f", {"x": value})]


@pytest.mark.parametrize("tag", ["</parameter>", "<function=", "<parameter=", "</function>"])
def test_a_raw_text_holds_no_tag(writer, tag):
    grammar = writer.grammar(ReplyContent(tools=[TEXT]))
    assert not writer.accepts(grammar, call(x=f"a\n{tag}b"))
    assert writer.accepts(grammar, call(x=f"a\n{tag[:-1]}b"))


def test_a_string_within_json_holds_no_tag(writer):
    tool = function({"x": {"type": "array", "items": {"type": "string"}}}, "x")
    grammar = writer.grammar(ReplyContent(tools=[tool]))
    assert writer.accepts(grammar, call(x='["<b>a</b> < 5", "<p>"]'))
    for tag in ("</parameter>", "<function=f>", "<parameter=x>"):
        assert not writer.accepts(grammar, call(x=f'["{tag}"]'))


def test_required_parameters_are_there_once_in_order_and_no_others(writer):
    tool = function({"a": {"type": "integer"}, "b": {}, "c": {"type": "boolean"}}, "a", "c")
    grammar = writer.grammar(ReplyContent(tools=[tool]))
    for fits in (call(a="1", c="true"), call(a="-2", b="any", c="false")):
        assert writer.accepts(grammar, fits)
    for wrong in (
        call(a="1"),
        call(c="true"),
        call(c="true", a="1"),
        call(a="1", c="true", d="x"),
        call(a="1.5", c="true"),
        call(a="1", c="maybe"),
        call("g", a="1", c="true"),
        "Sure. " + call(a="1", c="true"),
    ):
        assert not writer.accepts(grammar, wrong)


def test_numbers_that_come_back_as_text_are_not_written(writer):
    tool = function({"n": {"type": "number"}, "i": {"type": "integer"}})
    grammar = writer.grammar(ReplyContent(tools=[tool]))
    assert writer.accepts(grammar, call(n="-3.25", i="12"))
    assert not writer.accepts(grammar, call(n="1e999"))
    assert not writer.accepts(grammar, call(i="9" * 20))


@pytest.mark.parametrize(
    ("pattern", "fits", "wrong"),
    [
        ("^ab$", ["ab"], ["xab", "abx", "a"]),
        ("b", ["b", "abc"], ["ac"]),
        ("^a|c$", ["a", "ab", "xc"], ["ba", "cb"]),
        ("(a|b)[|]$", ["a|", "xb|"], ["a", "|"]),
        (r"^\$\d+$", ["$5"], ["5", "$x"]),
        (r"\$", ["a$b"], ["ab"]),
        ("a/b", ["xa/b"], ["ab"]),
    ],
)
def test_a_pattern_is_searched_for_in_a_raw_text(writer, pattern, fits, wrong):
    tool = function({"x": {"type": "string", "pattern": pattern}})
    grammar = writer.grammar(ReplyContent(tools=[tool]))
    for value in fits:
        assert writer.accepts(grammar, call(x=value)), value
    for value in wrong:
        assert not writer.accepts(grammar, call(x=value)), value


def test_references_and_unions_bound_a_raw_text(writer):
    schema = {"anyOf": [{"$ref": "#/$defs/unit"}, {"type": "null"}, {"type": "integer"}]}
    tool = function({"x": schema})
    unit = {"allOf": [{"enum": ["km", "mile", 5]}, {"type": "string", "maxLength": 3}]}
    tool["function"]["parameters"]["$defs"] = {"unit": unit}
    grammar = writer.grammar(ReplyContent(tools=[tool]))
    assert [v for v in ("km", "mile", "null", "5", "x") if writer.accepts(grammar, call(x=v))] == [
        "km",
        "null",
    ]


def test_one_call_or_several(writer):
    several = writer.grammar(ReplyContent(tools=[TEXT]))
    one = writer.grammar(ReplyContent(tools=[TEXT], several=False))
    twice = "\n".join([call(x="a"), call(x="b")])
    assert writer.accepts(several, twice)
    assert not writer.accepts(one, twice)
    assert not writer.accepts(several, "")


def test_thinking_comes_first_and_is_never_left_open(writer):
    answer = json_schema({"const": "yes"})
    grammar = writer.grammar(ReplyContent(answer), thinking=True)
    for before in ("", "So </thin", "It calls <tool_call> and </tool_call>\n"):
        for after in ("", "\n\n"):
            text = f'{before}</think>{after}"yes"'
            assert writer.accepts(grammar, text), text
            events = parsed(text, [], thinking=True, calls=False)
            assert [event.text for event in events if isinstance(event, Answer)] == ['"yes"']
    for wrong in ("So it is", 'So "yes"', '</think>\n\n\n"yes"', "</think>", "a<|im_end|></think>"):
        assert not writer.accepts(grammar, wrong), wrong


def test_a_closing_tag_in_letters_does_not_end_the_thinking(writer):
    """The parser would take it for the end, and what follows for the answer."""
    grammar = writer.grammar(ReplyContent(json_schema({"const": 1})), thinking=True)
    ids = np.array(writer.tokenizer.encode("a </think"), np.int32)
    last = writer.tokenizer.encode(">")
    assert not grammar.matcher().allowed(ids)[0, last].any()


def test_an_answer_or_calls(writer):
    content = ReplyContent(json_schema({"type": "boolean"}), [TEXT])
    for thinking in (False, True):
        grammar = writer.grammar(content, thinking=thinking)
        before = "Hm.</think>\n\n" if thinking else ""
        assert writer.accepts(grammar, before + "true")
        assert writer.accepts(grammar, before + call(x="a"))
        assert not writer.accepts(grammar, before + "true" + call(x="a"))


def test_without_calls_a_text_is_free(writer):
    for thinking in (False, True):
        grammar = writer.grammar(ReplyContent(), thinking=thinking)
        before = "<tool_call>\n</think>\n\n" if thinking else ""
        for fits in ("", "Hello <b> & <tool_", "a <|box_start|> b"):
            assert writer.accepts(grammar, before + fits)
        for wrong in (call(x="a"), "a <tool_call>", "<function=f>"):
            assert not writer.accepts(grammar, before + wrong)
        letters = np.array(writer.tokenizer.encode_prompt(before + "a <tool_call"), np.int32)
        closing = writer.tokenizer.encode(">")
        assert not grammar.matcher().allowed(letters)[0, closing].any()


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        (function({}, name="a<b"), "a tool has the name 'a<b'"),
        (function({}, name=" a"), "a tool has the name ' a'"),
        ({"type": "function"}, "a tool has the name None"),
        (function({"a>": {}}), "the tool 'f' has a parameter 'a>'"),
        (function({}, "x"), "the tool 'f' requires 'x', which is none of its properties"),
        (function({"x": {"const": "</function>"}}), "a parameter may be"),
        (
            function({"x": {"type": "array", "uniqueItems": True}}),
            r"^the schema of the tool 'f' cannot be used \(failed to .*uniqueItems\"\]\): correct",
        ),
        (function({"x": {"type": "string", "pattern": "(?=a)b"}}), "schema of the tool 'f'"),
    ],
)
def test_a_tool_that_cannot_be_forced_is_refused_in_one_line(writer, tool, words):
    with pytest.raises(Qwen35Error, match=words) as raised:
        writer.grammar(ReplyContent(tools=[TEXT | {"x": 1}, tool]))
    assert "\n" not in str(raised.value)


def test_a_grammar_is_compiled_once(writer):
    content = ReplyContent(json_schema({"const": 1}), [TEXT])
    assert writer.grammar(content) is writer.grammar(content)
    assert writer.grammar(content) is not writer.grammar(content, thinking=True)


def test_a_grammar_of_more_than_the_bound_is_refused(writer):
    with pytest.raises(Qwen35Error, match=r"the JSON schema has 30\d,\d{3} characters, and"):
        writer.grammar(ReplyContent(json_schema({"enum": ["x" * 300_000]})))
