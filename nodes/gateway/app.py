"""The routes of the gateway."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from nodes.client import RequestFailedError
from nodes.gateway import chat, completions
from nodes.gateway.apikeys import ApiKey
from nodes.gateway.config import GatewayLimits
from nodes.gateway.counting import CLIENT_LEFT, ROUTES, metrics_of
from nodes.gateway.errors import ApiError, no_such_model, of_failure
from nodes.gateway.exchange import ClientLeftError, Exchange
from nodes.gateway.fields import Job
from nodes.gateway.guard import abort, key_of, send_error
from nodes.gateway.looking import Looking
from nodes.gateway.models import Mesh, Models
from nodes.gateway.page import page
from nodes.gateway.running import Running
from nodes.gateway.schema import parse_json
from nodes.gateway.shape import VERSION, Shape, new_id, now_unix
from nodes.metrics.exposition import CONTENT_TYPE, render_metrics
from nodes.metrics.gateway import GatewayMetrics

logger = logging.getLogger(__name__)


class Fields(Protocol):
    """How an API reads bodies; made once for each set of limits."""

    def job(self, body: dict[str, Any]) -> Job: ...

    def shape(self, body: dict[str, Any], job: Job) -> Shape: ...


class Gateway:
    """What the routes share."""

    def __init__(self, mesh: Mesh, limits: GatewayLimits) -> None:
        self.mesh = mesh
        self.limits = limits
        self.models = Models(mesh)
        self.running = Running(limits.max_concurrent)
        self.looking = Looking(mesh)
        self.metrics = GatewayMetrics(ROUTES)
        self._started_unix = now_unix()

    def router(self) -> ASGIApp:
        kinds: list[tuple[str, str, type[Fields]]] = [
            ("/v1/completions", completions.ID_PREFIX, completions.CompletionFields),
            ("/v1/chat/completions", chat.ID_PREFIX, chat.ChatFields),
        ]
        routes = [
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/", self._page),
            Route("/metrics", self._metrics),
            Route("/api/status", self._status),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
        ]
        for path, prefix, fields in kinds:
            generate = Generate(self, prefix, fields)
            routes.append(Route(path, generate, methods=["POST"]))
            routes.append(Route(path + "/{request_id}", self._cancel, methods=["DELETE"]))
        router = Router(routes, redirect_slashes=False)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            # Makes the router raise what it finds wrong instead of answering in a shape of its own.
            scope["app"] = router
            await router(scope, receive, send)

        return app

    async def _healthz(self, _request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, _request: Request) -> JSONResponse:
        await self.models.check_ready()
        return JSONResponse({"status": "ready"})

    async def _page(self, _request: Request) -> Response:
        content, policy = page()
        headers = {"content-security-policy": policy}
        return Response(content, media_type="text/html", headers=headers)

    async def _metrics(self, request: Request) -> Response:
        key_of(request.scope, "admin")
        content = await render_metrics(self.looking.status, self.metrics)
        return Response(content, headers={"content-type": CONTENT_TYPE})

    async def _status(self, request: Request) -> Response:
        key_of(request.scope, "admin")
        own: dict[str, object] = {
            "version": VERSION,
            "num_requests": len(self.running),
            "max_requests": self.limits.max_concurrent,
            "num_streams": self.metrics.num_streams,
        }
        try:
            content = await self.looking.document(own)
        except RequestFailedError as error:
            raise of_failure(error) from error
        return Response(content, media_type="application/json")

    async def _models(self, request: Request) -> JSONResponse:
        key_of(request.scope, "infer")
        served = await self.models.served()
        data = [served[name].as_json(self._started_unix) for name in sorted(served)]
        return JSONResponse({"object": "list", "data": data})

    async def _model(self, request: Request) -> JSONResponse:
        key_of(request.scope, "infer")
        name = request.path_params["name"]
        served = await self.models.served()
        # As the coordinator has it, the ending of a file may be left out.
        found = served.get(name) or served.get(f"{name}.gguf")
        if found is None:
            raise no_such_model()
        return JSONResponse(found.as_json(self._started_unix))

    async def _cancel(self, request: Request) -> JSONResponse:
        key = key_of(request.scope, "infer")
        request_id = request.path_params["request_id"]
        whose = None if "admin" in key.scopes else key.name
        if not self.running.cancel(request_id, whose):
            raise ApiError(404, "no request of this id and key is under way", code="not_found")
        return JSONResponse({"id": request_id, "object": "request", "cancelled": True})


class Generate:
    """POST of one of the two APIs."""

    def __init__(self, gateway: Gateway, id_prefix: str, fields: type[Any]) -> None:
        self._gateway = gateway
        self._id_prefix = id_prefix
        self._fields = lru_cache(maxsize=64)(fields)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = key_of(scope, "infer")
        record = _Record(new_id(self._id_prefix), key.name)
        try:
            await self._answer(scope, receive, send, key, record)
        except ApiError as error:
            record.status = error.status
            await send_error(error, send)
        except (ClientLeftError, ClientDisconnect):
            record.status = CLIENT_LEFT
        finally:
            metrics_of(scope).finished(record.status)
            record.log()

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, key: ApiKey, record: _Record
    ) -> None:
        gateway = self._gateway
        limits = limits_of(gateway.limits, key)
        # First of all: what is read of bodies, too, is bounded by how many there may be.
        with gateway.running.entered(
            record.request_id, key.name, limits.max_concurrent_per_key
        ) as run:
            body = parse_json(await _body(Request(scope, receive), limits.max_body_bytes))
            fields: Fields = self._fields(limits)
            job = fields.job(body)
            shape = fields.shape(body, job)
            # What is left of it is the answer's, not the question's.
            del body
            # Whether there is such a model the coordinator knows best.
            await gateway.models.check_ready()
            exchange = record.exchange = Exchange(
                gateway.mesh,
                job,
                shape,
                run,
                owner=f"{key.name}/{job.user}" if job.user else key.name,
                created_unix=now_unix(),
                metrics=metrics_of(scope),
                abort=lambda: abort(scope),
            )
            if job.stream:
                await exchange.stream(
                    receive, send, limits.max_unsent_bytes, limits.write_timeout_s
                )
            else:
                await _send_whole(await exchange.whole(receive), exchange, send)
        record.status = 200 if exchange.failure is None else exchange.failure.status


class _Record:
    """What the log says of a request: never any of its text."""

    def __init__(self, request_id: str, key: str) -> None:
        self.request_id = request_id
        # Until something else is known.
        self.status = 500
        self.exchange: Exchange | None = None
        self._key = key
        self._started = time.monotonic()

    def log(self) -> None:
        num_tokens = 0 if self.exchange is None else self.exchange.answers.num_tokens
        logger.info(
            "request %s of %s: status %d, %d tokens, %.3f s",
            self.request_id,
            self._key,
            self.status,
            num_tokens,
            time.monotonic() - self._started,
        )


def limits_of(limits: GatewayLimits, key: ApiKey) -> GatewayLimits:
    """A key's own limits, where it has some: they may be higher, but for those of all."""
    return replace(
        limits,
        max_concurrent_per_key=key.max_concurrent or limits.max_concurrent_per_key,
        max_tokens=key.max_tokens or limits.max_tokens,
        max_choices=min(key.max_choices or limits.max_choices, 64),
    )


async def _body(request: Request, max_bytes: int) -> bytes:
    """The body of a request. Raises ApiError where it is too large or no JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Pages of other sites may post anything else without being asked whether they may.
        raise ApiError(415, "Content-Type: application/json is needed", code="invalid_content_type")
    too_large = ApiError(413, f"the body has more than {max_bytes} bytes", code="body_too_large")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


async def _send_whole(content: bytes, exchange: Exchange, send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *exchange.headers(),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
