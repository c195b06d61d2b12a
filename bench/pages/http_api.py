"""The routes and fields of the gateway, from its OpenAPI description and the models behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Container, Iterator
from typing import Any, Final, cast

import httpx

from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.gateway import anthropic, chat, completions, fields, responses, text_routes
from airdraft.nodes.gateway.app import Gateway
from airdraft.nodes.gateway.bodies import Body
from airdraft.nodes.gateway.config import GatewayConfig
from bench.pages.markdown import code, item, number, table, wrapped


async def openapi() -> dict[str, Any]:
    """The document, as a client gets it."""
    # Nothing is asked of a mesh for it.
    transport = httpx.ASGITransport(Gateway(cast(MeshClient, None), GatewayConfig()).router())
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        found: dict[str, Any] = (await client.get("/openapi.json")).json()
        return found


def routes() -> str:
    rows = [
        (code(f"{method.upper()} {path}"), operation["summary"] + ".")
        for path, methods in asyncio.run(openapi())["paths"].items()
        for method, operation in methods.items()
    ]
    return table(("route", "answer"), rows)


def fields_of(
    kind: type[Body], *, without: type[Body] | None = None, known: type[Body] | None = None
) -> Callable[[], str]:
    """The fields of a body and of the objects in it. without: a body whose fields are told apart.
    known: one whose objects are.
    """

    def made() -> str:
        schema, told = kind.model_json_schema(), _schema_of(without)
        objects = dict[str, None]()
        parts = [_list(schema, told.get("properties", {}), objects), *_unused(kind, without)]
        done = {*told.get("$defs", {}), *_schema_of(known).get("$defs", {})}
        while rest := [name for name in objects if name not in done]:
            for name in rest:
                done.add(name)
                parts += [f"{code(name)} has:", _list(schema["$defs"][name], {}, objects)]
        return "\n\n".join(parts)

    return made


def _schema_of(kind: type[Body] | None) -> dict[str, Any]:
    return {} if kind is None else kind.model_json_schema()


def _list(schema: dict[str, Any], known: Container[str], objects: dict[str, None]) -> str:
    needed = schema.get("required", ())
    return "\n".join(
        item(f"{code(name)}{' (needed)' if name in needed else ''}: {_accepted(field, objects)}")
        for name, field in schema["properties"].items()
        if name not in known
    )


def _unused(kind: type[Body], without: type[Body] | None) -> Iterator[str]:
    ignored = kind.hints - (without.hints if without else frozenset())
    if ignored:
        yield wrapped(f"Ignored: {', '.join(code(name) for name in sorted(ignored))}.")
    known = without.refused if without else {}
    if refused := {name: values for name, values in kind.refused.items() if name not in known}:
        said = [
            code(name)
            + (f" (unless {' or '.join(code(json.dumps(v)) for v in values)})" if values else "")
            for name, values in refused.items()
        ]
        yield wrapped(f"Refused: {', '.join(said)}.")


def _accepted(field: dict[str, Any], objects: dict[str, None]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        objects.setdefault(name)
        return code(name)
    if "enum" in field or "const" in field:
        values = field.get("enum", [field.get("const")])
        return " or ".join(code(json.dumps(value)) for value in values)
    for several in ("anyOf", "oneOf"):
        if several in field:
            kinds = [_accepted(each, objects) for each in field[several]]
            return ", or ".join(kind for kind in kinds if kind != "null")
    kind = str(field.get("type", "any JSON"))
    match kind:
        case "array":
            inner = _accepted(field["items"], objects)
            return f"list{_limits(field, 'minItems', 'maxItems')} ({inner})"
        case "string":
            size = _limits(field, "minLength", "maxLength")
            return f"text{size} characters" if size else "text"
        case "integer" | "number":
            if "exclusiveMaximum" in field:
                field = {**field, "maximum": field["exclusiveMaximum"] - 1}
            return kind + _limits(field, "minimum", "maximum")
        case "object" if isinstance(field.get("additionalProperties"), dict):
            inner = _accepted(field["additionalProperties"], objects)
            return f"object{_limits(field, '', 'maxProperties')} ({inner})"
    return kind


def _limits(field: dict[str, Any], least: str, most: str) -> str:
    low, high = field.get(least), field.get(most)
    if high is None:
        return "" if low is None else f" of {number(low)} or more"
    return f" of at most {number(high)}" if low is None else f" of {number(low)} to {number(high)}"


BODIES: Final = {
    "sampling": fields_of(fields.Sampling),
    "openai": fields_of(fields.OpenAiBody, without=fields.Sampling),
    "completions": fields_of(completions.CompletionBody, without=fields.OpenAiBody),
    "chat": fields_of(chat.ChatBody, without=fields.OpenAiBody),
    "responses": fields_of(responses.ResponsesBody, without=fields.Sampling),
    "messages": fields_of(anthropic.MessagesBody, without=fields.Sampling),
    "embeddings": fields_of(text_routes.EmbeddingsBody),
    "tokenize": fields_of(text_routes.TokenizeBody, known=chat.ChatBody),
    "detokenize": fields_of(text_routes.DetokenizeBody),
}
