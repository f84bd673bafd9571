"""The forms in which models write tool calls: what is accepted, what is repaired, what is text.

Tools on offer: `f(x: integer, y)`, `save(path, content)`, `now()`.
"""

import os
import random
import re
from collections.abc import Iterable

import pytest

from qwen35_mlx.text.reply import Answer, ReplyEvent, ReplyParser, ToolCall
from qwen35_mlx.text.tool_call import parameter_schemas, parse_call

MUTATIONS = int(os.environ.get("QWEN35_MUTATIONS", "400"))
TOOLS = [
    {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}, "y": {}}}},
    {"name": "save", "parameters": {"properties": {"path": {}, "content": {"type": "string"}}}},
    {"name": "now", "parameters": {"properties": {}}},
]
S, C, E = "<tool_call>", "</tool_call>", "</function>"


def p(key: str, value: str) -> str:
    return f"<parameter={key}>\n{value}\n</parameter>\n"


def function(name: str, *parameters: str) -> str:
    return f"<function={name}>\n{''.join(parameters)}{E}"


def wrapped(name: str, *parameters: str) -> str:
    return f"{S}\n{function(name, *parameters)}\n{C}"


X1, X2 = p("x", "1"), p("x", "2")
F1, F2 = wrapped("f", X1), wrapped("f", X2)
DOC = f"Write:\n{wrapped('save', p('path', 'a'), p('content', 'b'))}\nDone."
NEXT = "<parameter=content>\nq\n</parameter>\n"
OBJECT = '{"name": "f", "arguments": {"x": 1}}'


def f(x: int) -> ToolCall:
    return ToolCall("f", {"x": x})


def save(path: str, content: str) -> ToolCall:
    return ToolCall("save", {"path": path, "content": content})


PQ = save("p", "q")
NOW = ToolCall("now", {})

