"""Who may use the server: an ASGI application around another one."""

import hmac
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen35_mlx.errors import shown
from qwen35_mlx.server.errors import ApiError
from qwen35_mlx.server.options import ServerOptions, is_loopback

# Tells nothing but that the server runs.
OPEN_PATHS = ("/health",)
_HEADER_NAMES = re.compile(r"[A-Za-z0-9, _-]{0,1000}")
_PORT = re.compile(r":\d{1,5}$")


class Guard:
    """Lets requests in that may use the server.

    - On a loopback address, the Host header must name this machine: a web page whose name is
      resolved to it sends another.
    - A request of a web page (one with an Origin header) needs an origin that is allowed.
    - With a key, every request but those of `OPEN_PATHS` must have it, as `Authorization: Bearer`
      or as `x-api-key`.

    Args:
        error_json: the JSON of an error for a request.
        paths: of the server.
        counts: of responses by path and status; counted here, since every request comes by. Any
            other path is "other".
    """

    def __init__(
        self,
        application: ASGIApp,
        options: ServerOptions,
        error_json: Callable[[Scope, ApiError], Mapping[str, Any]],
        paths: Collection[str],
        counts: Counter[tuple[str, int]],
    ):
        self._application = application
        self._options = options
        self._error_json = error_json
        self._paths = paths
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._counts[path, message["status"]] += 1
                added = MutableHeaders(scope=message)
                added["x-content-type-options"] = "nosniff"
                if origin is not None and self._allows(origin):
                    added["access-control-allow-origin"] = origin
                    added.add_vary_header("origin")
            await send(message)

        try:
            application = self._admit(scope, headers)
        except ApiError as error:
            application = JSONResponse(self._error_json(scope, error), error.status)
        await application(scope, receive, send_with_headers)

    def _admit(self, scope: Scope, headers: Headers) -> ASGIApp:
        """What answers the request.

        Raises:
            ApiError: it may not use the server.
        """
        host = headers.get("host", "")
        if self._options.is_local and not self._serves(_name(host)):
            line = f"the Host header is {shown(host)}, which is not this machine: use localhost, "
            raise ApiError(f"{line}or start the server with --allow-host", 403)
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope['scheme']}://{host}":
            if not self._allows(origin):
                raise ApiError(
                    f"pages of {shown(origin)} may not use this server: start it with --cors", 403
                )
            if scope["method"] == "OPTIONS":
                return _preflight(headers)
        if scope["path"] not in OPEN_PATHS and not self._has_key(headers):
            line = "the API key is missing or wrong: send it as Authorization: Bearer KEY"
            raise ApiError(line, 401, code="invalid_api_key")
        return self._application

    def _serves(self, name: str) -> bool:
        return is_loopback(name) or name.lower() in self._options.hosts

    def _allows(self, origin: str) -> bool:
        return origin in self._options.origins or "*" in self._options.origins

    def _has_key(self, headers: Headers) -> bool:
        wanted = self._options.api_key
        if wanted is None:
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer.strip()] if scheme.lower() == "bearer" else []
        given.append(headers.get("x-api-key", ""))
        # All of them are compared, each in a time that does not depend on how much of it is right.
        found = [hmac.compare_digest(one.encode(), wanted.encode()) for one in given]
        return any(found)


def _name(host: str) -> str:
    """The name or the address in a Host header."""
    return _PORT.sub("", host).removeprefix("[").removesuffix("]")


def _preflight(headers: Headers) -> Response:
    """The answer to a browser that asks what a page may send."""
    wanted = headers.get("access-control-request-headers", "")
    allowed = {
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": wanted if _HEADER_NAMES.fullmatch(wanted) else "",
        "access-control-max-age": "600",
    }
    if headers.get("access-control-request-private-network") == "true":
        allowed["access-control-allow-private-network"] = "true"
    return Response(status_code=204, headers=allowed)
