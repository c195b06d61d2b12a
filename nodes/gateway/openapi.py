"""/openapi.json: describes what the routes accept, from the pydantic models that check it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from nodes.gateway.shape import Api
from nodes.gateway.text_routes import Reading

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


def document(
    gets: Mapping[str, str], posts: Mapping[str, Api | Reading], version: str
) -> dict[str, Any]:
    """Make an OpenAPI 3.1 document. gets: path -> summary of its GET. posts: path -> its POST."""
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
        "info": {"title": "airdraft", "version": version},
        "paths": paths,
        "security": [{"key": []}, {}],
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
