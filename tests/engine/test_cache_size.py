"""A cache begins small, doubles when it has to, and leaves memory to others."""

import pytest

from airdraft.nodes.engine.cache_size import CacheSize, first_cells
from airdraft.nodes.engine.metadata import original_context

MB = 1 << 20


def sized(limit: int, *, now: int = 4096, free_mb: int = 1 << 20) -> CacheSize:
    """The sizes of a cache whose cells have a kilobyte and whose model has 65,536 at most."""
    return CacheSize(now, limit, 65536, 1024, lambda: free_mb * MB)


def test_a_limit_is_what_was_asked_for_or_what_the_memory_allows() -> None:
    assert sized(20_000).limit == 20_224, "a multiple of 256"
    assert sized(0).limit == 65536
    assert sized(0, free_mb=40).limit == 20 * 1024
    assert sized(0, free_mb=1).limit == 4096, "not less than it has"
    assert CacheSize(4096, 0, 65536, 0, lambda: MB).limit == 65536, "its cells take no memory"


@pytest.mark.parametrize(
    ("wanted", "cells"), [(2048, 4096), (2049, 8192), (8000, 8192), (9000, 9000), (70_000, 65536)]
)
def test_it_doubles_before_what_is_wanted_fills_it(wanted: int, cells: int) -> None:
    assert sized(0).for_wanted(wanted, 0) == cells


def test_it_grows_only_into_memory_that_is_free_now() -> None:
    size = sized(65536, free_mb=256 + 10)
    assert size.most(0) == 4096 + 10 * 1024
    assert size.most(6 * 1024) == 4096 + 4 * 1024, "what is in use is copied"
    assert size.for_wanted(20_000, 0) == 4096 + 10 * 1024
    assert sized(65536, free_mb=100).most(0) == 4096


@pytest.mark.parametrize(("scaling", "context"), [("", 4096), ("longrope", 4096), ("yarn", 0)])
def test_the_positions_of_some_models_depend_on_the_size_of_their_cache(
    scaling: str, context: int
) -> None:
    keys = {
        "general.architecture": "phi3",
        "phi3.rope.scaling.original_context_length": "4096",
        "phi3.rope.scaling.type": scaling,
    }
    assert original_context(lambda key: keys.get(key, "")) == context
    assert original_context(lambda key: "llama" if key == "general.architecture" else "") == 0


def test_it_is_large_at_once_for_a_model_with_other_positions_in_a_large_cache() -> None:
    assert first_cells(4096, 0, 0) == 4096
    assert first_cells(4096, 2000, 0) == 2000
    assert first_cells(4096, 0, 8192) == 8193
    assert first_cells(4096, 8000, 8192) == 8000
