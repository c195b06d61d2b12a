"""/openapi.json: what the routes accept, from the pydantic models that check it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from nodes.gateway.bodies import Body

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
_GETS: Final = {
    "/v1/models": "The models that are served now",
    "/healthz": "Whether the process lives",
    "/readyz": "Whether a target takes requests",
    "/metrics": "For Prometheus",
    "/api/status": "What the status page shows",
}


def document(
    bodies: Mapping[str, tuple[type[Body], str]], streams: frozenset[str], version: str
) -> dict[str, Any]:
    """An OpenAPI 3.1 document. bodies: what is posted to each path, and what for; streams: the
    paths that answer with server-sent events where the body says `"stream": true`."""
    kinds = {kind for kind, _ in bodies.values()}
    named, schemas = models_json_schema(
        [(kind, "validation") for kind in sorted(kinds, key=lambda kind: kind.__name__)],
        ref_template=_REF,
    )
    failed = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    paths: dict[str, Any] = {
        path: {"get": {"summary": summary, "responses": {"200": {"description": "It is"}}}}
        for path, summary in _GETS.items()
    }
    for path, (kind, summary) in bodies.items():
        answer: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
        if path in streams:
            answer["text/event-stream"] = {"schema": {"type": "string"}}
        asked = {"application/json": {"schema": named[kind, "validation"]}}
        paths[path] = {
            "post": {
                "summary": summary,
                "requestBody": {"required": True, "content": asked},
                "responses": {
                    "200": {"description": "The answer", "content": answer},
                    "default": {"description": "What went wrong", "content": failed},
                },
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "airdraft", "version": version},
        "paths": paths,
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
