"""Our kernels predict as stock llama.cpp does: each rounds the same weights in its own way."""

from __future__ import annotations

from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from bench.kernels import Asked, measure
from nodes.catalog import DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.config.settings import environment

_TEXT = Path(__file__).parents[2] / "LICENSE"
# It lives as long as this process, and so is no leak of the test that first needs it.
resource_tracker.ensure_running()
_CATALOG = Catalog(default_cache_dir(environment()))


@pytest.mark.slow
@pytest.mark.skipif(not _CATALOG.has(DEFAULT_TARGET), reason="the default model is not here")
def test_a_real_text_is_as_likely_and_logits_are_close() -> None:
    asked = Asked(_CATALOG.path(DEFAULT_TARGET), threads=1, cells=16, tokens=500, texts=(_TEXT,))
    _, found = measure(asked)
    assert found is not None
    assert found.num_tokens == 499
    assert abs(found.difference) < max(1e-3, 3 * found.error)
    # Both round activations to 8 bits, and each is some 5e-3 away from exact arithmetic.
    assert found.divergence < 1e-2
    assert found.largest < 4
