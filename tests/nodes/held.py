"""A model whose passes wait: what happens meanwhile does not depend on how fast it is."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import pytest

from airdraft.nodes.engine.protocol import Logits, Span
from airdraft.nodes.engine.toy import ToyModel


@contextlib.contextmanager
def held(model: ToyModel, after_passes: int = 0) -> Iterator[None]:
    """Let the model make so many passes more, and no others until the end of this."""
    goes_on, forward = threading.Event(), model.forward
    left = after_passes

    def waits(spans: Sequence[Span]) -> Logits:
        nonlocal left
        if not left:
            goes_on.wait()
        left = max(0, left - 1)
        return forward(spans)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "forward", waits)
        try:
            yield
        finally:
            goes_on.set()
