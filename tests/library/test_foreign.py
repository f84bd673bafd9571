"""Exports of other programs: branches, thinking, titles and times come through."""

import io
import json
import os
import random
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.library.exporting import to_json, to_markdown
from qwen35_mlx.library.foreign.reading import read_conversations
from qwen35_mlx.library.importing import from_json
from qwen35_mlx.library.library import Library

# Damaged exports of each format. A longer run: QWEN35_IMPORTS=4000
ROUNDS = int(os.environ.get("QWEN35_IMPORTS", "100"))
T = 1_700_000_000.0


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def node(name: str, parent: str | None, children: list[str], message: Any = None) -> dict[str, Any]:
    return {"id": name, "parent": parent, "children": children, "message": message}


def said(role: str, content: Any, at: float | None = T, **rest: Any) -> dict[str, Any]:
    if isinstance(content, str):
        content = {"content_type": "text", "parts": [content]}
    message = {"author": {"role": role, "name": None}, "create_time": at, "content": content}
    return {"recipient": "all", "metadata": {}, **message, **rest}


CHATGPT = {
    "title": "Über Bäume 🌳",
    "create_time": T,
    "update_time": T + 90.5,
    "current_node": "b2",
    "default_model_slug": "gpt-x",
    "mapping": {
        "root": node("root", None, ["sys"]),
        "sys": node("sys", "root", ["ctx"], said("system", "", None)),
        "ctx": node(
            *("ctx", "sys", ["q"]),
            said("user", {"content_type": "user_editable_context", "user_profile": "me"}),
        ),
        "q": node("q", "ctx", ["think", "a2"], said("user", "什么是树？", T + 1)),
        "think": node(
            *("think", "q", ["recap"]),
            said(
                "assistant",
                {
                    "content_type": "thoughts",
                    "thoughts": [
                        {"summary": "Trees", "content": "They have leaves."},
                        {"summary": "", "content": "And roots."},
                    ],
                },
            ),
        ),
        "recap": node(
            *("recap", "think", ["a1"]),
            said(
                "assistant",
                {"content_type": "reasoning_recap", "content": "Thought for 8s"},
                metadata={"finished_duration_sec": 8},
            ),
        ),
        "a1": node(
            *("a1", "recap", ["b1", "b2"]),
            said("assistant", "A graph.", T + 2, metadata={"model_slug": "gpt-x-thinking"}),
        ),
        "a2": node("a2", "q", [], said("assistant", "A plant.", T + 3)),
        "b1": node("b1", "a1", [], said("user", "First", T + 4)),
        "b2": node(
            *("b2", "a1", []),
            said(
                "user",
                {
                    "content_type": "multimodal_text",
                    "parts": [{"content_type": "image_asset_pointer"}, "Second"],
                },
                T + 5,
            ),
        ),
    },
}
CHATGPT_TOOLS = {
    "title": "",
    "create_time": T,
    "update_time": T,
    "mapping": {
        "q": node("q", None, ["call"], said("user", "Search it")),
        "call": node(
            *("call", "q", ["result"]),
            said("assistant", {"content_type": "code", "text": "find('x')"}, recipient="python"),
        ),
        "result": node(
            *("result", "call", ["a"]),
            said("tool", {"content_type": "execution_output", "text": "42"}),
        ),
        "a": node("a", "result", [], said("assistant", "It is 42.")),
    },
}
WEBUI_REPLY = (
    '<details type="reasoning" done="true" duration="5">\n'
    "<summary>Thought for 5 seconds</summary>\n"
    "&gt; They say x &lt; y.\n&gt;\n> So.\n</details>\nIt is <b>y</b>."
)
OPEN_WEBUI = {
    "id": "c1",
    "user_id": "u",
    "title": "Größer",
    "created_at": int(T),
    "updated_at": int(T) + 60,
    "chat": {
        "title": "Größer",
        "models": ["qwen3.5:9b"],
        "params": {"system": "Be brief."},
        "timestamp": int(T) * 1000,
        "history": {
            "currentId": "a2",
            "messages": {
                "q": {
                    **{"id": "q", "parentId": None, "childrenIds": ["a1", "a2"], "role": "user"},
                    **{"content": "Which is greater?", "timestamp": int(T) + 1},
                },
                "a1": {
                    **{"id": "a1", "parentId": "q", "childrenIds": [], "role": "assistant"},
                    **{"content": WEBUI_REPLY, "model": "qwen3.5:9b", "timestamp": int(T) + 2},
                },
                "a2": {
                    **{"id": "a2", "parentId": "q", "childrenIds": [], "role": "assistant"},
                    **{"content": "x", "model": "other", "timestamp": int(T) + 3},
                },
            },
        },
    },
}


