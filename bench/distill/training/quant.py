"""Blocks of 32 values as Q4_0 keeps them, to train against what the file will hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_BLOCK = 32


@torch.no_grad()
def round_q4_0(values: Tensor) -> Tensor:
    """The values a Q4_0 file gives back: 4 bits each, a float16 scale a block of 32."""
    blocks = values.reshape(-1, _BLOCK)
    place = blocks.abs().argmax(1, keepdim=True)
    scale = blocks.gather(1, place) / -8.0
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1.0 / scale)
    steps = (blocks * inverse + 8.5).floor().clamp_(0, 15) - 8.0
    return (steps * scale.half().float()).reshape(values.shape)


@contextmanager
def fake_quantised(parameter: Tensor, *, enabled: bool) -> Iterator[None]:
    """Compute with the rounded values inside, update the exact ones after (straight through)."""
    if not enabled:
        yield
        return
    exact = parameter.detach().clone()
    with torch.no_grad():
        parameter.copy_(round_q4_0(exact))
    try:
        yield
    finally:
        with torch.no_grad():
            parameter.copy_(exact)