ACCEPTED: dict[str, tuple[str, list[ToolCall | str]]] = {
    "one call": (F1, [f(1)]),
    "on one line": (f"{S}<function=f><parameter=x>1</parameter>{E}{C}", [f(1)]),
    "no parameters": (wrapped("now"), [NOW]),
    "two calls": (F1 + "\n" + F2, [f(1), f(2)]),
    "blank lines between tags": (F1.replace("\n", "\n\n"), [f(1)]),
    "a name that is not on offer": (wrapped("g", X1), [ToolCall("g", {"x": "1"})]),
    "a parameter that is not on offer": (wrapped("f", p("z", "1")), [ToolCall("f", {"z": "1"})]),
    "an object": (f"{S}\n{OBJECT}\n{C}", [f(1)]),
    "a value about calls": (wrapped("save", p("path", "p"), p("content", DOC)), [save("p", DOC)]),
    "a value about calls that comes first": (
        wrapped("save", p("content", DOC), p("path", "p")),
        [save("p", DOC)],
    ),
    "two calls about calls": (
        2 * wrapped("save", p("path", "p"), p("content", DOC)),
        2 * [save("p", DOC)],
    ),
    "a value that is a call": (wrapped("save", p("path", "p"), p("content", F1)), [save("p", F1)]),
    "a value with calls in calls": (
        wrapped("save", p("path", "p"), p("content", wrapped("save", p("content", DOC)))),
        [save("p", wrapped("save", p("content", DOC)))],
    ),
    "a value with a closing tag in a line": (
        wrapped("save", p("path", "p"), p("content", "a </parameter> b")),
        [save("p", "a </parameter> b")],
    ),
    "a value with all closing tags in a string": (
        wrapped("save", p("path", "p"), p("content", f"s = (\n'</parameter>{E}{C}')\nt")),
        [save("p", f"s = (\n'</parameter>{E}{C}')\nt")],
    ),
    "a value with </function> and </tool_call>": (
        wrapped("save", p("path", "p"), p("content", f"a\n{E}\n{C}\nb")),
        [save("p", f"a\n{E}\n{C}\nb")],
    ),
    "a value with a parameter": (
        wrapped("save", p("content", p("path", "p") + "z"), p("path", "r")),
        [save("r", p("path", "p") + "z")],
    ),
    "an object with a call in a string": (
        f'{S}{{"name": "f", "arguments": {{"y": "{S}<function=f>{C}"}}}}{C}',
        [ToolCall("f", {"y": f"{S}<function=f>{C}"})],
    ),
    "</parameter> at the end of the last line": (
        wrapped("save", p("path", "p"), "<parameter=content>\na\nb</parameter>\n"),
        [save("p", "a\nb")],
    ),
    "one value twice": (wrapped("f", X1, X1), [f(1)]),
    "the start of a tag in a value": (
        wrapped("f", p("y", "a <param")),
        [ToolCall("f", {"y": "a <param"})],
    ),
    "<tool_call> in a value": (
        wrapped("f", p("y", f"a {S} b")),
        [ToolCall("f", {"y": f"a {S} b"})],
    ),
}
REPAIRED: dict[str, tuple[str, list[ToolCall | str]]] = {
    "no </parameter> before a parameter": (
        f"{S}\n<function=save>\n<parameter=path>\np\n{NEXT}{E}\n{C}",
        [PQ],
    ),
    "the same on one line": (
        f"{S}<function=save><parameter=path>p<parameter=content>q</parameter>{E}{C}",
        [PQ],
    ),
    "no </parameter> at all": (
        f"{S}\n<function=save>\n<parameter=path>\np\n<parameter=content>\nq\n{E}\n{C}",
        [PQ],
    ),
    "no </parameter> in the first of two calls": (
        f"{S}\n<function=save>\n<parameter=path>\np\n{NEXT}{E}\n{C}\n{F2}",
        [PQ, f(2)],
    ),
    "no </parameter> before </function>": (
        f"{S}\n<function=f>\n<parameter=x>\n1\n{E}\n{C}",
        [f(1)],
    ),
    "no </parameter> between two calls": (
        f"{S}\n<function=f>\n<parameter=x>\n1\n{E}\n{C}\n{F2}",
        [f(1), f(2)],
    ),
    "no </function> between two calls": (f"{S}\n<function=f>\n{X1}{C}\n{F2}", [f(1), f(2)]),
    "no </tool_call> between two calls": (f"{S}\n{function('f', X1)}\n{F2}", [f(1), f(2)]),
    "no </function>": (f"{S}\n<function=f>\n{X1}{C}", [f(1)]),
    "no </function> on one line": (f"{S}<function=f><parameter=x>1</parameter>{C}", [f(1)]),
    "no </function> without parameters": (f"{S}\n<function=now>\n{C}", [NOW]),
    "no </function> nor </tool_call> before a call": (f"{S}\n<function=f>\n{X1}{F2}", [f(1), f(2)]),
    "no last </tool_call>": (f"{S}\n{function('f', X1)}\n", [f(1)]),
    "a part of the last </tool_call>": (f"{S}\n{function('f', X1)}\n</tool", [f(1)]),
    "no last </tool_call> after a call": (f"{F1}\n{S}\n{function('f', X2)}", [f(1), f(2)]),
    "no last </tool_call>, about calls": (
        wrapped("save", p("path", "p"), p("content", DOC)).removesuffix(C),
        [save("p", DOC)],
    ),
    "no last </tool_call>, a parameter within a value": (
        wrapped("save", p("content", f"a\n{p('path', 'p')}z"), p("path", "r")).removesuffix(C),
        [save("r", f"a\n{p('path', 'p')}z")],
    ),
    "no </tool_call>, then text": (f"{S}\n{function('f', X1)}\n\nDone.", [f(1), "Done."]),
    "</function> twice": (f"{S}\n{function('f', X1)}\n{E}\n{C}", [f(1)]),
    "</function> twice, then a call": (f"{S}\n{function('f', X1)}\n{E}\n{C}\n{F2}", [f(1), f(2)]),
    "two functions": (f"{S}\n{function('f', X1)}\n{function('f', X2)}\n{C}", [f(1), f(2)]),
    "two functions, </function> missing": (
        f"{S}\n<function=f>\n{X1}{function('f', X2)}\n{C}",
        [f(1), f(2)],
    ),
    "two functions, then text": (
        f"{S}\n{function('f', X1)}\n{function('now')}\n{C}\nDone.",
        [f(1), NOW, "Done."],
    ),
    "a bare function": (function("f", X1), [f(1)]),
    "a bare function without parameters": (function("now"), [NOW]),
    "a bare function after text": (f"I look.\n{function('f', X1)}", ["I look.\n", f(1)]),
    "two bare functions": (f"{function('f', X1)}\n{function('f', X2)}", [f(1), f(2)]),
    "a bare function and </tool_call>": (f"{function('f', X1)}\n{C}", [f(1)]),
    "a bare function after a call": (f"{F1}\n{function('f', X2)}", [f(1), f(2)]),
    "an object without </tool_call>": (f"{S}\n{OBJECT}", [f(1)]),
    "two objects, one </tool_call>": (f"{S}\n{OBJECT}\n{S}\n{OBJECT}\n{C}", [f(1), f(1)]),
}
CUT = wrapped("save", p("path", "p"), p("content", DOC))
TEXT = {
    "a value that ends with the reply": f"{S}\n<function=f>\n<parameter=y>\nso",
    "a value and its tag end the reply": f"{S}\n<function=f>\n{X1}",
    "a file about calls that is cut after a call in it": CUT[: CUT.index(C) + len(C)],
    "a file about calls that is cut after a function": CUT[: CUT.index(E) + len(E)],
    "a bare function that is not on offer": function("g", X1),
    "a bare function in a line": f"Write {function('f', X1)}",
    "a bare tag in prose": "<function=f> opens a call",
    "a bare tag of no name": "<function=>\n<parameter=x>",
    "no </parameter>, and no such parameter": F1.replace(X1, f"<parameter=y>\na\n{p('z', 'b')}"),
    "no </parameter>, and a name not on offer": wrapped("g", f"<parameter=x>\na\n{p('y', 'b')}"),
    "no </tool_call>, and a name not on offer": f"{S}\n{function('g', X1)}",
    "no </parameter> in a line of a value": f"{S}\n<function=save>\n<parameter=path>\na {NEXT}"
    f"{E}\n{C}",
    "a parameter within a value that the call lacks": wrapped(
        "save", f"<parameter=path>\np\n{NEXT}</parameter>\n"
    ),
    "two values of one name": wrapped("f", X1, X2),
    "two values of one name in an object": f'{S}{{"name": "f", "arguments": '
    f'{{"x": 1, "x": 2}}}}{C}',
    "no </parameter>, then text": f"{S}\n<function=f>\n<parameter=y>\na\n{E}\n{C}\nb",
    "no </parameter>, then a call and text": f"{S}\n<function=f>\n<parameter=y>\na\n{E}\n{C}{F1}b",
    "no </parameter>, then a part of one": f"{S}\n<function=f>\n<parameter=y>\na\n{E}\n{C}\n</para",
    "</parameter> twice": wrapped("f", X1 + "</parameter>\n"),
    "a parameter without its tag": wrapped("save", p("path", "p"), "q\n</parameter>\n"),
    "a value that only opens a parameter": wrapped("save", p("content", "write <parameter=k>")),
    "a value that only opens a function": wrapped("save", p("content", "write <function=k>")),
    "an object cut": f"{S}\n{OBJECT[:-1]}",
    "an object cut before </tool_call>": f"{S}\n{OBJECT[:-1]}\n{C}",
    "an empty value without </parameter>": f"{S}\n<function=f>\n<parameter=y>\n{E}\n{C}",
    "two functions, the first without parameters": f"{S}\n<function=f>\n{function('f', X1)}\n{C}",
    "the tag of a call alone": f"{S} starts a call and {C} ends it",
    "words in a function": f"{S}\n<function=f>\nx = 1\n{E}\n{C}",
    "a call in words in a function": f"{S}\n<function=save>\nsee {F1}",
    "no <function=NAME>": f"{S}\n{X1}{E}\n{C}",
}
FORMS = [
    *((f"accepted: {name}", *form) for name, form in ACCEPTED.items()),
    *((f"repaired: {name}", *form) for name, form in REPAIRED.items()),
    *((f"text: {name}", form, [form]) for name, form in TEXT.items()),
]


