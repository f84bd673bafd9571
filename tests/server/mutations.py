"""Requests that no client would send: damaged JSON, and bytes that are hardly HTTP."""

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

_PARTS = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]
_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
_SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "enum": ["x"]}}}
SEEDS: dict[str, Any] = {
    "/v1/chat/completions": {
        "model": "demo",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": _PARTS[:1]},
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": _SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"schema": _SCHEMA}},
        "stream": True,
        "stream_options": {"include_usage": True},
        "stop": ["x"],
        "max_tokens": 1,
        "temperature": 0.5,
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "/v1/completions": {"prompt": ["a"], "max_tokens": 1, "stream": False, "stop": "b"},
    "/v1/responses": {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "a"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "r"},
        ],
        "instructions": "s",
        "tools": [{"type": "function", "name": "f", "parameters": _SCHEMA}],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": _SCHEMA}},
        "reasoning": {"effort": "low"},
        "max_output_tokens": 1,
        "metadata": {"a": "b"},
    },
    "/v1/messages": {
        "max_tokens": 1,
        "system": [{"type": "text", "text": "s"}],
        "messages": [
            {"role": "user", "content": "a"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]},
        ],
        "tools": [{"name": "f", "input_schema": _SCHEMA}],
        "tool_choice": {"type": "tool", "name": "f"},
        "thinking": {"type": "enabled", "budget_tokens": 5},
        "metadata": {"user_id": "u"},
    },
}
SEEDS["/v1/messages/count_tokens"] = SEEDS["/v1/messages"]
_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 1e308, 2**40, 2**70, "", "x", "\u0000", "é😀" * 50),
    *([], {}, [[]], [None], {"type": "text"}, {"": {}}, "<|im_end|>", "a" * 400, ["a"] * 300),
    *("auto", "function", "json_schema", "image", "assistant", "tool", {"type": "function"}),
]


def damaged_json(rng: random.Random) -> tuple[str, bytes]:
    """A path and a body: a request in which some values are others, and maybe some bytes."""
    path = rng.choice(list(SEEDS))
    body = deepcopy(SEEDS[path])
    for _ in range(rng.choice((1, 1, 2, 4))):
        _damage(body, rng)
    text = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode()
    if rng.random() < 0.4:
        text = _damage_bytes(text, rng)
    return path, text


def with_short_reply(body: bytes) -> bytes:
    """The body, with a small limit on the reply where it has none or a large one."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if isinstance(values, dict):
        for name in ("max_tokens", "max_output_tokens"):
            limit = values.get(name)
            if limit in (None, -1) or (isinstance(limit, int | float) and limit > 5):
                values[name] = 1
    return json.dumps(values).encode()


def _damage(body: Any, rng: random.Random) -> None:
    places = list(_places(body))
    if not places:
        return
    holder, key = rng.choice(places)
    match rng.randrange(4):
        case 0 if isinstance(holder, dict):
            del holder[key]
        case 1:
            holder[key] = [holder[key]]
        case 2:
            nested: Any = holder[key]
            for _ in range(rng.choice((5, 40, 150))):
                nested = {"a": nested}
            holder[key] = nested
        case _:
            holder[key] = deepcopy(rng.choice(_VALUES))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _damage_bytes(text: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(text) + 1)
    match rng.randrange(5):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + rng.randbytes(3) + text[at:]
        case 2:
            return text[:at] + b'"\\ud83d"' + text[at:]
        case 3:
            return text[:at] + text[at + 1 :]
        case _:
            return text[:at] + rng.choice((b"[" * 5000, b"NaN", b"1" * 5000, b"//", b"\x00"))


_BODY = b'{"prompt": "a"}'
_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
_RAW = [
    b"",
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.0\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /%ff%00/..%2f HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://evil/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"BREW /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: upgrade\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nbroken\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    _HEAD + b"Content-Length: -5\r\n\r\n" + _BODY,
    _HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + _BODY,
    _HEAD + b"Content-Length: 99999999999\r\n\r\n" + _BODY,
    _HEAD + b"Content-Length: 15\r\nContent-Encoding: gzip\r\n\r\n" + _BODY,
    _HEAD + b"Content-Length: 15\r\nExpect: 100-continue\r\n\r\n" + _BODY,
    _HEAD
    + b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n"
    + _BODY
    + b"\r\n0\r\n\r\n",
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\nf\r\n" + _BODY + b"\r\n0\r\n\r\n",
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + _BODY,
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n" + _BODY,
    _HEAD + b"Transfer-Encoding: bogus\r\n\r\n" + _BODY,
    (_HEAD + b"Content-Length: 15\r\n\r\n" + _BODY) * 3,
    _HEAD + b"Authorization: Bearer \xff\xfe\r\nContent-Length: 15\r\n\r\n" + _BODY,
    _HEAD + b"Origin: \xff\r\nContent-Length: 15\r\n\r\n" + _BODY,
]


def broken_http(rng: random.Random) -> bytes:
    """Bytes for a connection, after which the client sends no more."""
    raw = rng.choice(_RAW)
    return _damage_bytes(raw, rng) if rng.random() < 0.5 else raw
