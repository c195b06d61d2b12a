"""Answers by a JSON schema with bounds, checked against it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from bench.gateway.meshes import ALL_TOKENS, up

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


def fault_of_city(text: str) -> str:
    """Return the part of a text that does not match SCHEMA, "" if all matches."""
    try:
        found = json.loads(text)
    except ValueError:
        return "not valid JSON"
    if not isinstance(found, dict) or set(found) != {"city", "people", "sizes"}:
        return "other fields"
    city, people, sizes = found["city"], found["people"], found["sizes"]
    if not isinstance(city, str) or len(city) > 16:
        return "city"
    if type(people) is not int or not 0 <= people <= 99_999_999:
        return "people"
    if not isinstance(sizes, list) or len(sizes) > 3 or set(sizes) - {"small", "large"}:
        return "sizes"
    return ""


@dataclass(slots=True)
class Texts:
    """Counts of checked texts, distinct texts, and faults."""

    num_texts: int = 0
    distinct: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.num_texts - len(self.faults)} of {self.num_texts} texts valid, "
            f"{len(self.distinct)} different{''.join(f'{chr(10)}  {f}' for f in self.faults[:20])}"
        )


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
