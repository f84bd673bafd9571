"""The endpoints on a scripted engine: errors, limits, streams that wait, clients that go."""

import asyncio
import threading

import pytest

from qwen35_mlx.server import bodies, reply_endpoint, service
from qwen35_mlx.server.application import PATHS, application
from qwen35_mlx.server.exchange import Exchange
from qwen35_mlx.session.events import (
    Answer,
    Failed,
    Loading,
    PrefillProgress,
    Queued,
    Thinking,
    Written,
)
from tests.server.asgi import call, get, make_service, post
from tests.server.fake_engine import FakeEngine, done, failing, reply, wait_until

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
HELLO = {"messages": [{"role": "user", "content": "Hi"}]}
BODIES = {CHAT: HELLO, MESSAGES: HELLO, "/v1/responses": {"input": "Hi"}}
ALL = [*BODIES.items(), ("/v1/completions", {"prompt": "Hi"})]


@pytest.mark.parametrize(("path", "body"), ALL)
@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("invalid", 400, None),
        ("too_long", 400, "context_length_exceeded"),
        ("busy", 409, "session_busy"),
        ("internal", 500, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_reply_has_a_status(path, body, kind, status, code, stream):
    found = await post(
        make_service(FakeEngine(failing("no luck", kind))), path, {**body, "stream": stream}
    )
    assert found.status == status
    assert found.headers["content-type"] == "application/json"
    error = found.json["error"]
    assert error["message"].endswith("no luck")
    assert path == MESSAGES or error["code"] == code
    assert error["message"].startswith("prompt is too long: ") == (kind == "too_long")


@pytest.mark.parametrize("path", BODIES)
async def test_a_failure_in_the_reply_ends_the_stream_with_an_error(path):
    engine = FakeEngine(lambda _: [PrefillProgress(0, 9, 0), 0.3, Failed("no luck")])
    found = await post(make_service(engine), path, {**BODIES[path], "stream": True})
    assert found.status == 200
    last = found.frames[-1]
    assert "no luck" in (last.get("error") or last["response"]["error"])["message"]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"", "the request is not JSON that can be read"),
        (b"{", "the request is not JSON that can be read"),
        (b"\xff", "the request is not UTF-8 text"),
        (b"[]", "the request is not a JSON object"),
        (b'{"a": 1, "a": 2}', "the request is not JSON that can be read: a key appears twice"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "the request is not JSON that can be read: it is nest"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "the request is not JSON"),
        (b'{"temperature": NaN}', "the request is not JSON that can be read"),
    ],
)
async def test_a_body_that_is_no_request(body, line):
    found = await post(make_service(), CHAT, body)
    assert found.status == 400
    assert found.json["error"]["message"].startswith(line)


async def test_a_body_that_is_too_large(monkeypatch):
    monkeypatch.setattr(bodies, "MAX_BYTES", 100)
    found = await post(make_service(), MESSAGES, b" " * 101)
    assert (found.status, found.json["error"]["type"]) == (413, "request_too_large")
    body = b'{"messages": [{"role": "user", "content": "Hi"}]}'
    assert (await post(make_service(), MESSAGES, body.ljust(100))).status == 200


@pytest.mark.parametrize(("length", "same"), [(bodies.LONG_BYTES, True), (99_999, False)])
async def test_a_long_body_does_not_block_others(length, same):
    async def receive():
        return {"type": "http.request", "body": b"{}".ljust(length)}

    read_in = await bodies.read_body(receive, lambda _: threading.current_thread())
    assert (read_in is threading.current_thread()) == same


async def test_a_body_that_does_not_arrive(monkeypatch):
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.05)
    started = []

    async def receive():
        await asyncio.sleep(10)

    async def send(message):
        started.append(message.get("status"))

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [(b"host", b"localhost")]}
    scope |= {"scheme": "http", "root_path": "", "query_string": b"", "client": None}
    await application(make_service())(scope, receive, send)
    assert started[0] == 408


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/chat/completions/", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/models/other/model", 404),
        ("GET", "/v1/models/demo", 200),
    ],
)
async def test_paths(method, path, status):
    found = await call(application(make_service()), method, path)
    assert found is not None
    assert found.status == status
    assert found.headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", ["demo", "", "default", None, "claude-x", "gpt-4o"])
async def test_names_of_the_model(name):
    made = make_service(aliases=("claude-*", "gpt-4o"))
    assert (await post(made, CHAT, {**HELLO, "model": name})).status == 200


async def test_another_model_is_never_loaded():
    made = make_service()
    found = await post(made, CHAT, {**HELLO, "model": "org/repo"})
    assert (found.status, found.json["error"]["code"]) == (404, "model_not_found")
    assert made.engine.requests == []  # type: ignore[attr-defined]


