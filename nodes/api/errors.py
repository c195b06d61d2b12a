"""What can go wrong for who asks a mesh. The text of each says it in a line."""

from __future__ import annotations


class AirdraftError(Exception):
    """Base of all errors of this package."""


class ConnectError(AirdraftError):
    """There is no connection: nobody answers, a key is missing or not authorized there."""


class ConnectionLostError(AirdraftError):
    """The connection was there and is not any more; or the client was closed."""


class RequestError(AirdraftError):
    """The mesh did not serve a request."""


class InvalidRequestError(RequestError):
    """The request itself is at fault: asked again, it fails again."""


class OverloadedError(RequestError):
    """Too much is under way: ask again later."""


class UnavailableError(RequestError):
    """No node can serve it now, or the one that did was lost."""


class InternalError(RequestError):
    """The mesh failed."""


class AnswerTimeoutError(RequestError, TimeoutError):
    """The answer was not there in the time allowed; the request was cancelled."""


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
