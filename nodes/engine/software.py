"""What a text depends on beside a model's logits, as one digest: part of the numerics class."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version

from nodes.engine.golden import sampling_digest

# What renders conversations, and what says which tokens a grammar allows.
_PACKAGES = ("Jinja2", "llguidance")


def software_digest() -> str:
    """16 hex digits of sampling as this process computes it, and of the versions of packages.

    A node without grammars is of another class than one with them, although only requests with a
    grammar can tell: classes are equal or not, and such a node would have to be of the class of
    every version.
    """
    parts = sampling_digest(), [_version(name) for name in _PACKAGES]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