def block(words: str, **rest: Any) -> dict[str, Any]:
    return {"type": "contentBlock", "content": [{"type": "text", "text": words}], **rest}


def version(*steps: Any) -> dict[str, Any]:
    return {
        **{"type": "multiStep", "role": "assistant", "steps": list(steps)},
        "senderInfo": {"senderName": "qwen3.5-9b"},
    }


def asked(*texts: str, selected: int = 0) -> dict[str, Any]:
    versions = [
        {"type": "singleStep", "role": "user", "content": [{"type": "text", "text": text}]}
        for text in texts
    ]
    return {"versions": versions, "currentlySelected": selected}


LM_STUDIO = {
    "name": "Zahlen",
    "createdAt": int(T) * 1000,
    "userLastMessagedAt": int(T) * 1000 + 5_000,
    "assistantLastMessagedAt": int(T) * 1000 + 30_500,
    "systemPrompt": "old",
    "perChatPredictionConfig": {
        "fields": [{"key": "llm.prediction.systemPrompt", "value": "Rechne."}]
    },
    "messages": [
        asked("1+1?", "2+2?", selected=1),
        {
            "versions": [
                version(
                    block("Hm.\n", style={"type": "thinking", "ended": True}, prefix="<think>"),
                    {"type": "debugInfoBlock", "debugInfo": "x"},
                    block("\n\n4"),
                ),
                version(block("Four")),
            ],
            "currentlySelected": 0,
        },
        asked("And with a tool?"),
        {
            "versions": [
                version(
                    {
                        "type": "contentBlock",
                        "content": [
                            {"type": "toolCallRequest", "name": "add", "parameters": {"x": 1}}
                        ],
                    },
                    {"type": "toolStatus", "statusState": {}},
                    {
                        "type": "contentBlock",
                        "content": [{"type": "toolCallResult", "content": "5"}],
                    },
                    block("It is 5."),
                )
            ],
            "currentlySelected": 0,
        },
    ],
}


def turn(conversation: str | None, prompt: str, response: str, at: float, **rest: Any) -> Any:
    return {
        **{"id": f"r{at}", "model": "qwen3.5", "conversation_id": conversation},
        **{"conversation_name": "Grüße an alle", "conversation_model": "qwen3.5"},
        **{"prompt": prompt, "system": None, "response": response, "reasoning": None},
        **{"datetime_utc": iso(at), "prompt_fragments": [], "system_fragments": []},
        **{"tool_calls": [], "tool_results": [], "attachments": [], **rest},
    }


LLM = [
    turn("c1", "second", "two", T + 10, prompt_fragments=[{"hash": "h", "content": "a file"}]),
    turn("c1", "first", "one", T, system="Be brief", reasoning="Hm."),
    turn("c2", "?", "", T + 20, tool_calls=[{"name": "now", "arguments": {"zone": "UTC"}}]),
    turn("c2", "", "noon", T + 21, tool_results=[{"name": "now", "output": "12:00"}]),
    turn(None, "alone", "yes", T + 30),
]


def read(document: Any) -> list[Conversation]:
    return list(read_conversations(json.dumps(document).encode()))


def path(conversation: Conversation, to: int | None = None) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.path(to)]


@pytest.mark.parametrize("document", [CHATGPT, [CHATGPT]])
def test_chatgpt(document: Any) -> None:
    (found,) = read(document)
    assert (found.title, found.created, found.updated) == ("Über Bäume 🌳", T, T + 90.5)
    assert found.model == "gpt-x-thinking"
    assert path(found) == [
        ("user", "什么是树？"),
        ("assistant", "A graph."),
        ("user", "Second"),
    ]
    question, reply, last = found.path()
    assert (reply.thinking, reply.thinking_seconds) == (
        "Trees\n\nThey have leaves.\n\nAnd roots.",
        8.0,
    )
    assert (reply.model, reply.created) == ("gpt-x-thinking", T + 2)
    others = [found.message(i).content for i in found.siblings(reply.id)]
    assert others == ["A graph.", "A plant."]
    assert [found.message(i).content for i in found.siblings(last.id)] == ["First", "Second"]
    assert question.created == T + 1


