"""One well-formed message of each type, for tests of who may send which."""

from __future__ import annotations

from typing import Any

import mesh.messages
import nodes.messages
from bench.hostile.frames import Generator, message_specs
from mesh.codec import decode

_MODULES = (mesh.messages.__name__, nodes.messages.__name__ + ".")


def _one_of_each() -> tuple[Any, ...]:
    """In the order of their tags. Tests of the codec declare messages that are none of ours."""
    kinds = [spec.layout.cls for spec in message_specs()]
    ours = [kind for kind in kinds if kind.__module__.startswith(_MODULES)]
    generator, found = Generator(1), dict[type, Any]()
    while not found.keys() >= set(ours):
        message = decode(generator.valid()).message
        found[type(message)] = message
    return tuple(found[kind] for kind in ours)


MESSAGES = _one_of_each()