def read(chunks: Iterable[str], tools: list[dict[str, object]] = TOOLS) -> list[ToolCall | str]:
    parser = ReplyParser(thinking=False, tools=tools)
    events = [event for chunk in chunks for event in parser.push(chunk)]
    return joined([*events, *parser.finish()])


def joined(events: list[ReplyEvent]) -> list[ToolCall | str]:
    found: list[ToolCall | str] = []
    for event in events:
        if isinstance(event, ToolCall):
            found.append(event)
        elif found and isinstance(last := found[-1], str):
            found[-1] = last + event.text
        else:
            found.append(event.text)
    return found


@pytest.mark.parametrize(("text", "events"), [pytest.param(*f[1:], id=f[0]) for f in FORMS])
def test_a_form_is_read_the_same_at_every_split(text: str, events: list[ToolCall | str]) -> None:
    assert read([text]) == events
    assert read(text) == events
    for cut in range(len(text)):
        assert read([text[:cut], text[cut:]]) == events


@pytest.mark.parametrize("form", REPAIRED)
def test_nothing_is_repaired_when_nothing_is_on_offer(form: str) -> None:
    text, events = REPAIRED[form]
    calls = [event for event in read([text], []) if isinstance(event, ToolCall)]
    assert len(calls) < sum(isinstance(event, ToolCall) for event in events)


