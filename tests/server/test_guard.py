"""Who may use the server: Host, Origin, key, CORS."""

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.server.application import application
from qwen35_mlx.server.options import ServerOptions, is_loopback
from tests.server.asgi import call, get, make_service, post

HELLO = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080"])
async def test_names_of_this_machine_are_served(host):
    assert (await get(make_service(), "/v1/models", {"host": host})).status == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.1:8080"]
)
async def test_other_names_are_refused_on_loopback(host):
    """A page whose name was resolved anew to 127.0.0.1 sends its own name."""
    found = await get(make_service(), "/health", {"host": host})
    assert found.status == 403
    assert "is not this machine" in found.json["error"]["message"]


async def test_a_name_that_is_allowed_is_served():
    service = make_service(hosts=("host.docker.internal",))
    for host, status in (("Host.docker.internal:8080", 200), ("docker.internal", 403)):
        assert (await get(service, "/v1/models", {"host": host})).status == status


async def test_other_names_are_served_beyond_loopback():
    service = make_service(host="0.0.0.0", api_key="k")
    headers = {"host": "my-mac.local", "x-api-key": "k"}
    assert (await get(service, "/v1/models", headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "key"},
        {"authorization": "Basic key"},
        {"x-api-key": "ke"},
        {"x-api-key": "kéy"},
        {"x-api-key": ""},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/nothing"])
async def test_without_the_key_there_is_nothing(headers, path):
    headers = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    found = await get(make_service(api_key="key"), path, headers)
    assert found.status == 401
    assert found.json["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer key"}, {"authorization": "bearer  key"}, {"x-api-key": "key"}],
)
async def test_the_key_has_two_places(headers):
    assert (await get(make_service(api_key="key"), "/v1/models", headers)).status == 200


async def test_health_needs_no_key():
    assert (await get(make_service(api_key="key"), "/health")).status == 200


async def test_anthropic_clients_get_errors_in_their_form():
    service = make_service(api_key="key")
    by_path = await post(service, "/v1/messages", HELLO)
    by_header = await get(service, "/v1/models", {"anthropic-version": "2023-06-01"})
    for found in (by_path, by_header):
        assert found.json["type"] == "error"
        assert found.json["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000"])
async def test_pages_are_refused_unless_asked(origin):
    """A request of a form needs no permission of a browser, so it must not reach the model."""
    service = make_service()
    found = await post(service, "/v1/chat/completions", HELLO, {"origin": origin})
    assert found.status == 403
    assert "access-control-allow-origin" not in found.headers
    assert service.engine.requests == []  # type: ignore[attr-defined]


async def test_pages_of_the_server_itself_are_let_in():
    headers = {"host": "localhost:8080", "origin": "http://localhost:8080"}
    assert (await get(make_service(), "/v1/models", headers)).status == 200


@pytest.mark.parametrize("allowed", ["http://app.example", "*"])
async def test_pages_of_an_allowed_origin(allowed):
    service = make_service(origins=(allowed,), api_key="key")
    origin = {"origin": "http://app.example"}
    wanted = {
        **origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    path = "/v1/chat/completions"
    asked = await call(application(service), "OPTIONS", path, headers=wanted)
    assert asked is not None
    assert asked.status == 204
    assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
    refused = await post(service, path, HELLO, origin)
    answered = await post(service, path, HELLO, {**origin, "x-api-key": "key"})
    assert (refused.status, answered.status) == (401, 200)
    for found in (asked, refused, answered):
        assert found.headers["access-control-allow-origin"] == "http://app.example"
        assert found.headers["vary"] == "origin"


async def test_one_allowed_origin_lets_no_other_in():
    service = make_service(origins=("http://app.example",))
    found = await get(service, "/v1/models", {"origin": "http://app.example.evil"})
    assert found.status == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "my-mac.local"])
def test_other_machines_are_let_in_with_a_key_only(host):
    with pytest.raises(Qwen35Error, match=f"--host {host} lets other machines in"):
        ServerOptions(name="demo", host=host)
    assert not ServerOptions(name="demo", host=host, api_key="k").is_local


@pytest.mark.parametrize("key", ["", " ", "a\nb", "é"])
def test_a_key_that_no_client_can_send_is_refused(key):
    with pytest.raises(Qwen35Error, match="the API key"):
        ServerOptions(name="demo", api_key=key)


def test_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "127.1.2.3", "::1", "localhost"]))
    assert not any(map(is_loopback, ["", "0.0.0.0", "::", "127.0.0.1.evil", "10.0.0.1"]))
