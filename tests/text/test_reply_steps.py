"""A reply is read in a number of steps that grows with its length, not with its square."""

import pytest

from qwen35_mlx.text import reply
from qwen35_mlx.text.reply import Answer, ReplyParser, ToolCall
from qwen35_mlx.text.tool_call import parse_call

CLOSE = "</tool_call>"
STORMS = {
    "a value": ("<function=f>\n<parameter=a>\n", CLOSE, "\n</parameter>\n</function>\n"),
    "a string": ('{"name": "f", "arguments": {"a": "', CLOSE, '"}}'),
    "escaped quotes": ('{"name": "f", "arguments": {"a": "', '\\"' + CLOSE, '"}}'),
    "many values": (
        "<function=f>",
        f"<parameter=a>\n{CLOSE}\n</parameter>",
        "\n</function>\n",
    ),
    "closing tags of parameters": (
        "<function=f>\n<parameter=a>\n",
        f"</parameter> x{CLOSE}",
        "\n</parameter>\n</function>\n",
    ),
}


@pytest.mark.parametrize("storm", STORMS)
@pytest.mark.parametrize("step", [7, 1 << 30])
def test_a_call_full_of_closing_tags_is_parsed_once(storm: str, step: int, monkeypatch) -> None:
    parsed: list[int] = []

    def counted(body: str, schemas):
        parsed.append(len(body))
        return parse_call(body, schemas)

    monkeypatch.setattr(reply, "parse_call", counted)
    head, middle, tail = STORMS[storm]
    text = f"<tool_call>{head}{middle * 300}{tail}{CLOSE}"
    parser = ReplyParser(thinking=False)
    events = [e for at in range(0, len(text), step) for e in parser.push(text[at : at + step])]
    assert [type(event) for event in events] == [ToolCall]
    assert isinstance(events[0], ToolCall)
    assert sum(str(v).count(CLOSE) for v in events[0].arguments.values()) >= 1
    assert len(parsed) == 1


def test_a_long_wait_for_the_head_of_a_call_keeps_its_spaces() -> None:
    parser = ReplyParser(thinking=False)
    events = [e for piece in ["<tool_call>", *[" \n"] * 400, "x"] for e in parser.push(piece)]
    assert events == [Answer("<tool_call>" + " \n" * 400 + "x")]
