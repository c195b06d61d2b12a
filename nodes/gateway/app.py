"""The routes of the gateway."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.gateway.anthropic import MESSAGES
from airdraft.nodes.gateway.bodies import BodyReader
from airdraft.nodes.gateway.chat import CHAT
from airdraft.nodes.gateway.completions import COMPLETIONS
from airdraft.nodes.gateway.config import GatewayConfig
from airdraft.nodes.gateway.errors import ApiError, no_such_model
from airdraft.nodes.gateway.generate import Generate, Shared
from airdraft.nodes.gateway.guard import key_of
from airdraft.nodes.gateway.idempotency import KeyedRequests
from airdraft.nodes.gateway.models import Looking, Models
from airdraft.nodes.gateway.page import page
from airdraft.nodes.gateway.request_rate import RequestRate
from airdraft.nodes.gateway.responses import RESPONSES
from airdraft.nodes.gateway.running import Running
from airdraft.nodes.gateway.scores import HeldScores
from airdraft.nodes.gateway.shape import VERSION, Api, now_unix
from airdraft.nodes.gateway.text_routes import TEXT_ROUTES, TextHandler, TextRoute
from airdraft.nodes.telemetry.metrics.gateway import GatewayMetrics
from airdraft.nodes.telemetry.metrics.mesh import MeshMetrics

logger = logging.getLogger(__name__)

APIS: Final = {
    "/v1/completions": COMPLETIONS,
    "/v1/chat/completions": CHAT,
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSES,
}
_REF: Final = "#/components/schemas/{model}"
_ERROR: Final = {
    "type": "object",
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field that is wrong"},
                "code": {"type": ["string", "null"]},
            },
        },
    },
}
# Prometheus waits for 10 s by default, and counts a gateway that takes longer as down.
_STATUS_LIMIT_S: Final = 5.0


class Gateway:
    """The routes and the state that they share."""

    def __init__(self, mesh: MeshClient, config: GatewayConfig) -> None:
        self.running = Running(config.limits.max_concurrent)
        self.looking = Looking(mesh)
        self.models = Models(mesh)
        self._max_requests = config.limits.max_concurrent
        self._started_unix = now_unix()
        shared = Shared(
            mesh,
            config,
            self.models,
            self.running,
            KeyedRequests(),
            HeldScores(config.limits.max_scores),
            BodyReader(),
            RequestRate(config.limits.max_requests_per_s),
        )
        self._routes = self._all_routes(shared)
        self.metrics = GatewayMetrics([route.path for route in self._routes])

    def _all_routes(self, shared: Shared) -> list[Route]:
        gets = {
            "/healthz": (self._healthz, "Whether the process is alive"),
            "/readyz": (self._readyz, "Whether a target accepts requests"),
            "/metrics": (self._metrics, "Metrics in Prometheus' text format"),
            "/api/status": (self._status, "The status of the mesh, as the status page shows it"),
            "/v1/models": (self._served, "The models that are served at present"),
        }
        specification = document(
            {path: summary for path, (_, summary) in gets.items()}, {**APIS, **TEXT_ROUTES}
        )

        async def openapi(_request: Request) -> JSONResponse:
            return JSONResponse(specification)

        routes = [
            Route("/", self._page),
            Route("/openapi.json", openapi),
            Route("/v1/models/{name:path}", self._model),
            *(Route(path, answer) for path, (answer, _) in gets.items()),
        ]
        for path, route in TEXT_ROUTES.items():
            routes.append(Route(path, TextHandler(shared, route), methods=["POST"]))
        for path, api in APIS.items():
            routes.append(Route(path, Generate(shared, api), methods=["POST"]))
            routes.append(Route(path + "/{request_id}", self._cancel, methods=["DELETE"]))
        return routes

    def router(self) -> ASGIApp:
        router = Router(self._routes, redirect_slashes=False)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            # With this entry the router raises HTTPException instead of writing its own errors.
            scope["app"] = router
            await router(scope, receive, send)

        return app

    async def _healthz(self, _request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, _request: Request) -> JSONResponse:
        self.running.check_open()
        await self.models.check_ready()
        return JSONResponse({"status": "ready"})

    async def _page(self, _request: Request) -> Response:
        content, policy = page()
        headers = {"content-security-policy": policy}
        return Response(content, media_type="text/html", headers=headers)

    async def _metrics(self, request: Request) -> Response:
        """Without an answer from the coordinator, airdraft_up of its role is 0 and the other
        metrics of the mesh are missing."""
        key_of(request.scope, "admin")
        try:
            async with asyncio.timeout(_STATUS_LIMIT_S):
                status = await self.looking.status.latest()
        except (ApiError, TimeoutError) as error:
            logger.debug("no status for metrics: %s", error)
            status = None
        content = generate_latest(MeshMetrics(status)) + generate_latest(self.metrics.registry)
        return Response(content, headers={"content-type": CONTENT_TYPE_LATEST})

    async def _status(self, request: Request) -> Response:
        key_of(request.scope, "admin")
        own: dict[str, object] = {
            "version": VERSION,
            "num_requests": len(self.running),
            "max_requests": self._max_requests,
        }
        return Response(await self.looking.document(own), media_type="application/json")

    async def _served(self, request: Request) -> JSONResponse:
        key_of(request.scope, "infer")
        data = await self.models.served(self._started_unix)
        return JSONResponse({"object": "list", "data": data})

    async def _model(self, request: Request) -> JSONResponse:
        key_of(request.scope, "infer")
        found = await self.models.find(request.path_params["name"], self._started_unix)
        if found is None:
            raise no_such_model()
        return JSONResponse(found)

    async def _cancel(self, request: Request) -> JSONResponse:
        key = key_of(request.scope, "infer")
        request_id = request.path_params["request_id"]
        whose = None if "admin" in key.scopes else key.name
        if not self.running.cancel(request_id, whose):
            raise ApiError(
                404, "no request with this id and API key is under way", code="not_found"
            )
        return JSONResponse({"id": request_id, "object": "request", "cancelled": True})


def document(gets: Mapping[str, str], posts: Mapping[str, Api | TextRoute]) -> dict[str, Any]:
    """The OpenAPI 3.1 document, from the pydantic models that check bodies.

    gets: path -> summary of its GET. posts: path -> its POST.
    """
    named, schemas = models_json_schema(
        [(post.body, "validation") for post in posts.values()], ref_template=_REF
    )
    failed = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    paths: dict[str, Any] = {
        path: {"get": {"summary": summary, "responses": {"200": {"description": "OK"}}}}
        for path, summary in gets.items()
    }
    for path, post in posts.items():
        answer: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
        if isinstance(post, Api):
            # For a body with "stream": true.
            answer["text/event-stream"] = {"schema": {"type": "string"}}
        asked = {"application/json": {"schema": named[post.body, "validation"]}}
        paths[path] = {
            "post": {
                "summary": post.summary,
                "requestBody": {"required": True, "content": asked},
                "responses": {
                    "200": {"description": "The answer", "content": answer},
                    "default": {"description": "The error", "content": failed},
                },
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "airdraft", "version": VERSION},
        "paths": paths,
        "security": [{"key": []}, {}],
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
