"""The status page: joins the files of this folder into one page that loads nothing else."""

import base64
import hashlib
import json
from functools import lru_cache
from importlib.resources import files
from typing import Final

from airdraft.nodes.telemetry.counts import PLAIN_TEXTS

STYLE: Final = "page.css"
# The scripts share one scope and run in this order.
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
    """Returns the page and a Content-Security-Policy that allows only its own style and script."""
    # The words for the labels of passes without guesses are those of all other displays.
    plain = json.dumps({label: text for label, (text, _) in PLAIN_TEXTS.items()})
    scripts = "\n".join(map(_read, SCRIPTS))
    script = f'"use strict";\n(() => {{\nconst PLAIN = {plain};\n{scripts}}})();\n'
    style = _read(STYLE)
    # A closing tag would end the <script> or <style> element early.
    assert "</" not in script
    assert "</" not in style
    content = _read("page.html").replace("/*style*/", style).replace("/*script*/", script)
    policy = (
        "default-src 'none'",
        f"script-src {_hash(script)}",
        f"style-src {_hash(style)}",
        "img-src data:",
        "connect-src 'self'",
        # The browser never turns text into markup or script, whatever its origin.
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
