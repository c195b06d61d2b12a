"""Several edge devices as one private endpoint for language models.

The public names are those of `airdraft.nodes.api`: `connect()`, `Client`, answers and errors. They
are imported when they are first used, for a node needs none of them.

The folders mesh, nodes and policies lie at the top of the repository, and links beside this file
lead to them (docs/design/index.md says why). In a wheel they are real folders.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import version

    from airdraft.nodes.api import *  # noqa: F403

    __version__ = version("airdraft")


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("importlib.metadata").version("airdraft")
    if name == "__all__" or not name.startswith("_"):
        public = import_module("airdraft.nodes.api")
        if name == "__all__" or name in public.__all__:
            return getattr(public, name)
    raise AttributeError(f"airdraft has no name {name!r}")
