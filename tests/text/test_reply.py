"""Splitting a streamed reply: tags at chunk borders, odd replies, nothing lost."""

import pickle
import random
from collections.abc import Iterable

import pytest

from qwen35_mlx.text.reply import (
    AnswerText,
    ReplyParser,
    ReplyPart,
    ThinkingText,
    ToolCallText,
    message_from,
)
from qwen35_mlx.text.template import ChatTemplate

CALL = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
NO_ARGUMENTS = "<tool_call>\n<function=now>\n</function>\n</tool_call>"


def parse(chunks: Iterable[str], *, thinking: bool = False) -> list[ReplyPart]:
    parser = ReplyParser(thinking=thinking)
    parts = [part for chunk in chunks for part in parser.push(chunk)]
    return joined([*parts, *parser.finish()])


def joined(parts: Iterable[ReplyPart]) -> list[ReplyPart]:
    """Neighbours of one kind as one."""
    result: list[ReplyPart] = []
    for part in parts:
        if result and isinstance(part, AnswerText) and isinstance(result[-1], AnswerText):
            part = AnswerText(result.pop().text + part.text)  # type: ignore[union-attr]
        elif result and isinstance(part, ThinkingText) and isinstance(result[-1], ThinkingText):
            part = ThinkingText(result.pop().text + part.text)  # type: ignore[union-attr]
        result.append(part)
    return result


def call(raw: str = CALL, name: str = "f", **arguments: object) -> ToolCallText:
    return ToolCallText(name, arguments, raw)


A, T = AnswerText, ThinkingText

REPLIES = [
    # id, thinking, text, parts
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
        [call(a="1"), call(NO_ARGUMENTS, "now"), call(a="1")],
    ),
    (
        "space between and after calls",
        False,
        f"x\n{CALL}\n\n{CALL}\ny{CALL}\n",
        [A("x\n"), call(a="1"), call(a="1"), A("\ny"), call(a="1")],
    ),
    ("text between calls", False, f"{CALL} and {CALL}", [call(a="1"), A("and "), call(a="1")]),
    ("tag spoken of", False, "the `<tool_call>` tag", [A("the `<tool_call>` tag")]),
    ("tag spoken of at the end", False, "write <tool_call>\n", [A("write <tool_call>\n")]),
    ("tag spoken of twice", False, f"<tool_call> {CALL}", [A("<tool_call> "), call(a="1")]),
    (
        "tag spoken of after a call",
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
        [call('<tool_call>\n{"name": "f", "arguments": {"a": [1]}}\n</tool_call>', a=[1])],
    ),
    (
        "close tag in a value",
        False,
        CALL.replace("1", "a </tool_call> b"),
        [call(CALL.replace("1", "a </tool_call> b"), a="a </tool_call> b")],
    ),
    (
        "close tag in a json string",
        False,
        '<tool_call>{"name": "f", "arguments": {"a": "\\"</tool_call>"}}</tool_call>',
        [
            call(
                '<tool_call>{"name": "f", "arguments": {"a": "\\"</tool_call>"}}</tool_call>',
                a='"</tool_call>',
            )
        ],
    ),
    ("comparison signs", False, "a < b <= c << d <t", [A("a < b <= c << d <t")]),
    ("wide text", True, "思考\u3000</think>\n\n答え😀", [T("思考\u3000"), A("答え😀")]),
]
REPLIES = [
    (name, thinking, text, [A(text)] if parts is None else parts)
    for name, thinking, text, parts in REPLIES
]


@pytest.mark.parametrize(
    ("thinking", "text", "parts"),
    [pytest.param(*reply, id=name) for name, *reply in REPLIES],
)
def test_a_reply_splits_the_same_however_it_is_cut(
    thinking: bool, text: str, parts: list[ReplyPart]
):
    assert parse([text], thinking=thinking) == parts
    assert parse(text, thinking=thinking) == parts
    for cut in range(len(text)):
        assert parse([text[:cut], text[cut:]], thinking=thinking) == parts


PIECES = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<function=f>", "</function>"),
    *("<parameter=a>", "</parameter>", CALL, NO_ARGUMENTS, "\n", "  ", "text", "<", "{", '"', "}"),
    '{"name": "f", "arguments": {}}',
]


