"""The routes and fields of the gateway, from its OpenAPI description and the models behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Container, Iterator, MutableMapping
from typing import Any, Final, cast

from bench.pages.markdown import code, item, number, table, wrapped
from nodes.gateway import anthropic, chat, completions, fields, responses, text_routes
from nodes.gateway.app import Gateway
from nodes.gateway.bodies import Body
from nodes.gateway.config import GatewayConfig
from nodes.gateway.models import Mesh

_OPENAPI: Final = "/openapi.json"


def openapi() -> dict[str, Any]:
    """The document, as a client gets it."""
    # Nothing is asked of a mesh for it.
    app = Gateway(cast(Mesh, None), GatewayConfig()).router()
    parts: list[bytes] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request"}

    async def send(message: MutableMapping[str, Any]) -> None:
        parts.append(message.get("body", b""))

    scope = {"type": "http", "method": "GET", "path": _OPENAPI, "root_path": "", "headers": []}

    async def ask() -> None:
        await app(scope, receive, send)

    asyncio.run(ask())
    found: dict[str, Any] = json.loads(b"".join(parts))
    return found


def routes() -> str:
    rows = [
        (code(f"{method.upper()} {path}"), operation["summary"] + ".")
        for path, methods in openapi()["paths"].items()
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
        schema = kind.model_json_schema()
        fields = _schema_of(without).get("properties", {})
        definitions = {**_schema_of(without).get("$defs", {}), **_schema_of(known).get("$defs", {})}
        objects = dict[str, None]()
        parts = [_list(schema, fields, objects), *_unused(kind, without)]
        done = {*definitions}
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
    if kind.refused:
        said = [
            code(name)
            + (f" (unless {' or '.join(code(json.dumps(v)) for v in values)})" if values else "")
            for name, values in kind.refused.items()
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
            return f"list{_size(field, 'minItems', 'maxItems')} ({inner})"
        case "string":
            size = _size(field, "minLength", "maxLength")
            return f"text{size} characters" if size else "text"
        case "integer" | "number":
            return kind + _bounds(field)
        case "object" if isinstance(field.get("additionalProperties"), dict):
            inner = _accepted(field["additionalProperties"], objects)
            return f"object{_size(field, '', 'maxProperties')} ({inner})"
    return kind


def _size(field: dict[str, Any], least: str, most: str) -> str:
    low, high = field.get(least), field.get(most)
    if high is None:
        return "" if low is None else f" of {low} or more"
    return f" of at most {number(high)}" if low is None else f" of {low} to {number(high)}"


def _bounds(field: dict[str, Any]) -> str:
    low: Any = field.get("minimum")
    high: Any = field.get("maximum")
    if "exclusiveMaximum" in field:
        high = field["exclusiveMaximum"] - 1
    if high is None:
        return "" if low is None else f" of {number(low)} or more"
    return f" {number(low)} to {number(high)}"


SAMPLING: Final = fields_of(fields.Sampling)
OPENAI: Final = fields_of(fields.OpenAiBody, without=fields.Sampling)
COMPLETIONS: Final = fields_of(completions.CompletionBody, without=fields.OpenAiBody)
CHAT: Final = fields_of(chat.ChatBody, without=fields.OpenAiBody)
RESPONSES: Final = fields_of(responses.ResponsesBody, without=fields.Sampling)
MESSAGES: Final = fields_of(anthropic.MessagesBody, without=fields.Sampling)
EMBEDDINGS: Final = fields_of(text_routes.EmbeddingsBody)
TOKENIZE: Final = fields_of(text_routes.TokenizeBody, known=chat.ChatBody)
DETOKENIZE: Final = fields_of(text_routes.DetokenizeBody)
