"""Parsing a streamed reply: tags at chunk borders, odd replies, nothing lost."""

import pickle
import random
from collections.abc import Iterable
from typing import Any

import pytest

from qwen35_mlx.text import reply
from qwen35_mlx.text.reply import (
    Answer,
    ReplyContent,
    ReplyEvent,
    ReplyParser,
    Thinking,
    ToolCall,
    join_events,
)
from qwen35_mlx.text.template import ChatTemplate
from qwen35_mlx.text.tool_call import ParsedCall

CALL = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
NO_ARGUMENTS = "<tool_call>\n<function=now>\n</function>\n</tool_call>"


def parse(chunks: Iterable[str], *, thinking: bool = False) -> list[ReplyEvent]:
    parser = ReplyParser(thinking=thinking)
    events = [event for chunk in chunks for event in parser.push(chunk)]
    return merged([*events, *parser.finish()])


def merged(events: Iterable[ReplyEvent]) -> list[ReplyEvent]:
    """The events with neighbours of one type joined."""
    result: list[ReplyEvent] = []
    for event in events:
        if result and isinstance(event, Answer) and isinstance(result[-1], Answer):
            event = Answer(result.pop().text + event.text)  # type: ignore[union-attr]
        elif result and isinstance(event, Thinking) and isinstance(result[-1], Thinking):
            event = Thinking(result.pop().text + event.text)  # type: ignore[union-attr]
        result.append(event)
    return result


def call(name: str = "f", **arguments: object) -> ToolCall:
    return ToolCall(name, arguments)


A, T = Answer, Thinking

REPLIES = [
    # id, thinking, text, events
    ("empty", False, "", []),
    ("empty while thinking", True, "", []),
    ("answer alone", False, "Hello, world", [A("Hello, world")]),
    ("thinking and answer", True, "why\n</think>\n\nbecause", [T("why\n"), A("because")]),
    ("space at the start of thinking", True, " \n\nso</think>a", [T("so"), A("a")]),
    ("thinking that holds nothing", True, "\n\n</think>\n\nanswer", [A("answer")]),
    ("thinking never closed", True, "on and on </thin", [T("on and on </thin")]),
    ("thinking closed, no answer", True, "so</think>\n\n", [T("so")]),
    ("model opens thinking itself", False, "\n<think>\nso\n</think>\n\na", [T("so\n"), A("a")]),
    ("model opens what is open", True, "<think>\nso\n</think>\n\na", [T("so\n"), A("a")]),
    ("almost a think tag at the start", False, "<thinking>", [A("<thinking>")]),
    ("almost a think tag, cut", False, "<thin", [A("<thin")]),
    ("almost a think tag, cut, thinking", True, "<thin", [T("<thin")]),
    ("think tag in the answer", False, "a <think> b </think>", [A("a <think> b </think>")]),
    ("thinking again", True, "a</think>\n<think>b", [T("a"), A("<think>b")]),
    ("thinking after a call", False, f"{CALL}\n<think>b", [call(a="1"), A("<think>b")]),
    (
        "thinking after text and a call",
        False,
        f"x{CALL}\n<think>b",
        [A("x"), call(a="1"), A("\n<think>b")],
    ),
    ("second close", True, "a</think>b</think>c", [T("a"), A("b</think>c")]),
    ("broken close", True, "a</</think>b", [T("a</"), A("b")]),
    ("call alone", False, CALL, [call(a="1")]),
    ("call after thinking", True, f"so</think>\n\n{CALL}", [T("so"), call(a="1")]),
    ("call in thinking is thinking", True, f"so {CALL}</think>x", [T(f"so {CALL}"), A("x")]),
    ("call after text", False, f"Let me.\n\n{CALL}", [A("Let me.\n\n"), call(a="1")]),
    ("text after a call", False, f"{CALL}\n\nDone.", [call(a="1"), A("Done.")]),
    (
        "text around a call keeps its space",
        False,
        f"Now:{CALL}\nDone.",
        [A("Now:"), call(a="1"), A("\nDone.")],
    ),
    (
        "several calls",
        False,
        f"{CALL}\n{NO_ARGUMENTS}{CALL}\n",
        [call(a="1"), call("now"), call(a="1")],
    ),
    (
        "space between and after calls",
        False,
        f"x\n{CALL}\n\n{CALL}\ny{CALL}\n",
        [A("x\n"), call(a="1"), call(a="1"), A("\ny"), call(a="1")],
    ),
    ("text between calls", False, f"{CALL} and {CALL}", [call(a="1"), A("and "), call(a="1")]),
    ("tag in prose", False, "the `<tool_call>` tag", [A("the `<tool_call>` tag")]),
    ("tag in prose at the end", False, "write <tool_call>\n", [A("write <tool_call>\n")]),
    ("tag in prose twice", False, f"<tool_call> {CALL}", [A("<tool_call> "), call(a="1")]),
    (
        "tag in prose after a call",
        False,
        f"x{CALL}\n<tool_call> is",
        [A("x"), call(a="1"), A("\n<tool_call> is")],
    ),
    (
        "call in a fence is a call",
        False,
        f"```\n{CALL}\n```",
        [A("```\n"), call(a="1"), A("\n```")],
    ),
    ("call never closed", False, f"x {CALL[:-3]}", [A(f"x {CALL[:-3]}")]),
    ("call cut in its head", False, "<tool_call>\n<func", [A("<tool_call>\n<func")]),
    (
        "call with rubbish is text",
        False,
        "<tool_call>\n<function=f>\nrubbish</tool_call> more",
        [A("<tool_call>\n<function=f>\nrubbish</tool_call> more")],
    ),
    ("json body of rubbish is text", False, "<tool_call>{1}</tool_call>!", None),
    (
        "older json body",
        False,
        '<tool_call>\n{"name": "f", "arguments": {"a": [1]}}\n</tool_call>',
        [call(a=[1])],
    ),
    (
        "close tag in a value",
        False,
        CALL.replace("1", "a </tool_call> b"),
        [call(a="a </tool_call> b")],
    ),
    (
        "close tag in a json string",
        False,
        '<tool_call>{"name": "f", "arguments": {"a": "\\"</tool_call>"}}</tool_call>',
        [call(a='"</tool_call>')],
    ),
    ("comparison signs", False, "a < b <= c << d <t", [A("a < b <= c << d <t")]),
    ("wide text", True, "思考\u3000</think>\n\n答え😀", [T("思考\u3000"), A("答え😀")]),
]
REPLIES = [
    (name, thinking, text, [A(text)] if events is None else events)
    for name, thinking, text, events in REPLIES
]