@pytest.mark.parametrize("seed", range(400))
def test_random_tag_soup_splits_the_same_however_it_is_cut(seed: int):
    draw = random.Random(seed)
    text = "".join(draw.choices(PIECES, k=draw.randrange(14)))
    thinking = draw.random() < 0.5
    whole = parse([text], thinking=thinking)
    for _ in range(4):
        cuts = sorted(draw.choices(range(len(text) + 1), k=draw.randrange(12)))
        chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert parse(chunks, thinking=thinking) == whole
    kept = "".join(part.raw if isinstance(part, ToolCallText) else part.text for part in whole)
    tags = ("<think>", "</think>")
    assert bare(kept, *tags) == bare(text, *tags), "only space and think tags may go"


def bare(text: str, *tags: str) -> str:
    for tag in tags:
        text = text.replace(tag, "")
    return "".join(text.split())


# Latency


@pytest.mark.parametrize("thinking", [True, False])
def test_a_chunk_without_a_tag_comes_out_at_once(thinking: bool):
    parser = ReplyParser(thinking=thinking)
    kind = ThinkingText if thinking else AnswerText
    for chunk in ["Well", ", ", "so it is.\n\n", "1 > 0"]:
        assert parser.push(chunk) == [kind(chunk)]


def test_only_the_possible_start_of_a_tag_is_held_back():
    parser = ReplyParser(thinking=True)
    assert parser.push("so <") == [T("so ")]
    assert parser.push("/thin") == []
    assert parser.push("g") == [T("</thing")]
    assert parser.push("</think") == []
    assert parser.push(">\n\nyes") == [A("yes")]


def test_a_tag_spoken_of_comes_out_with_the_next_letter():
    parser = ReplyParser(thinking=False)
    assert parser.push("the <tool_call>") == [A("the ")]
    assert parser.push(" ") == []
    assert parser.push("tag") == [A("<tool_call> tag")]


def test_a_call_comes_out_when_it_closes():
    parser = ReplyParser(thinking=False)
    assert parser.push(CALL[:-1]) == []
    assert parser.push(">") == [call(a="1")]


def test_a_long_call_costs_in_proportion_to_its_length():
    """What is searched again with each chunk must stay short."""
    parser = ReplyParser(thinking=False)
    parser.push("<tool_call>\n<function=f>\n<parameter=a>\n")
    for _ in range(1000):
        parser.push("0123456789 < ")
        assert len(parser._buffer) < 20
    (part,) = parser.push("\n</parameter>\n</function>\n</tool_call>")
    assert isinstance(part, ToolCallText)
    assert part.arguments == {"a": "0123456789 < " * 1000}


# The message


def test_message_of_a_whole_reply():
    parts = parse([f"why\n</think>\n\nLet me.\n\n{CALL}\n"], thinking=True)
    assert message_from(parts) == {
        "role": "assistant",
        "content": "Let me.",
        "reasoning_content": "why",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": "1"}}}],
    }


def test_message_without_thinking_says_so():
    """Else templates look for </think> in the content, and would cut this answer."""
    message = message_from(parse(["The tag </think> ends thinking."]))
    assert message == {
        "role": "assistant",
        "content": "The tag </think> ends thinking.",
        "reasoning_content": "",
    }


def test_message_renders_back_to_the_reply(template: ChatTemplate):
    question = [{"role": "user", "content": "What time is it?"}]
    prompt = template.render(question, thinking=True)
    value = "line 1\n\n    indented </tool_call> {'x': \"é\"}\n"
    reply = f"I look.\n</think>\n\nOne moment.\n\n{CALL.replace('1', value)}\n{NO_ARGUMENTS}"
    message = message_from(parse([reply], thinking=template.opens_thinking(prompt)))
    rendered = template.render([*question, message], add_generation_prompt=False)
    assert rendered == f"{prompt}{reply}<|im_end|>\n"


def test_parts_are_values_that_pickle():
    parts = parse([f"a</think>b{CALL}"], thinking=True)
    assert pickle.loads(pickle.dumps(parts)) == parts


@pytest.mark.parametrize(("thinking", "text"), [case[1:3] for case in REPLIES])
def test_what_is_held_back_is_what_the_end_would_give_and_asking_changes_nothing(
    thinking: bool, text: str
) -> None:
    parser = ReplyParser(thinking=thinking)
    parts: list[ReplyPart] = []
    for end, char in enumerate(text, 1):
        parts += parser.push(char)
        assert joined([*parts, *parser.held()]) == parse([text[:end]], thinking=thinking)
    assert joined([*parts, *parser.finish()]) == parse([text], thinking=thinking)
    assert parser.held() == []
