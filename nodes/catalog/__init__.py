"""The model catalogue: names of models, the sources of their files, and the files stored here."""

from airdraft.nodes.catalog.entries import DEFAULT_DRAFT, DEFAULT_ENTRIES, DEFAULT_TARGET, Entry
from airdraft.nodes.catalog.errors import CatalogError, FetchError, ModelNameError
from airdraft.nodes.catalog.store import Catalog, default_cache_dir

__all__ = [
    "DEFAULT_DRAFT",
    "DEFAULT_ENTRIES",
    "DEFAULT_TARGET",
    "Catalog",
    "CatalogError",
    "Entry",
    "FetchError",
    "ModelNameError",
    "default_cache_dir",
]
