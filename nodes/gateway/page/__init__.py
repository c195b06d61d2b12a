"""The status page: files beside this one, put together as one that loads nothing else."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import Final

STYLE: Final = "page.css"
# One scope, in this order.
SCRIPTS: Final = (
    "dom.js",
    "words.js",
    "gateway.js",
    "topology.js",
    "charts.js",
    "guesses.js",
    "tables.js",
    "tokens.js",
    "playground.js",
    "main.js",
)


@lru_cache(maxsize=1)
def page() -> tuple[bytes, str]:
    """The page, and the Content-Security-Policy that lets its own style and script run only."""
    script = '"use strict";\n(() => {\n' + "\n".join(map(_read, SCRIPTS)) + "})();\n"
    style = _read(STYLE)
    # What would end the element early is in none of them.
    assert "</" not in script
    assert "</" not in style
    content = _read("page.html").replace("/*style*/", style).replace("/*script*/", script)
    policy = (
        "default-src 'none'",
        f"script-src {_hash(script)}",
        f"style-src {_hash(style)}",
        "img-src data:",
        "connect-src 'self'",
        # Nothing that is made of texts becomes markup or script, whoever sent them.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return content.encode(), "; ".join(policy)


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
