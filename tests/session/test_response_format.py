"""Replies that are bound to a form: answers in a schema, forced calls, and how they end.

By default few random schemas and tools. For more:

    QWEN35_SCHEMAS=500 scripts/test tests/session/test_response_format.py
"""

import json
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from qwen35_mlx import demo as demo_model
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.decode_group import DecodeGroup
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Done, Reply, ToolCall
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.reply_options import ReplyOptions
from tests.random_schemas import PERSON, random_schema, random_tool
from tests.session.durable_child import done_of
from tests.session.scripted import reply_with

SCHEMAS = int(os.environ.get("QWEN35_SCHEMAS", "2"))
ASKED = [{"role": "user", "content": "What is the weather in Paris?"}]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 400}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
TWO_CALLS = "".join(
    f"<tool_call>\n<function=get_weather>\n<parameter=city>\n{city}\n</parameter>\n"
    "</function>\n</tool_call>\n"
    for city in ("Paris", "Rome")
)
ANYTHING: dict[str, Any] = {"type": "grammar", "grammar": "start: <[*]>*"}


# A few tokens.
SHORT = {"type": "array", "items": {"enum": ["a", "bc"]}, "minItems": 1, "maxItems": 2}


def in_schema(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a template that leaves out the tools: they make prompts long."""
    path = shutil.copytree(demo_model.folder(), tmp_path_factory.mktemp("terse") / "demo")
    template = path / "chat_template.jinja"
    text = template.read_text()
    assert text.count("{%- if tools -%}") == 1
    template.write_text(text.replace("{%- if tools -%}", "{%- if false -%}"))
    return path


@pytest.fixture(scope="module")
def demo(folder: Path) -> Generator[Model]:
    with load(folder, dtype="float32", mtp="off") as model:
        yield model


@pytest.fixture(scope="module")
def drafting(folder: Path) -> Generator[Model]:
    with load(folder, dtype="float32", mtp=3) as model:
        yield model


def person(reply: Reply) -> Any:
    assert reply.finish_reason == "stop"
    value = json.loads(reply.text)
    jsonschema.validate(value, PERSON)
    return value


@pytest.mark.parametrize("seed", range(SCHEMAS))
def test_an_answer_fits_a_random_schema_with_and_without_thinking_and_drafts(demo, drafting, seed):
    schema, model = random_schema(seed), drafting if seed // 2 % 2 else demo
    options = {"thinking": seed % 2 > 0, "seed": seed, "max_tokens": 800}
    reply = model.generate(ASKED, response_format=in_schema(schema), **options)
    assert reply.finish_reason == "stop"
    assert bool(reply.thinking) == options["thinking"]
    jsonschema.validate(json.loads(reply.text), schema)


@pytest.mark.parametrize("seed", range(SCHEMAS))
def test_forced_calls_fit_the_tools(demo, drafting, seed):
    tools = [random_tool(2 * seed + 5), random_tool(2 * seed + 6)]
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    model = drafting if seed % 2 else demo
    reply = model.generate(
        ASKED,
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=seed % 3 > 0,
        thinking=False,
        max_tokens=300 if SCHEMAS > 2 else 80,
        seed=seed,
    )
    if reply.finish_reason == "length":  # a text without bounds may have none
        assert len(reply.tool_calls) < 2 or seed % 3
        return
    assert reply.finish_reason == "tool_calls"
    assert not reply.text
    assert reply.tool_calls
    for call in reply.tool_calls:
        jsonschema.validate(dict(call.arguments), schemas[call.name])


@pytest.mark.parametrize("thinking", [False, True])
def test_a_grammar_of_anything_and_drafts_change_no_token(demo, drafting, thinking):
    options = GREEDY | {"thinking": thinking, "max_tokens": 30}
    free = demo.generate(ASKED, **options)
    for model in (demo, drafting):
        bound = model.generate(ASKED, response_format=ANYTHING, **options)
        assert (bound.thinking, bound.text, bound.finish_reason) == (
            free.thinking,
            free.text,
            free.finish_reason,
        )


def test_thinking_before_a_form_is_that_before_a_free_answer(demo):
    free = demo.generate(ASKED, thinking=True, **GREEDY)
    bound = demo.generate(ASKED, thinking=True, response_format=in_schema(PERSON), **GREEDY)
    assert bound.thinking == free.thinking != ""
    person(bound)


def test_drafts_change_no_token_of_a_bound_reply(demo, drafting):
    for options in (
        {"response_format": in_schema(PERSON)},
        {"tools": [WEATHER], "tool_choice": "required"},
    ):
        options = {**GREEDY, **options, "temperature": 0.7, "seed": 3}
        plain, drafted = (model.generate(ASKED, **options) for model in (demo, drafting))
        assert (plain.text, plain.tool_calls) == (drafted.text, drafted.tool_calls)
        assert drafted.drafts
        assert drafted.drafts.passes


@pytest.mark.parametrize(
    ("form", "answers"),
    [
        (
            {"type": "regex", "pattern": "yes, [0-9]!"},
            {f"{a}, {n}!" for a in ("yes", "no") for n in range(10)},
        ),
        ({"type": "grammar", "grammar": 'start: a "c"\na: "a" | "b"'}, {"ac", "bc"}),
        ({"type": "json_schema", "schema": {"const": [1, "é"]}}, {'[1, "é"]', '[1,"é"]'}),
    ],
)
def test_forms_of_other_kinds(demo, form, answers):
    assert demo.generate(ASKED, response_format=form, thinking=False, **GREEDY).text in answers
    assert demo.complete("Hello", response_format=form, **GREEDY).text in answers


def test_a_completion_keeps_its_white_space(demo):
    form = {"type": "regex", "pattern": " [a-z]{3}\n"}
    text = demo.complete("Hello", response_format=form, **GREEDY).text
    assert text[0] == " "
    assert text[-1] == "\n"


def test_any_object_and_any_text(demo):
    form, options = {"type": "json_object"}, GREEDY | {"max_tokens": 8}
    reply = demo.generate(ASKED, response_format=form, thinking=False, **options)
    assert reply.text.startswith("{")
    free = demo.generate(ASKED, **GREEDY)
    assert demo.generate(ASKED, response_format={"type": "text"}, **GREEDY).text == free.text


@pytest.fixture(scope="module")
def whole(demo: Model) -> Reply:
    """A bound answer."""
    return demo.generate(ASKED, response_format=in_schema(PERSON), thinking=False, **GREEDY)


def test_max_tokens_cuts_an_answer_and_says_so(demo, whole):
    options = GREEDY | {"max_tokens": whole.usage.reply_tokens - 3}
    cut = demo.generate(ASKED, response_format=in_schema(PERSON), thinking=False, **options)
    assert cut.finish_reason == "length"
    assert whole.text.startswith(cut.text)
    assert whole.text != cut.text


def test_a_stop_string_ends_a_bound_answer(demo, whole):
    options = GREEDY | {"response_format": in_schema(PERSON), "thinking": False}
    cut = demo.generate(ASKED, stop='", "tags', **options)
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index('", "tags')]


def test_a_chat_goes_on_from_its_snapshots_under_a_grammar(demo, tmp_path: Path):
    """After a restart, a bound reply is the one that a chat without a library gives."""
    options = {"response_format": in_schema(SHORT), "max_tokens": 400}
    kept = {"thinking": True, "temperature": 0.0}
    with Library(tmp_path) as library, Chat(demo, library=library, **kept) as chat:
        done_of(chat.send("Who are you?", **options))
        number = chat.conversation.id
    with Library(tmp_path) as library, Chat(demo, library=library, conversation=number) as chat:
        done = done_of(chat.send("And what is your name?", **options))
        again = done_of(chat.retry(**options))
    fresh = Chat(demo, **kept)
    done_of(fresh.send("Who are you?", **options))
    whole = done_of(fresh.send("And what is your name?", **options))
    assert done.usage.cached_tokens > 0
    assert done.message == again.message == whole.message
    jsonschema.validate(json.loads(done.message["content"]), SHORT)


def test_a_named_tool_is_called_once(demo):
    choice = {"type": "function", "function": {"name": "get_time"}}
    flat = {"type": "function", "name": "get_time"}  # as the newer of OpenAI's interfaces has it
    for thinking, form in ((True, choice), (False, flat)):
        options = GREEDY | {"tools": [WEATHER, TIME], "thinking": thinking}
        reply = demo.generate(ASKED, tool_choice=form, **options)
        assert reply.tool_calls == (ToolCall("get_time", {}),)
        assert reply.finish_reason == "tool_calls"
        assert bool(reply.thinking) == thinking


def test_no_call_is_written_where_none_may_be():
    options = GREEDY | {"tools": [WEATHER], "thinking": False, "max_tokens": 16}
    with load("demo", dtype="float32", mtp="off") as model:
        free = model.generate(ASKED, **options)
        reply = model.generate(ASKED, tool_choice="none", **options)
    assert free.text.startswith("<tool_call>")  # the start of a call
    assert reply.usage.prompt_tokens == free.usage.prompt_tokens
    assert reply.text
    assert "<tool_call>" not in reply.text


def test_an_answer_that_reads_like_a_call_is_none(model, monkeypatch):
    reply_with(monkeypatch, model, TWO_CALLS)
    for choice, tools in ((None, None), ("none", [WEATHER])):
        reply = model.generate(ASKED, response_format=ANYTHING, tool_choice=choice, tools=tools)
        assert reply.text == TWO_CALLS.strip()
        assert not reply.tool_calls


@pytest.mark.parametrize("tools", [None, [WEATHER]])
def test_a_reply_ends_after_its_one_call(model, monkeypatch, tools):
    reply_with(monkeypatch, model, TWO_CALLS)
    *_, done = model.stream(ASKED, tools=tools)
    assert len(done.message["tool_calls"]) == 2
    *events, done = model.stream(ASKED, tools=tools, parallel_tool_calls=False)
    assert isinstance(done, Done)
    assert [e for e in events if isinstance(e, ToolCall)] == [
        ToolCall("get_weather", {"city": "Paris"})
    ]
    assert len(done.message["tool_calls"]) == 1
    assert done.finish_reason == "tool_calls"
    first = TWO_CALLS[: len(TWO_CALLS) // 2]
    assert done.usage.reply_tokens <= len(model.tokenizer.encode(first))


def test_one_wrapper_with_two_calls_gives_the_first(model, monkeypatch):
    """Only the end of the reply tells that these are calls."""
    inner = TWO_CALLS.replace("</tool_call>\n<tool_call>\n", "")
    reply_with(monkeypatch, model, inner)
    assert len(model.generate(ASKED, tools=[WEATHER]).tool_calls) == 2
    reply = model.generate(ASKED, tools=[WEATHER], parallel_tool_calls=False)
    assert reply.tool_calls == (ToolCall("get_weather", {"city": "Paris"}),)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"response_format": {"type": "xml"}}, "response_format has the type 'xml': give 'text'"),
        ({"response_format": {}}, "response_format has the type None"),
        ({"response_format": "json"}, "response_format is 'json': give a mapping"),
        ({"response_format": {"type": "json_schema"}}, "has None as its 'schema'"),
        (
            {"response_format": {"type": "json_schema", "json_schema": 5}},
            "has None as its 'schema'",
        ),
        ({"response_format": {"type": "regex", "pattern": 5}}, "has 5 as its 'pattern'"),
        ({"response_format": {"type": "regex", "pattern": "("}}, "the regex cannot be used"),
        ({"response_format": {"type": "grammar", "grammar": "x"}}, "the Lark grammar cannot be"),
        ({"response_format": in_schema({"type": "x"})}, "the JSON schema cannot be used"),
        ({"tool_choice": "required"}, "tool_choice is 'required', and there are no tools"),
        ({"tool_choice": "always"}, "tool_choice is 'always': give 'auto'"),
        ({"tool_choice": {"type": "x"}, "tools": [TIME]}, "tool_choice is {'type': 'x'}: give"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [TIME]},
            "tool_choice names 'f', which is not among the tools: get_time",
        ),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls is 'no': give True or False"),
    ],
)
def test_a_form_that_cannot_be_is_refused_before_anything_is_computed(model, options, words):
    chat = Chat(model)
    for call in (lambda: model.stream(ASKED, **options), lambda: chat.send("Hi", **options)):
        with pytest.raises(Qwen35Error, match=words) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert chat.messages == ()


def test_thinking_that_a_budget_ends_is_followed_by_the_form(demo, drafting):
    options = GREEDY | {"response_format": in_schema(SHORT), "thinking": True}
    for budget in (0, 3):
        replies = [
            model.generate(ASKED, thinking_budget=budget, **options) for model in (demo, drafting)
        ]
        assert replies[0].text == replies[1].text
        assert "directly now" in replies[0].thinking
        jsonschema.validate(json.loads(replies[0].text), SHORT)


def test_replies_in_shared_passes_keep_to_their_own_forms(demo):
    forms = [in_schema(SHORT), {"type": "regex", "pattern": "(no, ){6}no"}]
    options = GREEDY | {"thinking": False}
    alone = [demo.generate(ASKED, response_format=form, **options).text for form in forms]
    group = DecodeGroup(demo.network)
    group.wanted = True
    turns = []
    for form in forms:
        given = ReplyOptions.of(options | {"response_format": form})
        turn = demo.turn(ASKED, demo.make_cache(), given)
        turn.group = group
        turns.append(turn)
    running = [turn.run() for turn in turns]
    while running:
        running = [events for events in running if next(events, None) is not None]
    assert [turn.content.text for turn in turns] == alone