def test_tools_of_chatgpt() -> None:
    (found,) = read([CHATGPT_TOOLS])
    assert found.title == "Search it"
    assert path(found) == [
        ("user", "Search it"),
        ("assistant", ""),
        ("tool", "42"),
        ("assistant", "It is 42."),
    ]
    (call,) = found.messages[1].tool_calls
    assert call["function"] == {"name": "python", "arguments": {"input": "find('x')"}}


@pytest.mark.parametrize("document", [OPEN_WEBUI, [OPEN_WEBUI], OPEN_WEBUI["chat"]])
def test_open_webui(document: Any) -> None:
    (found,) = read(document)
    assert (found.title, found.model, found.created) == ("Größer", "qwen3.5:9b", T)
    assert found.settings.system == "Be brief."
    assert path(found) == [("user", "Which is greater?"), ("assistant", "x")]
    first, second = (found.message(i) for i in found.siblings(found.path()[-1].id))
    assert (first.content, first.thinking) == ("It is <b>y</b>.", "They say x < y.\n\nSo.")
    assert (first.thinking_seconds, first.created, first.model) == (5.0, T + 2, "qwen3.5:9b")
    assert (second.content, second.model) == ("x", "other")
    assert found.updated == (T + 60 if document is not OPEN_WEBUI["chat"] else T + 3)


def test_lm_studio() -> None:
    (found,) = read(LM_STUDIO)
    assert (found.title, found.created, found.updated) == ("Zahlen", T, T + 30.5)
    assert found.settings.system == "Rechne."
    assert found.model == "qwen3.5-9b"
    assert path(found) == [
        ("user", "2+2?"),
        ("assistant", "4"),
        ("user", "And with a tool?"),
        ("assistant", ""),
        ("tool", "5"),
        ("assistant", "It is 5."),
    ]
    question, reply, _, calling, *_ = found.path()
    assert [found.message(i).content for i in found.siblings(question.id)] == ["1+1?", "2+2?"]
    assert [found.message(i).content for i in found.siblings(reply.id)] == ["4", "Four"]
    assert reply.thinking == "Hm."
    assert calling.tool_calls[0]["function"] == {"name": "add", "arguments": {"x": 1}}


def test_llm() -> None:
    one, two, alone = read(LLM)
    assert (one.title, one.model, one.created, one.updated) == (
        "Grüße an alle",
        "qwen3.5",
        T,
        T + 10,
    )
    assert one.settings.system == "Be brief"
    assert path(one) == [
        ("user", "first"),
        ("assistant", "one"),
        ("user", "a file\n\nsecond"),
        ("assistant", "two"),
    ]
    assert one.messages[1].thinking == "Hm."
    assert path(two) == [("user", "?"), ("assistant", ""), ("tool", "12:00"), ("assistant", "noon")]
    assert two.messages[1].tool_calls[0]["function"]["arguments"] == {"zone": "UTC"}
    assert path(alone) == [("user", "alone"), ("assistant", "yes")]


