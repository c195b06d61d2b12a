"""Answers by a JSON schema with bounds, checked against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.harness.report import Findings
from bench.harness.up import ALL_TOKENS, up

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 16},
        "people": {"type": "integer", "minimum": 0, "maximum": 99_999_999},
        "sizes": {"type": "array", "items": {"enum": ["small", "large"]}, "maxItems": 3},
    },
    "required": ["city", "people", "sizes"],
    "additionalProperties": False,
}
# More than the tokens of the longest text that the schema permits.
_MAX_TOKENS: Final = 160
_CHOICES: Final = 4


class _City(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    city: Annotated[str, Field(max_length=16)]
    people: Annotated[int, Field(ge=0, le=99_999_999)]
    sizes: Annotated[list[Literal["small", "large"]], Field(max_length=3)]


def fault_of_city(text: str) -> str:
    """Return the part of a text that does not match SCHEMA, "" if all matches."""
    try:
        _City.model_validate_json(text)
    except ValidationError as error:
        return ".".join(map(str, error.errors()[0]["loc"])) or "not an object"
    return ""


@dataclass(slots=True)
class Texts(Findings):
    """Counts of checked texts, and distinct texts."""

    num_texts: int = 0
    distinct: set[str] = field(default_factory=set)

    def summary(self) -> list[str]:
        num_valid = self.num_texts - len(self.faults)
        return [f"{num_valid} of {self.num_texts} texts valid, {len(self.distinct)} different"]


def run_schema(num_texts: int) -> Texts:
    """Request texts by SCHEMA from the default pair at temperature 1, and check them."""
    texts = Texts()
    with up() as mesh, httpx.Client(base_url=mesh.url, timeout=120) as client:
        for seed in range(-(-num_texts // _CHOICES)):
            body = {
                "messages": [{"role": "user", "content": "A city, its people and sizes, as JSON."}],
                "max_tokens": _MAX_TOKENS,
                "seed": seed,
                "temperature": 1,
                **ALL_TOKENS,
                "n": min(_CHOICES, num_texts - texts.num_texts),
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
                },
            }
            answer = client.post("/chat/completions", json=body).raise_for_status().json()
            for choice in answer["choices"]:
                text = choice["message"]["content"]
                texts.num_texts += 1
                texts.distinct.add(text)
                if fault := fault_of_city(text):
                    texts.faults.append(f"{fault}, {choice['finish_reason']}: {text!r}")
    return texts
