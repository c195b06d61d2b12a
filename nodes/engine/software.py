"""A digest of the software that a text depends on beside the logits: part of the numerics class."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version

from nodes.engine.golden import sampling_digest

# Jinja2 renders conversations, and llguidance decides the tokens that a grammar allows.
_PACKAGES = ("Jinja2", "llguidance")


def software_digest() -> str:
    """Return 16 hex digits that depend on this process's sampling and on package versions.

    A node without llguidance gets another class than one with it, although only requests with a
    grammar show a difference. Otherwise it would have to belong to the classes of all versions of
    llguidance, but a node has one class.
    """
    parts = sampling_digest(), [_version(name) for name in _PACKAGES]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