def test_a_form_is_cut_anywhere_without_a_shortened_argument() -> None:
    whole = {"1", "2", 1, 2, "p", "q", DOC, "a", "b"}
    for name, text, events in FORMS:
        expected = {v for e in events if isinstance(e, ToolCall) for v in e.arguments.values()}
        for end in range(len(text)):
            for event in read([text[:end]]):
                if isinstance(event, ToolCall):
                    assert set(event.arguments.values()) <= expected | whole, (name, text[:end])


def test_many_missing_tags_take_a_time_that_grows_with_the_text() -> None:
    """After a bounded number of guesses the text stays text; else each one searches all of it."""
    slip = f"{S}\n<function=save>\n<parameter=path>\np\n{NEXT}{E}\n{C}"
    assert read([slip * 20]) == [PQ] * 20
    assert read([slip * 2000]) == [slip * 2000]


def test_text_after_a_call_and_tags_in_prose_come_out_at_once() -> None:
    parser = ReplyParser(thinking=False, tools=TOOLS)
    assert [type(event) for event in parser.push(F1 + "\nDone. a < b")] == [ToolCall, Answer]
    assert parser.push(" the <function=f> tag") == [Answer(" the <function=f> tag")]
    assert parser.push("\n<function=g> tag") == [Answer("\n<function=g> tag")]
    assert parser.push(f"\n{S}\n<function=g>\nrubbish ") == [
        Answer(f"\n{S}\n<function=g>\nrubbish ")
    ]


TAGS = [S, C, E, "<function=f>", "<function=save>", "<parameter=x>", "<parameter=path>"]
TAGS += ["<parameter=content>", "</parameter>"]
VALUES = ["p", "alpha\nbeta", DOC, "a </parameter> b", f"a\n{E}\n{C}\nb", "", "  x", F1, '{"a": 1}']


def mutated(draw: random.Random) -> tuple[str, list[str]]:
    """One to three calls with a few tags missing, doubled, added or swapped, and their values."""
    values = draw.choices(VALUES, k=2 * draw.randint(1, 3))
    calls = [
        wrapped("save", p("path", path), p("content", content))
        for path, content in zip(values[::2], values[1::2], strict=True)
    ]
    text = "\n".join(calls)
    for _ in range(draw.randint(1, 3)):
        spans = [(at, at + len(tag)) for tag in TAGS for at in starts(text, tag)]
        start, end = draw.choice(spans) if spans else (0, 0)
        at = draw.randrange(len(text) + 1)
        match draw.randrange(6):
            case 0 | 1:
                text = text[:start] + text[end:]
            case 2:
                text = text[:end] + draw.choice(["", "\n"]) + text[start:]
            case 3:
                text = text[:start] + draw.choice(TAGS) + text[end:]
            case 4:
                text = text[:at] + draw.choice([*TAGS, "<", ">", "\n", '"', "{"]) + text[at:]
            case _:
                text = text[:at]
    return text, values


