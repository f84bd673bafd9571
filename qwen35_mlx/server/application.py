"""The server as an ASGI application: its routes, and what they share."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from qwen35_mlx.server import chat_completions, completions, messages, response_input
from qwen35_mlx.server.bodies import ClientGoneError, read_body, while_connected
from qwen35_mlx.server.errors import ApiError, anthropic_error, openai_error
from qwen35_mlx.server.exchange import Exchange
from qwen35_mlx.server.guard import Guard
from qwen35_mlx.server.metrics import CONTENT_TYPE, metrics_text
from qwen35_mlx.server.reply_endpoint import (
    QUIET_SECONDS,
    ReplyEndpoint,
    api_error,
    client_name,
    last_error,
)
from qwen35_mlx.server.service import Service
from qwen35_mlx.session.events import Cancelled, Failed, Measured

INTERFACES = {
    "/v1/chat/completions": chat_completions.INTERFACE,
    "/v1/completions": completions.INTERFACE,
    "/v1/responses": response_input.INTERFACE,
    "/v1/messages": messages.INTERFACE,
}
COUNT = "/v1/messages/count_tokens"
PATHS = (*INTERFACES, COUNT, "/v1/models", "/health", "/metrics")


def application(service: Service) -> ASGIApp:
    """The application of a server."""
    counts: Counter[tuple[str, int]] = Counter()

    async def metrics(_: Request) -> Response:
        text = metrics_text(service.engine.status(), counts)
        return PlainTextResponse(text, media_type=CONTENT_TYPE)

    async def health(_: Request) -> Response:
        if line := service.engine.status().lost:
            raise ApiError(line, 503)
        return JSONResponse({"status": "ok"})

    async def models(_: Request) -> Response:
        model = model_json(service)
        listed = {"object": "list", "data": [model], "has_more": False}
        return JSONResponse({**listed, "first_id": model["id"], "last_id": model["id"]})

    async def model(request: Request) -> Response:
        service.check_model(request.path_params["name"])
        return JSONResponse(model_json(service))

    async def error(request: Request, found: Exception) -> Response:
        is_route = isinstance(found, HTTPException)
        line = _no_route(request, found) if is_route else api_error(found)
        return JSONResponse(error_json(request.scope, line), line.status)

    routes = [
        *(
            Route(path, ReplyEndpoint(service, interface), methods=["POST"])
            for path, interface in INTERFACES.items()
        ),
        Route(COUNT, CountEndpoint(service), methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/health", health),
        Route("/metrics", metrics),
    ]
    handlers: Any = dict.fromkeys((HTTPException, ApiError, Exception), error)
    routed = Starlette(routes=routes, exception_handlers=handlers)
    routed.router.redirect_slashes = False
    return Guard(routed, service.options, error_json, PATHS, counts)


def error_json(scope: Scope, error: ApiError) -> dict[str, Any]:
    """The JSON of an error in the interface that a request is for."""
    versions = (name == b"anthropic-version" for name, _ in scope["headers"])
    if scope["path"].startswith("/v1/messages") or any(versions):
        return anthropic_error(error)
    return openai_error(error)


def model_json(service: Service) -> dict[str, Any]:
    """The model, in the form of both OpenAI and Anthropic."""
    context = service.engine.status().context
    more = {} if context is None else {"max_input_tokens": context, "context_length": context}
    return {
        "id": service.options.name,
        "object": "model",
        "created": service.started,
        "owned_by": "qwen35-mlx",
        "type": "model",
        "display_name": service.options.name,
        "created_at": datetime.fromtimestamp(service.started, UTC).isoformat(),
        "lifecycle": "active",
        **more,
    }


def _no_route(request: Request, found: HTTPException) -> ApiError:
    """The error for a path or a method that the server does not have."""
    if found.status_code == 405:
        allowed = (found.headers or {}).get("Allow", "another method")
        return ApiError(f"{request.url.path} takes {allowed}, not {request.method}", 405)
    paths = ", ".join(PATHS)
    return ApiError(f"there is no {request.url.path[:200]}: the paths are {paths}", 404)


class CountEndpoint:
    """Anthropic's `/v1/messages/count_tokens`: the length of the prompt, without a reply.

    It is cancelled when its client disconnects.
    """

    def __init__(self, service: Service):
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = JSONResponse({"input_tokens": await self._count(scope, receive)})
        except ClientGoneError:
            return
        except Exception as error:
            found = api_error(error)
            response = JSONResponse(anthropic_error(found), found.status)
        await response(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive) -> int:
        call = await read_body(receive, messages.read)
        self._service.check_model(call.model)
        exchange = Exchange()
        client = client_name(scope, call.user)
        with self._service.submitted(
            self._service.engine.count, call.request, client, exchange.deliver
        ):
            return await while_connected(receive, _measured(exchange))


async def _measured(exchange: Exchange) -> int:
    """The length of a prompt.

    Raises:
        ApiError: there is none.
    """
    while True:
        for event in await exchange.take(QUIET_SECONDS):
            if isinstance(event, Measured):
                return event.used
            if isinstance(event, Failed | Cancelled):
                raise last_error(event)