async def test_clients_are_told_apart_for_the_queue():
    made = make_service()
    await post(made, CHAT, HELLO, {"user-agent": "editor"})
    await post(made, CHAT, HELLO, {"user-agent": "agent"})
    await post(made, CHAT, {**HELLO, "user": "ada"}, {"user-agent": "agent"})
    clients = [request.client for request in made.engine.requests]  # type: ignore[attr-defined]
    assert clients == ["127.0.0.1 editor", "127.0.0.1 agent", "127.0.0.1 ada"]


async def test_a_stream_that_waits_tells_why(monkeypatch):
    monkeypatch.setattr(reply_endpoint, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(reply_endpoint, "COMMENT_SECONDS", 0.0)
    monkeypatch.setattr(reply_endpoint, "QUIET_SECONDS", 0.05)
    events = [
        *(Queued(2), 0.3, Loading("demo", 0.5), 0.3, PrefillProgress(37, 100, 0), 0.3),
        *(Answer("Hi"), Written(9), 0.3, done()),
    ]
    found = await post(make_service(FakeEngine(lambda _: events)), CHAT, {**HELLO, "stream": True})
    told = list(dict.fromkeys(found.comments))
    assert told == [
        *("queued, place 2", "loading demo 50%", "reading the prompt 37%", "writing, 9 tokens")
    ]
    assert found.body.startswith(b": queued, place 2\n\n")
    assert found.frames[-1] == "[DONE]"


async def test_a_stream_that_waits_begins_soon(monkeypatch):
    monkeypatch.setattr(reply_endpoint, "PATIENCE_SECONDS", 0.05)
    engine = FakeEngine(lambda _: [Queued(2), 0.5, *reply(Answer("Hi"))])
    found = await post(make_service(engine), CHAT, {**HELLO, "stream": True})
    assert found.comments == ["queued, place 2"]


async def test_comments_are_not_more_than_one_a_second():
    events = [PrefillProgress(0, 9, 0), Answer("a"), *[Written(1), 0.01] * 30, done()]
    found = await post(make_service(FakeEngine(lambda _: events)), CHAT, {**HELLO, "stream": True})
    assert len(found.comments) <= 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("before", [[], [PrefillProgress(0, 9, 0), Answer("He"), 0.05]])
async def test_a_client_that_goes_cancels_its_reply(stream, before):
    engine = FakeEngine(lambda _: [*before, 30.0, done()])
    gone = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, gone.set)
    await call(
        application(make_service(engine)), "POST", CHAT, {**HELLO, "stream": stream}, None, gone
    )
    wait_until(lambda: engine.tickets[0].ended.is_set())
    assert engine.tickets[0].cancelled.is_set()


async def test_a_client_that_goes_before_its_body_is_read_costs_nothing():
    made = make_service()

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [(b"host", b"localhost")]}
    await application(made)({**scope, "scheme": "http", "client": None}, receive, send)
    assert made.engine.requests == []  # type: ignore[attr-defined]


async def test_too_many_requests_are_refused(monkeypatch):
    monkeypatch.setattr(service, "MAX_OPEN", 1)
    made = make_service(FakeEngine(lambda _: [0.2, *reply(Answer("Hi"))]))
    first = asyncio.create_task(post(made, CHAT, HELLO))
    await asyncio.sleep(0.05)
    second = await post(made, CHAT, HELLO)
    assert (second.status, second.json["error"]["type"]) == (429, "rate_limit_error")
    assert (await first).status == 200
    assert (await post(made, CHAT, HELLO)).status == 200


async def test_a_closing_server_ends_replies_and_takes_no_more():
    made = make_service(FakeEngine(lambda _: [PrefillProgress(0, 9, 0), Answer("He"), 30.0]))
    running = asyncio.create_task(post(made, CHAT, {**HELLO, "stream": True}))
    await asyncio.sleep(0.1)
    made.closing = True
    refused = await asyncio.wait_for(post(made, CHAT, HELLO), 5)
    assert refused.status == 503
    made.cancel_all()
    assert "the server is closing" in (await running).frames[-1]["error"]["message"]


async def test_a_fault_of_the_server_is_one_line(capsys):
    class Broken(FakeEngine):
        def submit(self, request, deliver):
            raise KeyError("secret")

    found = await post(make_service(Broken()), CHAT, HELLO)
    assert found.status == 500
    for text in (found.json["error"]["message"], capsys.readouterr().err):
        assert "KeyError in " in text
        assert "secret" not in text
        assert text.count("\n") <= 1


async def test_a_fault_of_any_path_is_one_line():
    class Broken(FakeEngine):
        def status(self):
            raise KeyError("secret")

        def count(self, request, deliver):
            raise KeyError("secret")

    made = make_service(Broken())
    counted = await post(made, "/v1/messages/count_tokens", HELLO)
    sent = []

    async def send(message):
        sent.append(message)

    with pytest.raises(KeyError):  # Starlette raises it again for the log of uvicorn
        await get_raw(made, "/metrics", send)
    assert (counted.status, sent[0]["status"]) == (500, 500)
    for text in (counted.body, sent[1]["body"]):
        assert b"KeyError in " in text
        assert b"secret" not in text


