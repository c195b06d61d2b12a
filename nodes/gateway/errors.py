"""What a client of the API is told when it cannot be served, in OpenAI's shape."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any, Final

from mesh.errors import LocalProtocolError
from nodes.client.client import RequestFailedError
from nodes.service.runtime import first_cause

logger = logging.getLogger(__name__)

# Codes of RequestFailedError: status, type, and seconds after which asking again may help.
_FAILURES: Final[dict[str, tuple[int, str, int | None]]] = {
    "bad_request": (400, "invalid_request_error", None),
    "overloaded": (429, "rate_limit_error", 1),
    "unavailable": (503, "server_error", 2),
    "deadline": (504, "server_error", None),
    "internal": (500, "server_error", None),
}


class ApiError(Exception):
    """A request ends with this status.

    param: the field that is wrong, as `messages[0].role`. retry_after_s: for the header. closes:
    nothing more is taken on this connection.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self.closes = closes

    def body(self) -> dict[str, Any]:
        """As OpenAI's clients read it, and with its `type` as Anthropic's do."""
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

    def event(self) -> bytes:
        """What a stream says that has begun already."""
        return b"data: " + self.content() + b"\n\n"

    def headers(self) -> dict[str, str]:
        found = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return {**found, "connection": "close"} if self.closes else found


def of_failure(error: RequestFailedError) -> ApiError:
    """What the mesh said, for the client."""
    if error.code == "not_found":
        return no_such_model()
    status, kind, retry_after_s = _FAILURES.get(error.code, _FAILURES["internal"])
    return ApiError(status, str(error), kind=kind, code=error.code, retry_after_s=retry_after_s)


def of_exception(error: BaseException) -> ApiError:
    """What went wrong while the mesh was asked, for the client."""
    cause = first_cause(error)
    if isinstance(cause, ApiError):
        return cause
    if isinstance(cause, RequestFailedError):
        return of_failure(cause)
    if isinstance(cause, LocalProtocolError):
        # A character may take four bytes: not all that a body may have fits.
        reason = "the request has more bytes than a message of the mesh may"
        return ApiError(413, reason, code="request_too_large")
    return internal(cause)


def no_such_model() -> ApiError:
    return ApiError(
        404,
        "model: the one asked for is not served; /v1/models tells which are",
        param="model",
        code="model_not_found",
    )


def unavailable(message: str) -> ApiError:
    return of_failure(RequestFailedError("unavailable", message))


def stopping() -> ApiError:
    error = unavailable("the gateway is being stopped")
    error.closes = True
    return error


def overloaded(message: str) -> ApiError:
    return of_failure(RequestFailedError("overloaded", message))


def internal(error: BaseException) -> ApiError:
    """A fault of ours, which is logged: where, but not with its text, which may be a user's."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    where = " < ".join(f"{f.name} ({f.filename}:{f.lineno})" for f in reversed(frames))
    logger.error("internal error: %s in %s", type(error).__name__, where)
    return of_failure(RequestFailedError("internal", "an internal error; the gateway's log has it"))
