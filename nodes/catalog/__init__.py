"""The model catalogue: names, where their files come from, and the files on this machine."""

from nodes.catalog.entries import DEFAULT_DRAFT, DEFAULT_ENTRIES, DEFAULT_TARGET, Entry
from nodes.catalog.errors import CatalogError, FetchError, ModelNameError, TermsError
from nodes.catalog.store import Catalog, default_cache_dir

__all__ = [
    "DEFAULT_DRAFT",
    "DEFAULT_ENTRIES",
    "DEFAULT_TARGET",
    "Catalog",
    "CatalogError",
    "Entry",
    "FetchError",
    "ModelNameError",
    "TermsError",
    "default_cache_dir",
]
