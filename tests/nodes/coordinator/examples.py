"""One well-formed message of each type, for tests of who may send which."""

from __future__ import annotations

from typing import Any

from airdraft.mesh.codec import decode
from bench.hostile.frames import Generator
from bench.pages.protocol import specs


def _one_of_each() -> tuple[Any, ...]:
    """In the order of their tags."""
    kinds = [spec.layout.cls for spec in specs()]
    generator, found = Generator(1), dict[type, Any]()
    while found.keys() != set(kinds):
        message = decode(generator.valid()).message
        found[type(message)] = message
    return tuple(found[kind] for kind in kinds)


MESSAGES = _one_of_each()