@pytest.mark.parametrize(
    ("thinking", "text", "events"),
    [pytest.param(*case, id=name) for name, *case in REPLIES],
)
def test_a_reply_splits_the_same_however_it_is_cut(
    thinking: bool, text: str, events: list[ReplyEvent]
):
    assert parse([text], thinking=thinking) == events
    assert parse(text, thinking=thinking) == events
    for cut in range(len(text)):
        assert parse([text[:cut], text[cut:]], thinking=thinking) == events


PIECES = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<function=f>", "</function>"),
    *("<parameter=a>", "</parameter>", CALL, NO_ARGUMENTS, "\n", "  ", "text", "<", "{", '"', "}"),
    '{"name": "f", "arguments": {}}',
]


@pytest.mark.parametrize("seed", range(400))
def test_random_tag_soup_splits_the_same_however_it_is_cut(
    seed: int, monkeypatch: pytest.MonkeyPatch
):
    draw = random.Random(seed)
    text = "".join(draw.choices(PIECES, k=draw.randrange(14)))
    thinking = draw.random() < 0.5
    bodies = recorded_calls(monkeypatch)
    whole = parse([text], thinking=thinking)
    monkeypatch.undo()
    for _ in range(4):
        cuts = sorted(draw.choices(range(len(text) + 1), k=draw.randrange(12)))
        chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert parse(chunks, thinking=thinking) == whole
    left = "".join(
        f"<tool_call>{bodies.pop(0)}</tool_call>" if isinstance(event, ToolCall) else event.text
        for event in whole
    )
    assert bodies == []
    tags = ("<think>", "</think>")
    assert bare(left, *tags) == bare(text, *tags), "only space and think tags may go"