async def get_raw(made, path, send):
    async def receive():
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost")]}
    scope |= {"scheme": "http", "root_path": "", "query_string": b"", "client": None}
    await application(made)(scope, receive, send)


async def test_count_tokens():
    found = await post(make_service(), "/v1/messages/count_tokens", HELLO)
    assert found.json == {"input_tokens": 42}
    wrong = await post(make_service(), "/v1/messages/count_tokens", {})
    assert (wrong.status, wrong.json["type"]) == (400, "error")


async def test_a_client_that_goes_cancels_its_count():
    class Waiting(FakeEngine):
        def count(self, request, deliver):
            return self.submit(request, deliver)

    engine = Waiting(lambda _: [30.0])
    gone = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, gone.set)
    counting = call(
        application(make_service(engine)), "POST", f"{MESSAGES}/count_tokens", HELLO, None, gone
    )
    assert await asyncio.wait_for(counting, 5) is None
    assert engine.tickets[0].cancelled.is_set()


@pytest.mark.parametrize(("kind", "code"), [("too_long", "context_length_exceeded")])
async def test_a_failed_stream_of_a_response_has_the_code_of_its_error(kind, code):
    engine = FakeEngine(lambda _: [PrefillProgress(0, 9, 0), 0.1, Failed("no luck", kind)])
    found = await post(make_service(engine), "/v1/responses", {"input": "Hi", "stream": True})
    assert found.frames[-1]["response"]["error"]["code"] == code


@pytest.mark.parametrize(
    "field",
    [
        *({"max_tokens": 10**30}, {"seed": -1}, {"temperature": "hot"}, {"top_k": 1.5}),
        *({"thinking_budget": 2**63}, {"top_p": True}),
    ],
)
async def test_a_number_that_does_not_fit_is_refused_in_the_words_of_the_interface(field):
    made = make_service()
    for path, body in ALL:
        name, value = next(iter(field.items()))
        if path == "/v1/responses" and name == "max_tokens":
            name = "max_output_tokens"
        found = await post(made, path, {**body, name: value})
        message = found.json["error"]["message"]
        assert found.status == 400
        assert message.startswith(f"{name} is ")
        assert "None" not in message
    assert made.engine.requests == []  # type: ignore[attr-defined]


async def test_minus_one_is_no_limit_in_every_interface():
    made = make_service()
    for path, body in ALL:
        name = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
        found = await post(made, path, {**body, name: -1, "thinking_budget": -1})
        assert found.status == 200
    requests = made.engine.requests  # type: ignore[attr-defined]
    assert [request.options["max_tokens"] for request in requests] == [-1] * len(ALL)
    budgets = [request.options.get("thinking_budget") for request in requests]
    assert budgets.count(-1) == len(ALL) - 1  # a completion has no thinking


async def test_metrics_count_known_paths_only():
    made = make_service()
    app = application(made)
    for path in ("/health", "/health", '/"x"', "/y"):
        await call(app, "GET", path)
    found = await call(app, "GET", "/metrics")
    assert found is not None
    lines = found.body.decode().splitlines()
    assert 'qwen35_http_requests_total{path="/health",status="200"} 2' in lines
    assert 'qwen35_http_requests_total{path="other",status="404"} 2' in lines
    assert "qwen35_prompt_tokens_total 40" in lines
    assert "qwen35_prefill_seconds_total 1.5" in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(set(names)) == len(names)
    assert {line.split("{")[0].split()[0] for line in lines if line[0] != "#"} <= set(names)


async def test_models_are_listed_for_clients_of_both_kinds():
    found = (await get(make_service(), "/v1/models")).json
    assert found["object"] == "list"
    assert (found["first_id"], found["has_more"]) == ("demo", False)
    model = found["data"][0]
    assert (model["object"], model["type"], model["max_input_tokens"]) == ("model", "model", 4096)


def test_every_path_is_documented(pytestconfig):
    text = (pytestconfig.rootpath / "docs" / "server.md").read_text(encoding="utf-8")
    assert [path for path in PATHS if f"`{path}`" not in text] == []


async def test_pieces_of_one_text_are_joined():
    """A slow client gets few long pieces, and the order of kinds is kept."""
    exchange = Exchange()
    texts = [Thinking("a"), Thinking("b"), Answer("c"), Answer("d"), Written(1), Answer("e")]
    for event in texts:
        exchange.deliver(event)
    assert await exchange.take(1) == [Thinking("ab"), Answer("cd"), Written(1), Answer("e")]
    assert await exchange.take(0.01) == []
    exchange.deliver(Answer("f"))
    assert await exchange.take(1) == [Answer("f")]
