"""Requests as metrics count them: around everything else, so that what is refused counts, too."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nodes.metrics.gateway import GatewayMetrics, RequestMetrics

# What logs and metrics say of a client that did not wait for its answer; it gets no status.
CLIENT_LEFT: Final = 499
# Before an id or a name: paths with it are one route.
_PREFIXES: Final = {
    "/v1/models/": "/v1/models/{id}",
    "/v1/completions/": "/v1/completions/{id}",
    "/v1/chat/completions/": "/v1/chat/completions/{id}",
    "/v1/messages/": "/v1/messages/{id}",
    "/v1/responses/": "/v1/responses/{id}",
}
ROUTES: Final = (
    *("/", "/healthz", "/readyz", "/metrics", "/api/status"),
    *("/v1/models", "/v1/completions", "/v1/chat/completions"),
    *("/v1/messages", "/v1/responses", "/v1/messages/count_tokens", "/v1/embeddings"),
    *("/tokenize", "/detokenize", "/openapi.json"),
    *_PREFIXES.values(),
)


def route_of(path: str) -> str:
    """The route under which a path is counted; what is none of ours stays as it is."""
    if path in ROUTES:
        return path
    for prefix, route in _PREFIXES.items():
        if path.startswith(prefix):
            return route
    return path


class Counted:
    """Counts requests to an application; requests find their RequestMetrics by metrics_of."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = CLIENT_LEFT

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        request = self._metrics.request_started(route_of(scope["path"]))
        scope.setdefault("state", {})["metrics"] = request
        try:
            await self._app(scope, receive, sending)
        finally:
            request.finished(status)


def metrics_of(scope: Scope) -> RequestMetrics:
    found: RequestMetrics = scope["state"]["metrics"]
    return found