def recorded_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The bodies of the tool calls that are parsed from now on."""
    bodies: list[str] = []
    real = reply.parse_call

    def parse_call(body: str, schemas: Any) -> Any:
        parsed = real(body, schemas)
        if isinstance(parsed, ParsedCall):
            bodies.append(body)
        return parsed

    monkeypatch.setattr(reply, "parse_call", parse_call)
    return bodies


def bare(text: str, *tags: str) -> str:
    for tag in tags:
        text = text.replace(tag, "")
    return "".join(text.split())


# Latency


@pytest.mark.parametrize("thinking", [True, False])
def test_a_chunk_without_a_tag_comes_out_at_once(thinking: bool):
    parser = ReplyParser(thinking=thinking)
    event_type = Thinking if thinking else Answer
    for chunk in ["Well", ", ", "so it is.\n\n", "1 > 0"]:
        assert parser.push(chunk) == [event_type(chunk)]


def test_only_the_possible_start_of_a_tag_is_held_back():
    parser = ReplyParser(thinking=True)
    assert parser.push("so <") == [T("so ")]
    assert parser.push("/thin") == []
    assert parser.push("g") == [T("</thing")]
    assert parser.push("</think") == []
    assert parser.push(">\n\nyes") == [A("yes")]


def test_a_tag_in_prose_comes_out_with_the_next_letter():
    parser = ReplyParser(thinking=False)
    assert parser.push("the <tool_call>") == [A("the ")]
    assert parser.push(" ") == []
    assert parser.push("tag") == [A("<tool_call> tag")]


def test_a_call_comes_out_when_it_closes():
    parser = ReplyParser(thinking=False)
    assert parser.push(CALL[:-1]) == []
    assert parser.push(">") == [call(a="1")]


def test_a_long_call_costs_in_proportion_to_its_length():
    """The text that each chunk searches again stays short."""
    parser = ReplyParser(thinking=False)
    parser.push("<tool_call>\n<function=f>\n<parameter=a>\n")
    for _ in range(1000):
        parser.push("0123456789 < ")
        assert len(parser._buffer) < 20
    (event,) = parser.push("\n</parameter>\n</function>\n</tool_call>")
    assert isinstance(event, ToolCall)
    assert event.arguments == {"a": "0123456789 < " * 1000}


# The content


def test_content_of_a_whole_reply():
    events = parse([f"why\n</think>\n\nLet me.\n\n{CALL}\n"], thinking=True)
    content = join_events(events)
    assert content == ReplyContent("Let me.", "why", (call(a="1"),))
    assert content.for_template() == {
        "role": "assistant",
        "content": "Let me.",
        "reasoning_content": "why",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": "1"}}}],
    }


def test_text_around_tool_calls_is_joined_before_them():
    content = join_events(parse([f"Now:{CALL}\nand{NO_ARGUMENTS}\nDone."]))
    assert content == ReplyContent("Now:\nand\nDone.", "", (call(a="1"), call("now")))


def test_a_message_without_thinking_has_empty_reasoning():
    """Otherwise templates look for </think> in the content, and would cut this answer."""
    content = join_events(parse(["The tag </think> ends thinking."]))
    assert content.for_template() == {
        "role": "assistant",
        "content": "The tag </think> ends thinking.",
        "reasoning_content": "",
    }


def test_a_message_renders_back_to_the_reply(template: ChatTemplate):
    question = [{"role": "user", "content": "What time is it?"}]
    prompt = template.render(question, thinking=True)
    value = "line 1\n\n    indented </tool_call> {'x': \"é\"}\n"
    text = f"I look.\n</think>\n\nOne moment.\n\n{CALL.replace('1', value)}\n{NO_ARGUMENTS}"
    events = parse([text], thinking=template.opens_thinking(prompt))
    message = join_events(events).for_template()
    rendered = template.render([*question, message], add_generation_prompt=False)
    assert rendered == f"{prompt}{text}<|im_end|>\n"


def test_events_and_content_are_values_that_pickle():
    events = parse([f"a</think>b{CALL}"], thinking=True)
    assert pickle.loads(pickle.dumps(events)) == events
    content = join_events(events)
    assert pickle.loads(pickle.dumps(content)) == content


@pytest.mark.parametrize(("thinking", "text"), [case[1:3] for case in REPLIES])
def test_pending_is_what_the_end_would_give_and_changes_nothing(thinking: bool, text: str) -> None:
    parser = ReplyParser(thinking=thinking)
    events: list[ReplyEvent] = []
    for end, char in enumerate(text, 1):
        events += parser.push(char)
        assert merged([*events, *parser.pending()]) == parse([text[:end]], thinking=thinking)
    assert merged([*events, *parser.finish()]) == parse([text], thinking=thinking)
    assert parser.pending() == []
