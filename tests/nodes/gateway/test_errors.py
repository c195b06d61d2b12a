from __future__ import annotations

import json
import logging

import pytest

from nodes.client.client import RequestFailedError
from nodes.gateway.errors import ApiError, internal, of_failure, stopping


def test_an_error_has_the_shape_of_openais_and_anthropics() -> None:
    error = ApiError(400, "n: 1 to 4 is accepted", param="n", code="invalid_value")
    assert json.loads(error.content()) == {
        "type": "error",
        "error": {
            "message": "n: 1 to 4 is accepted",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_value",
        },
    }
    assert error.event() == b"data: " + error.content() + b"\n\n"


@pytest.mark.parametrize(
    ("code", "status", "headers"),
    [
        ("bad_request", 400, {}),
        ("overloaded", 429, {"retry-after": "1"}),
        ("unavailable", 503, {"retry-after": "2"}),
        ("deadline", 504, {}),
        ("internal", 500, {}),
        ("of another version", 500, {}),
    ],
)
def test_what_the_mesh_says_has_a_status(code: str, status: int, headers: dict[str, str]) -> None:
    error = of_failure(RequestFailedError(code, "why"))
    assert (error.status, error.headers(), error.message) == (status, headers, "why")


def test_a_fault_of_ours_is_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        try:
            raise ValueError("CANARY")
        except ValueError as error:
            answer = internal(error)
    assert answer.status == 500
    assert "CANARY" not in caplog.text + answer.message
    assert "ValueError" in caplog.text
    assert "test_errors.py" in caplog.text


def test_who_is_told_that_it_stops_has_to_connect_anew() -> None:
    error = stopping()
    assert error.status == 503
    assert error.headers() == {"retry-after": "2", "connection": "close"}