def starts(text: str, tag: str) -> list[int]:
    return [at for at in range(len(text)) if text.startswith(tag, at)]


def is_whole(text: str, key: str, value: str) -> bool:
    """Whether the text has the value between its tag and one that may end it."""
    for at in starts(text, opening := f"<parameter={key}>"):
        at += len(opening)
        for before in ("\n", ""):
            for after in ("\n", ""):
                if text.startswith(before + value + after, at):
                    rest = text[at + len(before + value + after) :].lstrip()
                    if rest.startswith(("</parameter>", "<parameter=", E)):
                        return True
    return False


def is_balanced(value: str) -> bool:
    """Whether no parameter or function opened in a value stays open."""
    return all(
        len(re.findall(opening, value)) <= value.count(closing)
        for opening, closing in (
            (r"<parameter=[^<>\n]+>", "</parameter>"),
            (r"<function=[^<>\n]+>", E),
        )
    )


def test_mutated_calls_never_have_an_argument_that_the_text_did_not_carry_whole() -> None:
    calls = 0
    for seed in range(MUTATIONS):
        draw = random.Random(seed)
        text, _ = mutated(draw)
        events = read([text])
        cut = draw.randrange(len(text) + 1)
        assert read([text[:cut], text[cut:]]) == events, text
        for event in events:
            if isinstance(event, ToolCall):
                calls += 1
                for key, value in event.arguments.items():
                    assert is_whole(text, key, str(value)), (seed, text, event)
                    assert is_balanced(str(value)), (seed, text, event)
    assert calls > MUTATIONS / 4


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"$ref": "#/$defs/count"}, "3", 3),
        ({"$ref": "#/$defs/either"}, "null", None),
        ({"$ref": "#/$defs/circle"}, "3", "3"),
        ({"$ref": "#/$defs/missing"}, "3", "3"),
        ({"$ref": "#/$defs/a~1b"}, "[1]", [1]),
        ({"anyOf": [{"$ref": "#/$defs/count"}, {"type": "null"}]}, "4", 4),
        ({"oneOf": [{"type": "array"}, {"type": "object"}]}, '{"a": 1}', {"a": 1}),
        ({"allOf": [{"type": ["string", "integer"]}, {"type": "integer"}]}, "5", 5),
        ({"allOf": [{"type": "number"}, {"minimum": 1}]}, "1.5", 1.5),
        ({"enum": [1, 2]}, "2", 2),
        ({"enum": [0.5, None]}, "null", None),
        ({"enum": ["1", "2"]}, "2", "2"),
        ({"const": 7}, "7", 7),
        ({"const": True}, "True", True),
        ({"type": "integer", "nullable": True}, "null", None),
        ({"type": "string", "nullable": True}, "3", "3"),
        ({"items": {"type": "integer"}}, "[1]", [1]),
        ({"properties": {"a": {}}}, '{"a": 1}', {"a": 1}),
        ({"anyOf": [{"type": "integer"}, {}]}, "3", "3"),
        (True, "3", "3"),
    ],
)
def test_a_value_gets_the_type_that_its_schema_implies(
    schema: object, value: str, expected: object
) -> None:
    definitions = {
        "count": {"type": "integer"},
        "either": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/count"}]},
        "circle": {"anyOf": [{"$ref": "#/$defs/circle"}, {"$ref": "#/$defs/circle"}]},
        "a/b": {"type": "array"},
    }
    tool = {"name": "t", "parameters": {"properties": {"v": schema}, "$defs": definitions}}
    call = parse_call(function("t", p("v", value)), parameter_schemas([tool]))
    assert call is not None
    assert call.arguments == {"v": expected}
    assert type(call.arguments["v"]) is type(expected)
