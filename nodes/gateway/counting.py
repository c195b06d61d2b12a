"""Counts requests for the metrics; it wraps the guard, so that refused requests count too."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nodes.telemetry.metrics.gateway import GatewayMetrics, RequestMetrics

# The status in logs and metrics if a client left before its answer; it is never sent.
CLIENT_LEFT: Final = 499


class Counted:
    """Counts requests to an application; metrics_of() returns the RequestMetrics of a request."""

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

        request = self._metrics.request_started(scope["path"])
        scope.setdefault("state", {})["metrics"] = request
        try:
            await self._app(scope, receive, sending)
        finally:
            request.finished(status)


def metrics_of(scope: Scope) -> RequestMetrics:
    found: RequestMetrics = scope["state"]["metrics"]
    return found
