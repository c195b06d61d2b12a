"""Wraps all routes: counts requests, checks host name, origin and API key, adds headers, and writes
errors."""

import logging
from collections.abc import Iterable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airdraft.mesh.errors import KeysError
from airdraft.nodes.gateway.apikeys import ANYBODY, ApiKey, ApiKeys
from airdraft.nodes.gateway.connections.connection import Connection
from airdraft.nodes.gateway.errors import ApiError, internal, unavailable
from airdraft.nodes.telemetry.metrics.gateway import GatewayMetrics, RequestMetrics

logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

# Reveals only that the process is alive, so any Host is accepted.
_HEALTH: Final = "/healthz"
# These need no key: the page contains nothing about the mesh and asks for a key itself.
_PUBLIC: Final = frozenset({_HEALTH, "/"})
_SECURITY: Final[Headers] = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]

_JSON: Final = "application/json"
# The status in logs and metrics if a client left before its answer; it is never sent.
CLIENT_LEFT: Final = 499


class Guard:
    """The ASGI application around all routes. allowed_hosts: accepted names in Host; None for any.

    allowed_origins: origins of pages of other sites. is_open: no key is needed until a key file
    exists. Once one has existed, a key is needed even if the file is removed.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: ApiKeys,
        metrics: GatewayMetrics,
        *,
        is_open: bool,
        allowed_hosts: Iterable[str] | None,
        allowed_origins: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._is_open = is_open
        self._allowed_hosts = None if allowed_hosts is None else frozenset(allowed_hosts)
        self._allowed_origins = frozenset(origin.encode() for origin in allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(reversed(scope["headers"]))
        origin = headers.get(b"origin", b"")
        status = CLIENT_LEFT
        state = scope.setdefault("state", {})
        request = state["metrics"] = self._metrics.request_started(scope["path"])

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = message.get("headers", [])
                names = {name for name, _ in own}
                added = [pair for pair in _SECURITY if pair[0] not in names]
                message["headers"] = [*own, *added, *self._cors(origin)]
            await send(message)

        try:
            self._check_host(scope, headers)
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await self._preflight(origin, headers)(scope, receive, sending)
                return
            state["key"] = self._key_of(scope, headers)
            await self._app(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - the server behind it would log users' texts
            answer = _answer_to(error)
            if status == CLIENT_LEFT:
                response = Response(answer.content(), answer.status, answer.headers(), _JSON)
                await response(scope, receive, sending)
            else:
                connection_of(scope).abort()
        finally:
            request.finished(status)

    def _check_host(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Refuse unknown names in Host: this prevents DNS rebinding by pages of other sites."""
        if self._allowed_hosts is None or scope["path"] == _HEALTH:
            return
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if name.strip("[]") not in self._allowed_hosts:
            raise ApiError(
                421, "the gateway does not accept this name in Host: see its setting allowed_hosts"
            )

    def _key_of(self, scope: Scope, headers: dict[bytes, bytes]) -> ApiKey:
        if scope["path"] in _PUBLIC:
            return ANYBODY
        if self._is_open:
            if not self._keys.are_needed():
                connection_of(scope).leave_strangers()
                return ANYBODY
            self._is_open = False
        kind, _, text = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if kind.lower() != "bearer":  # Anthropic's clients use this header.
            text = headers.get(b"x-api-key", b"").decode("latin-1")
        found = self._keys.find(text.strip()) if text.strip() else None
        if found is None:
            raise ApiError(
                401,
                "a valid API key is needed: send Authorization: Bearer KEY",
                kind="authentication_error",
                code="invalid_api_key",
            )
        connection_of(scope).leave_strangers()
        return found

    def _cors(self, origin: bytes) -> Headers:
        if not self._allowed_origins:
            return []
        vary = [(b"vary", b"origin")]
        if origin not in self._allowed_origins:
            return vary
        exposed = b"x-request-id, x-airdraft-seed, retry-after"
        return [
            *vary,
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", exposed),
        ]

    def _preflight(self, origin: bytes, headers: dict[bytes, bytes]) -> Response:
        if origin not in self._allowed_origins:
            raise ApiError(
                403, "pages of this origin may not use the gateway: see its setting cors_origins"
            )
        asked = headers.get(b"access-control-request-headers", b"").decode("latin-1")
        allowed = {
            "access-control-allow-methods": "GET, POST, DELETE",
            "access-control-allow-headers": asked,
            "access-control-max-age": "600",
        }
        return Response(status_code=204, headers=allowed)


def _answer_to(error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case HTTPException():
            allow = (error.headers or {}).get("Allow", "")
            code = "method_not_allowed" if allow else "not_found"
            return ApiError(error.status_code, error.detail, code=code, allow=allow)
        case KeysError():
            logger.error("%s", error)
            return unavailable("the file of API keys cannot be read: see the log of the gateway")
        case _:
            return internal(error)


def key_of(scope: Scope, wanted: str) -> ApiKey:
    """Returns the key of a request. Raises ApiError if it lacks the scope `wanted`."""
    key: ApiKey = scope["state"]["key"]
    if wanted not in key.scopes:
        raise ApiError(
            403, f"this API key lacks the scope {wanted!r}", kind="permission_error", code="scope"
        )
    return key


def metrics_of(scope: Scope) -> RequestMetrics:
    found: RequestMetrics = scope["state"]["metrics"]
    return found


def connection_of(scope: Scope) -> Connection:
    """The connection of a request."""
    found: Connection = scope["state"]["connection"]
    return found
