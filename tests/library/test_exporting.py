"""Export and import: the round trip is exact, and malformed input is an error with its field."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx import json_text
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.json_text import JsonTextError, read_json, write_json
from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message, Usage
from qwen35_mlx.library.exporting import to_json, to_markdown
from qwen35_mlx.library.importing import from_json
from qwen35_mlx.library.library import Library

CALL = {
    "type": "function",
    "function": {"name": "f", "arguments": {"x": [1, 2.5, "ü\n", None, True], "y": {}}},
}
FULL = Conversation(
    id=5,
    title="Everything — 😀",
    messages=(
        Message(10, None, "system", "Be brief.", created=1.25),
        Message(11, 10, "user", "Line\nbreaks\r\n\ttabs \x1b \x00 end", created=1700000000.123456),
        Message(
            12,
            11,
            "assistant",
            "",
            thinking="Hm </think> 你好",
            tool_calls=(CALL, CALL),
            finish_reason="tool_calls",
            model="org/m",
            usage=Usage(10**6, 0, 2**40, 0.1, 1e-9, 0, reasoning_tokens=7),
            thinking_seconds=0.0,
            created=2.0,
        ),
        Message(13, 12, "tool", "42", created=3.0),
        Message(14, 13, "assistant", "Half", state="partial", created=4.0),
        Message(15, 13, "assistant", "Stopped", state="cancelled", created=5.0),
        Message(16, 13, "assistant", "", state="failed", error="no memory", created=6.0),
        Message(17, None, "user", "Another start", created=7.0),
    ),
    leaf=15,
    settings=ChatSettings(
        system="S",
        thinking=True,
        max_tokens=100,
        seed=2**62,
        sampling={"temperature": 0.1, "top_k": None, "min_p": 1},
        template_arguments={"reasoning_effort": "low", "documents": [{"a": 1}]},
        thinking_budget=0,
        repetition_guard=False,
    ),
    model="org/m",
    created=0.5,
    updated=8.0,
)


def test_the_round_trip_is_exact(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        library.create(title="shifts the ids")
        first = library.conversation(library.add_conversation(FULL))
        second = library.conversation(library.add_conversation(from_json(to_json(first))))
    assert to_json(first) == to_json(second) == to_json(FULL)
    assert from_json(to_json(first)) == from_json(to_json(FULL))
    assert [message.id for message in second.messages] == list(range(9, 17))
    read = from_json(to_json(FULL))
    assert read.settings == FULL.settings
    assert (read.title, read.model, read.leaf) == (FULL.title, FULL.model, 6)
    for message, original in zip(read.messages, FULL.messages, strict=True):
        assert message.usage == original.usage
        assert message.tool_calls == original.tool_calls
        assert message.thinking_seconds == original.thinking_seconds
        assert (message.content, message.thinking) == (original.content, original.thinking)
    assert [message.parent for message in read.messages] == [None, 1, 2, 3, 4, 4, 4, None]


def test_a_draft_is_not_exported() -> None:
    empty = Conversation(id=1, title="", draft="do not share")
    assert "share" not in to_json(empty)
    assert from_json(to_json(empty)) == Conversation(id=0, title="")


def export_with(path: str, value: Any) -> str:
    """The JSON of FULL with one field set to a value, or removed if the value is `...`."""
    document = json.loads(to_json(FULL))
    *names, last = [int(name) if name.isdigit() else name for name in path.split(".")]
    parent: Any = document
    for name in names:
        parent = parent[name]
    if value is ...:
        del parent[last]
    else:
        parent[last] = value
    return write_json(document)


def nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", ..., "'format'"),
        ("format", "other", "'format'"),
        ("format", 3, "'format'"),
        ("version", ..., "'version' is missing"),
        ("version", "1", "'version' is text: give a whole number"),
        ("version", 2, "'version' is 2"),
        ("version", True, "'version' is true or false"),
        ("title", ..., "'title' is missing"),
        ("title", None, "'title' is null: give text"),
        ("model", 1, "'model'"),
        ("created", "now", "'created' is text: give a number"),
        ("created", ..., "'created' is missing"),
        ("updated", None, "'updated'"),
        ("updated", 10**400, "'updated' is too large"),
        ("settings", [], "'settings' is a list: give an object"),
        ("settings.system", 1, "'settings.system' is a whole number: give text or null"),
        ("settings.thinking", 1, "'settings.thinking' is a whole number: give true or false or"),
        ("settings.max_tokens", 1.5, "'settings.max_tokens' is a number"),
        ("settings.max_tokens", True, "'settings.max_tokens'"),
        ("settings.template_arguments", [], "'settings.template_arguments' is a list"),
        ("settings.thinking_budget", "5", "'settings.thinking_budget' is text"),
        ("settings.repetition_guard", 0, "'settings.repetition_guard' is a whole number"),
        ("settings.seed", 2**64, "'settings.seed' is too large"),
        ("settings.sampling", 1, "'settings.sampling'"),
        ("settings.sampling.top_p", "x", "'settings.sampling.top_p' is text: give a number or"),
        ("settings.extra", 1, "'settings.extra' is unknown"),
        ("selected", 99, "'selected' is 99: no message"),
        ("selected", "1", "'selected' is text: give a whole number or null"),
        ("selected", True, "'selected'"),
        ("extra", 1, "'extra' is unknown"),
        ("messages", ..., "'messages' is missing"),
        ("messages", {}, "'messages' is an object: give a list"),
        ("messages.0", "hi", "'messages[0]' is text: give an object"),
        ("messages.1.id", ..., "'messages[1].id' is missing"),
        ("messages.1.id", 1, "'messages[1].id' is 1"),
        ("messages.1.id", 0, "'messages[1].id' is 0"),
        ("messages.1.id", True, "'messages[1].id'"),
        ("messages.1.id", 2.0, "'messages[1].id' is a number: give a whole number"),
        ("messages.1.parent", ..., "'messages[1].parent' is missing"),
        ("messages.1.parent", 2, "'messages[1].parent' is 2: no message before"),
        ("messages.1.parent", 7, "'messages[1].parent' is 7: no message before"),
        ("messages.1.role", ..., "'messages[1].role' is missing"),
        ("messages.1.role", "robot", "'messages[1].role' is 'robot': give one of 'system', "),
        ("messages.1.content", ..., "'messages[1].content' is missing"),
        ("messages.1.content", ["part"], "'messages[1].content' is a list: give text"),
        ("messages.1.content", "\ud800", "'messages[1].content' has half a surrogate pair"),
        ("messages.1.created", ..., "'messages[1].created' is missing"),
        ("messages.1.created", True, "'messages[1].created' is true or false"),
        ("messages.2.thinking", None, "'messages[2].thinking'"),
        ("messages.2.tool_calls", {}, "'messages[2].tool_calls'"),
        ("messages.2.tool_calls.1", 1, "'messages[2].tool_calls[1]' is a whole number"),
        ("messages.2.tool_calls.1.function", ..., "'messages[2].tool_calls[1].function' is miss"),
        ("messages.2.tool_calls.1.function.name", 1, "tool_calls[1].function.name'"),
        ("messages.2.tool_calls.1.function.arguments", "{}", "function.arguments' is text: give"),
        ("messages.2.tool_calls.1.function.arguments.z", nested(3000), "nested too deeply"),
        ("messages.2.tool_calls.1.function.arguments.\ud800", 1, "half a surrogate pair"),
        ("messages.2.state", "done", "'messages[2].state' is 'done'"),
        ("messages.2.finish_reason", "tired", "'messages[2].finish_reason' is 'tired'"),
        ("messages.2.finish_reason", 1, "'messages[2].finish_reason'"),
        ("messages.2.figures", [], "'messages[2].figures' is a list: give an object or null"),
        ("messages.2.figures.reply_tokens", ..., "figures.reply_tokens' is missing"),
        ("messages.2.figures.reply_tokens", 1.5, "figures.reply_tokens' is a number"),
        ("messages.2.figures.peak_memory", 2**70, "figures.peak_memory' is too large"),
        ("messages.2.figures.extra", 1, "'messages[2].figures.extra' is unknown"),
        ("messages.2.thinking_seconds", "1", "'messages[2].thinking_seconds'"),
        ("messages.2.error", None, "'messages[2].error'"),
        ("messages.2.extra", None, "'messages[2].extra' is unknown"),
    ],
)
def test_the_error_names_the_malformed_field(path: str, value: Any, message: str) -> None:
    with pytest.raises(Qwen35Error) as raised:
        from_json(export_with(path, value))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "'format'"),
        ("null", "'format'"),
        ('{"format": "x", "format": "y"}', "'format' is there twice"),
        ('{"format": NaN}', "'format'"),
        ('{"format": 1e999}', "'format'"),
        ('{"format": ' + "9" * 10000 + "}", "not JSON"),
        ("[" * 100000, "not JSON"),
        ("[" * 100000 + "]" * 100000, "nested too deeply"),
        ("[" * 500 + "]" * 500, "'format'"),
        ('{"messages": [], "format": "\\ud800"}', "'format' has half a surrogate pair"),
    ],
)
def test_a_file_that_is_no_export_is_an_error(text: str, message: str) -> None:
    with pytest.raises(Qwen35Error, match=message) as raised:
        from_json(text)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_a_byte_order_mark_is_ignored() -> None:
    assert from_json("\ufeff" + to_json(FULL)).title == FULL.title


def test_markdown_holds_the_selected_path() -> None:
    text = to_markdown(FULL)
    assert text.startswith("# Everything — 😀\n\n")
    assert text.index("## System\n\nBe brief.") < text.index("## You\n\nLine")
    assert "> *Thinking*\n>\n> Hm </think> 你好\n" in text
    assert text.count('"name": "f"') == 2
    assert "## Tool\n\n42\n" in text
    assert text.endswith("## Assistant\n\nStopped\n\n*(stopped)*\n")
    for absent in ("Half", "Another start", "no memory", "## System\n\nS\n"):
        assert absent not in text
    assert "*(failed: no memory)*" in to_markdown(FULL.with_leaf(16))
    assert "*(interrupted)*" in to_markdown(FULL.with_leaf(14))


def test_markdown_begins_with_the_system_prompt_of_the_settings() -> None:
    assert "## System\n\nS\n\n## You\n\nAnother start\n" in to_markdown(FULL.with_leaf(17))


@pytest.mark.parametrize(
    ("content", "closed"),
    [
        ("```python\nx = 1", "```python\nx = 1\n```"),
        ("```\na\n```", "```\na\n```"),
        ("````\n```\na", "````\n```\na\n````"),
        ("~~~\n```\na", "~~~\n```\na\n~~~"),
        ("```\na\n```\n```js\nb\n", "```\na\n```\n```js\nb\n\n```"),
        ("`a` and ```b```", "`a` and ```b```"),
        ("```\n``` not the end\nx", "```\n``` not the end\nx\n```"),
        ("```\nx\n`````", "```\nx\n`````"),
    ],
)
def test_an_open_code_fence_is_closed(content: str, closed: str) -> None:
    conversation = Conversation(1, "T", (Message(1, None, "user", content),), 1)
    assert to_markdown(conversation).endswith(f"## You\n\n{closed}\n")


def test_the_fence_of_a_tool_call_is_longer_than_its_backticks() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "````"}}}
    message = Message(1, None, "assistant", "", tool_calls=(call,))
    text = to_markdown(Conversation(1, "T", (message,), 1))
    assert text.count("`````") == 2


def call_with(arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(
    "value",
    [
        *(nested(depth) for depth in (55, 64, 300, 900, 1900)),
        float("inf"),
        -float("inf"),
        1e308,
        int("9" * 400),
        -(2**63) - 1,
        {"": {"": [{}, [], ""]}},
    ],
    ids=lambda value: f"{type(value).__name__} {write_json(value)[:20]}",
)
def test_what_a_model_wrote_is_stored_and_exported_exactly(tmp_path: Path, value: Any) -> None:
    message = Message(1, None, "assistant", "", tool_calls=(call_with({"x": value}),), created=1.0)
    original = Conversation(0, "T", (message,), 1)
    with Library(tmp_path) as library:
        first = library.conversation(library.add_conversation(original))
        text = to_json(first)
        second = library.conversation(library.add_conversation(from_json(text)))
        assert not library.notices()
    assert to_json(second) == text == to_json(original)
    assert write_json(second.messages[0].tool_calls) == write_json(message.tool_calls)
    assert '"name": "f"' in to_markdown(second)


def test_nan_is_exported_and_imported() -> None:
    message = Message(1, None, "assistant", "", tool_calls=(call_with({"x": float("nan")}),))
    text = to_json(Conversation(0, "T", (message,), 1))
    assert to_json(from_json(text)) == text


def test_the_greatest_seed_is_exported_and_imported(tmp_path: Path) -> None:
    original = Conversation(0, "T", settings=ChatSettings(seed=2**64 - 1))
    assert from_json(to_json(original)).settings == original.settings


def random_value(rng: random.Random, depth: int = 0) -> Any:
    match rng.randrange(8 if depth < 5 else 6):
        case 6:
            return {f'"{n}\n': random_value(rng, depth + 1) for n in range(rng.randrange(4))}
        case 7:
            return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case number:
            return [None, True, 1.5, 'ü"\\\n\u2028', 10**30, float("inf")][number]


def test_deep_json_is_read_and_written_as_by_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same texts, values and refusals as json's own, whose limit the test brings forward."""
    rng = random.Random(1)
    cases = []
    for _ in range(300):
        value, indent = random_value(rng), rng.choice([None, 2])
        text = write_json(value, indent)
        broken = list(text)
        broken[rng.randrange(len(text))] = rng.choice('{}[],:"1x ')
        for piece in (text, "".join(broken)):
            try:
                expected = write_json(read_json(piece))
            except JsonTextError:
                expected = ""
            cases.append((value, indent, text, piece, expected))

    def too_deep(*_: Any, **__: Any) -> Any:
        raise RecursionError

    monkeypatch.setattr(json_text.json, "loads", too_deep)
    for value, indent, text, piece, expected in cases:
        assert (
            "".join(json_text._pieces(value, indent, ",", ":" if indent is None else ": ")) == text
        )
        try:
            found = write_json(read_json(piece))
        except JsonTextError:
            found = ""
        assert found == expected, piece
