"""Errors of the Python library. The text of each is one line."""

from __future__ import annotations


class AirdraftError(Exception):
    """The base of all errors of this package."""


class ConnectError(AirdraftError):
    """Connecting failed: no coordinator answers, or a key is missing or not authorized."""


class ConnectionLostError(AirdraftError):
    """The coordinator no longer admits this client, or the client was closed."""


class RequestError(AirdraftError):
    """The mesh did not serve a request."""


class InvalidRequestError(RequestError):
    """The request is invalid, or names a model that no target has."""


class OverloadedError(RequestError):
    """Too many requests are under way; the same request may succeed later."""


class UnavailableError(RequestError):
    """No target can serve the request: there is none, or none came back within 30 s."""


class InternalError(RequestError):
    """The mesh itself has failed."""


class AnswerTimeoutError(RequestError, TimeoutError):
    """The answer was not complete in the time allowed, and the request was cancelled."""


_BY_CODE = {
    "bad_request": InvalidRequestError,
    "not_found": InvalidRequestError,
    "overloaded": OverloadedError,
    "unavailable": UnavailableError,
    "deadline": AnswerTimeoutError,
}


def request_error(code: str, reason: str) -> RequestError:
    """Make the error for a RequestFailedNotice."""
    return _BY_CODE.get(code, InternalError)(reason)
