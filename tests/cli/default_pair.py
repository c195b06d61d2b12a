"""The default pair, whose tests are left out where its files are not."""

import os
from pathlib import Path

import pytest

from nodes.catalog import DEFAULT_TARGET, Catalog, CatalogError, default_cache_dir


def default_target() -> Path | None:
    try:
        return Catalog(default_cache_dir(os.environ)).path(DEFAULT_TARGET)
    except CatalogError:
        return None


NEEDS_PAIR = [
    pytest.mark.model,
    pytest.mark.skipif(default_target() is None, reason="the default target is not installed"),
]