def zipped(**files: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, document in files.items():
            archive.writestr(name.replace("_json", ".json"), json.dumps(document))
    return out.getvalue()


def test_a_zip_file_of_chatgpt() -> None:
    whole = zipped(user_json={}, conversations_json=[CHATGPT, CHATGPT_TOOLS], chat_html="x")
    assert [found.title for found in read_conversations(whole)] == ["Über Bäume 🌳", "Search it"]
    parts = zipped(**{"conversations-000_json": [CHATGPT], "conversations-001_json": [CHATGPT]})
    assert len(read_conversations(parts)) == 2


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\xff\xfe", "not UTF-8 text"),
        (b"not JSON", "not JSON"),
        (b"[]", "no conversation in a known format"),
        (b"[[], 1, null]", "no conversation in a known format"),
        (b'{"messages": []}', "no conversation in a known format"),
        (b'{"mapping": {}}', "no message in it"),
        (b'{"messages": [], "createdAt": 1}', "no message in it"),
        (zipped(user_json={}), "without conversations.json"),
        (zipped(conversations_json=[CHATGPT])[:200], "cannot be read"),
        (b"PK\x03\x04", "cannot be read"),
    ],
)
def test_what_is_no_export_is_an_error_of_one_line(data: bytes, named: str) -> None:
    with pytest.raises(Qwen35Error, match=named) as caught:
        read_conversations(data)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_left_out() -> None:
    data = b"\xef\xbb\xbf" + to_json(Conversation(0, "t")).encode()
    assert [found.title for found in read_conversations(data)] == ["t"]


def test_a_zip_file_that_unpacks_without_end_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("qwen35_mlx.library.foreign.reading.MAX_BYTES", 1 << 29)
    data = bytearray(zipped(conversations_json=[CHATGPT]))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (1 << 30).to_bytes(4, "little")  # the size as the archive lists it
    with pytest.raises(Qwen35Error, match="more than"):
        read_conversations(bytes(data))


DOCUMENTS = {
    "chatgpt": [CHATGPT, CHATGPT_TOOLS],
    "open_webui": [OPEN_WEBUI],
    "lm_studio": LM_STUDIO,
    "llm": LLM,
}
# JSON of values to be put anywhere.
ODD = ["null", "true", "0", "-1", "1e300", "1e999", f"{2**70}", "1.5", "[]", "[[]]", "{}"]
ODD = [*ODD, '{"type": 1}', '""', '"\\ud800"', '"x"', '"q"', '"a1"', '"\\u0000"']


def damaged(document: Any, rng: random.Random) -> Any:
    """A copy with values at random places replaced, removed, or put elsewhere."""
    copy = json.loads(json.dumps(document))
    for _ in range(rng.randrange(1, 6)):
        at = copy
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(at[key], dict | list) and rng.random() < 0.8:
                at = at[key]
                continue
            if rng.random() < 0.3:
                del at[key]
            else:
                at[key] = json.loads(rng.choice(ODD))
            break
    return copy


def read_or_refused(document: Any) -> list[Conversation]:
    try:
        return read(document)
    except Qwen35Error as error:
        if "\n" in str(error):
            raise
        return []


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_damaged_export_is_imported_or_refused_in_a_line(tmp_path: Path, document: Any) -> None:
    rng = random.Random(1)
    imported = 0
    with Library(tmp_path) as library, library.transaction():
        for _ in range(ROUNDS):
            for conversation in read_or_refused(damaged(document, rng)):
                stored = library.conversation(library.add_conversation(conversation))
                text = to_json(stored)
                assert to_json(from_json(text)) == text
                to_markdown(stored)
                imported += 1
        assert imported > 40
        assert len(library.list(10**6)) == imported


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_an_import_is_exported_and_imported_to_the_same_bytes(tmp_path: Path, document) -> None:
    with Library(tmp_path) as library:
        for conversation in read(document):
            text = to_json(library.conversation(library.add_conversation(conversation)))
            again = library.conversation(library.add_conversation(from_json(text)))
            assert to_json(again) == text


def test_messages_in_a_circle_end() -> None:
    messages = OPEN_WEBUI["chat"]["history"]["messages"]
    circle = {**messages, "q": {**messages["q"], "parentId": "a1"}}
    history = {"messages": circle, "currentId": "a1"}
    with pytest.raises(Qwen35Error, match="no message"):
        read({"chat": {**OPEN_WEBUI["chat"], "history": history}})
    loop = {"x": node("x", None, ["y"], said("user", "x")), "y": node("y", "x", ["x", "y"])}
    (found,) = read({"mapping": loop})
    assert path(found) == [("user", "x")]


def test_a_long_conversation_needs_no_recursion() -> None:
    nodes = {
        str(i): node(str(i), str(i - 1) if i else None, [str(i + 1)], said("user", f"{i}"))
        for i in range(5_000)
    }
    (found,) = read({"mapping": nodes})
    assert len(found.path()) == 5_000
