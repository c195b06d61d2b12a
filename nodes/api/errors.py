"""What can go wrong for who asks a mesh. The text of each says it in a line."""

from __future__ import annotations


class AirdraftError(Exception):
    """The base of all errors of this package."""


class ConnectError(AirdraftError):
    """There is no connection: nobody answers, or a key is missing or not authorized."""


class ConnectionLostError(AirdraftError):
    """The coordinator does not let this client in any more, or the client was closed."""


class RequestError(AirdraftError):
    """The mesh did not serve a request."""


class InvalidRequestError(RequestError):
    """The request itself is at fault, or names a model that no target has."""


class OverloadedError(RequestError):
    """Too much is under way; the same request may succeed later."""


class UnavailableError(RequestError):
    """No target can serve it now, and none came back within 30 s."""


class InternalError(RequestError):
    """The mesh failed."""


class AnswerTimeoutError(RequestError, TimeoutError):
    """The answer was not there in the time allowed, and the request was cancelled."""


_BY_CODE = {
    "bad_request": InvalidRequestError,
    "not_found": InvalidRequestError,
    "overloaded": OverloadedError,
    "unavailable": UnavailableError,
    "deadline": AnswerTimeoutError,
}


def request_error(code: str, reason: str) -> RequestError:
    """The error of a RequestFailedNotice."""
    return _BY_CODE.get(code, InternalError)(reason)
