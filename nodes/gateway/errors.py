"""Errors that clients of the HTTP API receive, in OpenAI's shape."""

import json
import logging
import traceback
from dataclasses import KW_ONLY, dataclass
from http import HTTPStatus
from typing import Any, Final

from airdraft.mesh.errors import LocalProtocolError
from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.service.runtime import first_cause

logger = logging.getLogger(__name__)

# Code of a RequestFailedError -> status, type, and seconds after which a retry may succeed.
_FAILURES: Final[dict[str, tuple[int, str, int | None]]] = {
    "bad_request": (400, "invalid_request_error", None),
    "overloaded": (429, "rate_limit_error", 1),
    "unavailable": (503, "server_error", 2),
    "deadline": (504, "server_error", None),
    "internal": (500, "server_error", None),
}


@dataclass(eq=False)
class ApiError(Exception):
    """The request ends with this status.

    param: the field that is wrong, such as `messages[0].role`. retry_after_s: the value of the
    header Retry-After. allow: the methods that the route has, for the header Allow. closes: whether
    the connection takes no further requests.
    """

    status: int
    message: str
    _: KW_ONLY
    kind: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    retry_after_s: int | None = None
    allow: str = ""
    closes: bool = False

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        """The body as OpenAI's clients read it; its outer `type` is for Anthropic's clients."""
        return {
            "type": "error",
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            },
        }

    def content(self) -> bytes:
        return json.dumps(self.body()).encode()

    def headers(self) -> dict[str, str]:
        found = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        if self.allow:
            found["allow"] = self.allow
        return {**found, "connection": "close"} if self.closes else found

    def response(self) -> bytes:
        """The whole answer, for where no application answers."""
        content = self.content()
        sized = {"content-type": "application/json", "content-length": str(len(content))}
        headers = "".join(
            f"{name}: {value}\r\n" for name, value in (sized | self.headers()).items()
        )
        phrase = HTTPStatus(self.status).phrase
        return f"HTTP/1.1 {self.status} {phrase}\r\n{headers}\r\n".encode() + content


def failed(code: str, message: str, *, closes: bool = False) -> ApiError:
    """The error for a code of RequestFailedError."""
    status, kind, retry_s = _FAILURES.get(code, _FAILURES["internal"])
    return ApiError(status, message, kind=kind, code=code, retry_after_s=retry_s, closes=closes)


def of_exception(error: BaseException) -> ApiError:
    """Translate an exception that was raised during a request to the mesh."""
    cause = first_cause(error)
    if isinstance(cause, ApiError):
        return cause
    if isinstance(cause, RequestFailedError):
        return no_such_model() if cause.code == "not_found" else failed(cause.code, str(cause))
    if isinstance(cause, LocalProtocolError):
        # A character may take four bytes, so a body within its limits may still be too large.
        reason = "the request has more bytes than a message of the mesh may have: shorten it"
        return ApiError(413, reason, code="request_too_large")
    return internal(cause)


def no_such_model() -> ApiError:
    return ApiError(
        404,
        "model: no such model is served; /v1/models lists the models that are",
        param="model",
        code="model_not_found",
    )


def unavailable(message: str, *, closes: bool = False) -> ApiError:
    return failed("unavailable", message, closes=closes)


def internal(error: BaseException) -> ApiError:
    """Log a fault of the gateway and return the error for it.

    The log has the place but not the exception's text, which may contain a user's text.
    """
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    where = " < ".join(f"{f.name} ({f.filename}:{f.lineno})" for f in reversed(frames))
    logger.error("internal error: %s in %s", type(error).__name__, where)
    return failed("internal", "internal error: see the log of the gateway")
